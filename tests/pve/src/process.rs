//! Programs that die with this one.

use rustix::process::Signal;
use tokio::process::Command;

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
