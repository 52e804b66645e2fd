//! Programs that die with this one.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// A program that is killed when its handle is dropped, and when the thread of the server ends, however it ends.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    command.kill_on_drop(true);
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only async-signal-safe system calls are made (prctl, getppid), and nothing is
    // allocated.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the request was in place.
            if rustix::process::getppid() != Some(parent) {
                return Err(rustix::io::Errno::OWNERDEAD.into());
            }
            Ok(())
        });
    }
    command
}

/// A program that is dead when this is dropped: what it was about to do does not come after its files were removed.
pub struct Mortal {
    child: Child,
    /// The first process of a namespace that the program waits for: all others of it are gone before this one is.
    first: Option<OwnedFd>,
}

impl Mortal {
    pub fn new(child: Child) -> Self {
        Mortal { child, first: None }
    }

    /// A program that waits for a process namespace, whose first process is this one.
    pub fn of_namespace(child: Child, first: OwnedFd) -> Self {
        let first = Some(first);
        Mortal { child, first }
    }

    /// 0 once it is gone.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    pub async fn ended(&mut self) {
        let _ = self.child.wait().await;
    }

    pub async fn kill(&mut self) {
        self.start_kill();
        self.ended().await;
    }

    /// What is gone already cannot be killed.
    fn start_kill(&mut self) {
        let _ = match &self.first {
            Some(first) => {
                rustix::process::pidfd_send_signal(first, Signal::KILL).map_err(Into::into)
            }
            None => self.child.start_kill(),
        };
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.start_kill();
        // A killed process is gone as soon as the kernel has time for it.
        while matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Runs a program to its end. What it said is the error if it fails.
pub async fn run(name: &str, arguments: &[&str]) -> Result<(), String> {
    let failed = |error: io::Error| format!("{name}: {error}");
    let mut command = command(name);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = Mortal::new(command.stderr(Stdio::piped()).spawn().map_err(failed)?);
    let mut said = String::new();
    if let Some(mut stderr) = child.child.stderr.take() {
        stderr.read_to_string(&mut said).await.map_err(failed)?;
    }
    match child.child.wait().await.map_err(failed)?.success() {
        true => Ok(()),
        false => Err(said.trim().to_owned()),
    }
}
