//! Advisory file locks (flock): the kernel drops them when their owner dies, however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// An exclusive lock, held until dropped. The file stays behind on purpose: deleting lock files is a race.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock if nobody has it; `None` when somebody has.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).doing(|| format!("locking {}", path.display()))
            }
        }
    }

    /// Waits until the lock is free. Dropping the future gives up waiting.
    pub async fn acquire(path: PathBuf) -> Result<Self> {
        tokio::task::spawn_blocking(move || {
            let file = open(&path)?;
            file.lock()
                .doing(|| format!("locking {}", path.display()))?;
            Ok(Lock { _file: file })
        })
        .await
        .map_err(|error| Error::new("waiting for a lock").caused_by(&error))?
    }
}

fn open(path: &Path) -> Result<File> {
    let doing = || format!("opening the lock file {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).doing(doing)?;
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/lock");
        let held = Lock::try_acquire(&path).unwrap();
        assert!(held.is_some());
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        drop(held);
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }
}
