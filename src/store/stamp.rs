//! Telling without reading it whether a file is still the one that was hashed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Result};

/// A file changed within this time before it was looked at may change again without its times telling: a kernel's
/// clock ticks every few milliseconds, and some file systems keep whole seconds.
const TICK: Duration = Duration::from_secs(2);

/// What the kernel says about a file. A file whose stamp is the same has the same content: writing to it changes its
/// times, replacing it changes its inode, and the time of the last change (`ctime`) cannot be set by hand as `mtime`
/// can. That is good against accidents and other programs; who can write to the disk below the kernel is no concern
/// here, since they could change imgbuild as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    dev: u64,
    inode: u64,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000) + nanos;
        Stamp {
            dev: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime_ns: nanos(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The stamp of the file that is at `path` now.
    pub fn of_path(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).doing(|| format!("reading {}", path.display()))?;
        Ok(Stamp::of(&metadata))
    }

    /// Whether the file was last changed long enough before now for its times to tell any later change.
    pub fn is_settled(&self) -> bool {
        let changed = UNIX_EPOCH + Duration::from_nanos(self.ctime_ns.max(0).unsigned_abs());
        SystemTime::now()
            .duration_since(changed)
            .is_ok_and(|age| age >= TICK)
    }
}
