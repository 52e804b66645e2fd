//! A program that runs, and its end.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal};
use tokio::process::Child;

use crate::error::{Error, Result};

/// A running program that is killed, with its process group, when dropped.
#[derive(Debug)]
pub struct Process {
    pub(super) child: Child,
    pub(super) group: Pid,
    pub(super) outlives_us: bool,
}

impl Process {
    /// The process id.
    pub fn id(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Waits for the program to end.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        self.child
            .wait()
            .await
            .map_err(|error| Error::new("waiting for a program to end").cause(error))
    }

    /// Kills the whole group at once and waits until the program is gone.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.kill_group();
        self.wait().await
    }

    fn kill_group(&self) {
        // `id` is None once the child was waited for: then the number may belong to somebody else.
        if self.child.id().is_some() {
            // A group that has ended already is what we want.
            let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.outlives_us {
            self.kill_group();
        }
    }
}

/// Whether a program ended by a fault of its own: it aborted, or did what no program may. One that was killed did not.
pub fn crashed(status: ExitStatus) -> bool {
    let own = [
        Signal::ABORT,
        Signal::BUS,
        Signal::FPE,
        Signal::ILL,
        Signal::SEGV,
    ];
    let signal = status.signal();
    own.iter().any(|own| signal == Some(own.as_raw()))
}
