//! Programs that die with this one.

use std::io;
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

/// A program that is dead when this is dropped: what it was about to write does not come after its files were removed.
struct Mortal(Child);

impl Drop for Mortal {
    fn drop(&mut self) {
        let _ = self.0.start_kill();
        // A killed process is gone as soon as the kernel has time for it.
        while matches!(self.0.try_wait(), Ok(None)) {
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
    let mut child = Mortal(command.stderr(Stdio::piped()).spawn().map_err(failed)?);
    let mut said = String::new();
    if let Some(mut stderr) = child.0.stderr.take() {
        stderr.read_to_string(&mut said).await.map_err(failed)?;
    }
    match child.0.wait().await.map_err(failed)?.success() {
        true => Ok(()),
        false => Err(said.trim().to_owned()),
    }
}
