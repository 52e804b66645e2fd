//! A terminal with somebody at it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// What is waited for comes long before this, or never.
const AT_MOST: Duration = Duration::from_secs(180);

/// A program that runs on a terminal of its own.
pub struct Terminal {
    child: Child,
    /// What a person has: a keyboard, and the screen.
    person: File,
    /// What the program wrote, without what moves the cursor or colours it.
    shown: Vec<u8>,
    /// How much of that was waited for.
    read: usize,
    within: Within,
}

/// What the next byte belongs to.
enum Within {
    Text,
    /// Behind an escape.
    Escape,
    /// In a command to the terminal, which a letter ends.
    Command,
}

impl Terminal {
    /// Starts a program as the one in front on a new terminal: Ctrl-C is for it.
    pub fn start(command: &Command) -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let person = person.unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let size = Winsize {
            ws_row: 30,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&person, size).unwrap();
        let name = ptsname(&person, vec![]).unwrap().into_string().unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let end: OwnedFd = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        let end = || end.as_fd().try_clone_to_owned().unwrap();
        // It becomes the program, and keeps its number.
        let mut with_session = Command::new("setsid");
        with_session
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm")
            .env_remove("CI")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        if let Some(folder) = command.get_current_dir() {
            with_session.current_dir(folder);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => with_session.env(name, value),
                None => with_session.env_remove(name),
            };
        }
        Terminal {
            child: with_session.spawn().unwrap(),
            person: person.into(),
            shown: vec![],
            read: 0,
            within: Within::Text,
        }
    }

    /// Waits until the program shows this text, after what was waited for before; returns what came until then.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> String {
        let began = Instant::now();
        let mut searched = self.read;
        loop {
            let mut places = self.shown[searched..].windows(text.len());
            if let Some(at) = places.position(|shown| shown == text.as_bytes()) {
                let from = self.read;
                self.read = searched + at + text.len();
                return String::from_utf8_lossy(&self.shown[from..self.read]).into_owned();
            }
            // It may begin in what is there already.
            searched = searched.max((self.shown.len() + 1).saturating_sub(text.len()));
            let open = began.elapsed() < AT_MOST && self.look();
            if !open {
                let shown = String::from_utf8_lossy(&self.shown);
                let last: Vec<&str> = shown.lines().rev().take(9).collect();
                panic!("`{text}` was never shown; at the end, backwards:\n{last:#?}");
            }
        }
    }

    /// Takes what is shown next. `false` when nothing more will be.
    fn look(&mut self) -> bool {
        let mut fds = [PollFd::new(&self.person, PollFlags::IN)];
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        if poll(&mut fds, Some(&second)).unwrap() == 0 {
            return true;
        }
        let mut bytes = [0; 4096];
        // A terminal whose programs have ended is an error to read.
        let length = self.person.read(&mut bytes).unwrap_or(0);
        for byte in &bytes[..length] {
            self.show(*byte);
        }
        length > 0
    }

    fn show(&mut self, byte: u8) {
        self.within = match (&self.within, byte) {
            (Within::Text, 0x1b) => Within::Escape,
            (Within::Text, b'\r') => Within::Text,
            (Within::Text, byte) => {
                self.shown.push(byte);
                Within::Text
            }
            (Within::Escape, b'[') => Within::Command,
            (Within::Command, byte) if !byte.is_ascii_alphabetic() => Within::Command,
            (Within::Escape | Within::Command, _) => Within::Text,
        };
    }

    pub fn types(&mut self, keys: &str) {
        self.person.write_all(keys.as_bytes()).unwrap();
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end, and returns everything that was shown.
    pub fn end(mut self) -> (ExitStatus, String) {
        while self.look() {}
        let shown = String::from_utf8_lossy(&self.shown).into_owned();
        (self.child.wait().unwrap(), shown)
    }
}
