//! Looking at a machine's own disk, from its guest.
//!
//! That takes root, which nobody can become once the guest is sealed: so what reads the disk is started before, and waits. After
//! the seal the file systems are frozen. A read-only remount would not do: the kernel refuses it while a file is open for
//! writing or was deleted while it is open, and where it is forced to (`sysrq u`), ext4 with an orphan file and such a deleted
//! file marks itself as damaged. A frozen file system is whole, its journal is empty, and what wants to write waits for ever, so
//! the guest can neither shut down nor be worked in any more.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::future::try_join;

use super::device::Device;
use super::reader::{Reader, stand_by};
use crate::backend::proxmox::machine::hardware;
use crate::disk::Origin;
use crate::error::{Error, Result};
use crate::run::Run;
use crate::ssh::{Dialogue, SshSession};
use crate::text::Lines;

/// Freezes a guest's file systems, and tells whether its disk has stayed as it was.
const STILL: &str = include_str!("still.sh");

/// The line that it says when all is well.
const WELL: &str = "still";

/// How long that may take: the guest writes what it has held back.
const FREEZING: Duration = Duration::from_secs(10 * 60);

/// A guest that is about to be sealed, in which all is ready for reading its disk afterwards.
pub struct Inside {
    still: Dialogue,
    reader: Reader,
}

impl Inside {
    /// Starts what will read the disk of the machine `vmid`, on connections of its own beside `session`.
    ///
    /// Errors: the guest does not show the disk as one of SCSI; a connection fails.
    pub async fn prepare(session: &mut SshSession, vmid: u32) -> Result<Self> {
        let device = Device::own(session, &format!("drive-{}", hardware::DISK)).await?;
        let name = format!("the disk of the machine {vmid}");
        let (still, reader) = try_join(
            stand_by(session, STILL, &[&device.name]),
            Reader::start(device.clone(), name, session),
        )
        .await?;
        Ok(Inside { still, reader })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.reader.size()
    }

    /// Leaves the disk as it is from now on. The machine can only be stopped by force after this.
    pub async fn freeze(&mut self) -> Result<()> {
        let frozen = still(&mut self.still).await;
        frozen.map_err(|error| {
            Error::new("freezing the file systems of the sealed guest")
                .cause(error)
                .hint("unmount what is in the way in a step, or leave out `helper = false`")
        })
    }

    /// Gives the frozen disk to `work`, and takes the sha256 of its content meanwhile.
    ///
    /// Errors: those of [`Reader::read`]; something was written to the disk all the same.
    pub async fn read<T>(
        mut self,
        run: &Run,
        work: impl AsyncFnOnce(&Origin) -> Result<T>,
    ) -> Result<(T, String)> {
        let read = self.reader.read(run, work).await?;
        let stayed = async {
            still(&mut self.still).await.map_err(|error| {
                Error::new("reading the disk of the sealed guest")
                    .cause(error)
                    .hint("if something was written, stop in a step what writes past the file systems; or leave out `helper = false`")
            })
        };
        run.phase("look for changes", stayed).await?;
        Ok(read)
    }
}

/// Has the command do what is next. Its first line is the answer; its end is not waited for.
async fn still(dialogue: &mut Dialogue) -> io::Result<()> {
    let (mut lines, mut answer) = (Lines::default(), None);
    let mut output = |bytes: &[u8]| {
        lines.feed(bytes, |line| {
            answer.get_or_insert_with(|| line.to_owned());
        });
        match answer {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    };
    dialogue.hear(b"\n", &mut output, FREEZING).await?;
    match answer.unwrap_or_default() {
        answer if answer == WELL => Ok(()),
        answer => Err(io::Error::other(answer)),
    }
}
