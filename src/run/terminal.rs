//! The terminal of whoever started imgbuild: one question at a time, answered by a line that was typed after it.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::termios::{
    LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcsetattr,
};
use tokio::sync::Mutex;

/// Builds run side by side, but there is one keyboard: the next question is asked when this one has its answer.
static ASKING: Mutex<()> = Mutex::const_new(());

/// More than a terminal gives of one line.
const LONGEST: usize = 4096;

/// Asks, by `ask`, on the terminal that stdin is, and waits for a line. It is empty if the terminal went away.
///
/// Whoever drops this takes the question back: nothing goes on reading what is typed for the next one.
pub async fn answer(ask: impl FnOnce()) -> String {
    let _turn = ASKING.lock().await;
    line(std::io::stdin(), ask).await.unwrap_or_default()
}

/// As [`answer`], for what nobody may see: it is not echoed.
pub async fn secret(ask: impl FnOnce()) -> io::Result<String> {
    let _turn = ASKING.lock().await;
    let _silence = Silence::of(std::io::stdin().as_fd().try_clone_to_owned()?)?;
    line(std::io::stdin(), ask).await
}

/// A terminal that does not echo while this lives.
struct Silence {
    terminal: OwnedFd,
    before: Termios,
}

impl Silence {
    fn of(terminal: OwnedFd) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Now, &silent)?;
        Ok(Silence { terminal, before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that went away echoes nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

async fn line(terminal: impl AsFd, ask: impl FnOnce()) -> io::Result<String> {
    // A line that was typed before there was a question is no answer to it.
    tcflush(&terminal, QueueSelector::IFlush)?;
    ask();
    let terminal = terminal.as_fd().try_clone_to_owned()?;
    // A thread cannot be stopped while it reads. This one ends when it is told through a pipe.
    let (taken_back, wanted) = io::pipe()?;
    let _wanted = Wanted(wanted);
    let line = tokio::task::spawn_blocking(move || read(&terminal, &taken_back)).await;
    line.map_err(io::Error::other)?
}

/// A question that somebody waits for. The reader is told by a byte when it is dropped, not by the end of the pipe: a program
/// that is being started holds a copy of our end for a moment, in which an answer to the next question may come.
struct Wanted(PipeWriter);

impl Drop for Wanted {
    fn drop(&mut self) {
        // A reader that is gone reads nothing.
        let _ = self.0.write(&[0]);
    }
}

/// One line, which is as much as a terminal gives at a time.
fn read(terminal: &OwnedFd, taken_back: &PipeReader) -> io::Result<String> {
    let mut fds = [
        PollFd::new(taken_back, PollFlags::IN),
        PollFd::new(terminal, PollFlags::IN),
    ];
    retry_on_intr(|| poll(&mut fds, None))?;
    if !fds[0].revents().is_empty() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let mut bytes = [0; LONGEST];
    let length = rustix::io::read(terminal, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::fs::File;
    use std::time::Duration;

    /// The keyboard, and the terminal that programs see.
    fn terminal() -> (File, File) {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, vec![]).unwrap().into_string().unwrap();
        let terminal = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(name, terminal, Mode::empty()).unwrap();
        (keyboard.into(), terminal.into())
    }

    #[tokio::test]
    async fn a_line_answers_only_a_question_that_was_asked() {
        let (mut keyboard, terminal) = terminal();
        keyboard.write_all(b"too early\n").unwrap();
        // What is typed takes its time to arrive.
        poll(&mut [PollFd::new(&terminal, PollFlags::IN)], None).unwrap();
        let ask = || keyboard.write_all(b"yes\n").unwrap();
        assert_eq!(line(&terminal, ask).await.unwrap(), "yes\n");
    }

    #[tokio::test]
    async fn a_question_that_was_taken_back_does_not_swallow_the_next_answer() {
        let (mut keyboard, terminal) = terminal();
        let dropped = line(&terminal, || {});
        let nobody = tokio::time::timeout(Duration::from_millis(50), dropped).await;
        assert!(nobody.is_err());
        let ask = || keyboard.write_all(b"second\n").unwrap();
        let answered = line(&terminal, ask);
        let answered = tokio::time::timeout(Duration::from_secs(10), answered).await;
        assert_eq!(answered.expect("it was swallowed").unwrap(), "second\n");
    }

    #[test]
    fn a_secret_is_not_echoed_and_what_is_typed_after_it_is() {
        let (_keyboard, terminal) = terminal();
        let echoes = || {
            let modes = tcgetattr(&terminal).unwrap().local_modes;
            modes.contains(LocalModes::ECHO)
        };
        assert!(echoes());
        let silence = Silence::of(terminal.try_clone().unwrap().into()).unwrap();
        assert!(!echoes());
        drop(silence);
        assert!(echoes());
    }

    #[tokio::test]
    async fn a_terminal_that_goes_away_ends_the_question() {
        let (keyboard, terminal) = terminal();
        let answered = line(&terminal, move || drop(keyboard)).await;
        assert_eq!(answered.unwrap_or_default(), "");
    }
}
