//! Where a disk is that is to be read.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use super::apart::{self, DEADLINE};
use super::{Disk, Remote};
use crate::error::Result;
use crate::source::Format;

/// Where a disk is, for the thread that will read it.
#[derive(Clone)]
pub enum Origin {
    /// An image file that stands alone.
    File { path: PathBuf, format: Format },
    /// Somewhere from where its bytes are fetched.
    Remote(Remote),
}

impl Origin {
    /// Opens the disk and does `work` with it, on a thread called `name`; `doing` goes into errors.
    pub async fn read<T: Send + 'static>(
        &self,
        name: &str,
        doing: impl Into<String>,
        work: impl FnOnce(Disk) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let patience = match self {
            Origin::File { .. } => DEADLINE,
            Origin::Remote(remote) => remote.patience(),
        };
        let origin = self.clone();
        let work = move |deadline| work(origin.open(deadline)?);
        apart::within(patience, name, doing.into(), work).await
    }

    fn open(&self, deadline: Instant) -> Result<Disk> {
        match self {
            Origin::File { path, format } => Disk::open(path, *format, deadline),
            Origin::Remote(remote) => Ok(Disk::remote(remote.clone(), deadline)),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, .. } => write!(f, "{}", path.display()),
            Origin::Remote(remote) => f.write_str(remote.name()),
        }
    }
}
