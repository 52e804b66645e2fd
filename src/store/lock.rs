//! Advisory file locks (flock): the kernel drops them when their owner dies, however it dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};

/// A lock on a file, exclusive or shared, held until dropped. The file stays behind on purpose: deleting lock files is
/// a race.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    /// Unlocks, where closing alone would not do: a program that is being started has a copy of every open file for a moment, and
    /// the lock would be held as long.
    fn drop(&mut self) {
        // Closing it does the rest.
        let _ = self.file.unlock();
    }
}

impl Lock {
    /// Takes the lock if nobody has it; `None` when somebody has.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).doing(|| format!("locking {}", path.display()))
            }
        }
    }

    /// Shares the lock if nobody has it exclusively; `None` when somebody has.
    pub fn try_share(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Lock { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).doing(|| format!("locking {}", path.display()))
            }
        }
    }

    /// Shares the lock on a file that is there, if nobody owns it; `None` when somebody does, or when it is gone. For
    /// files that are removed by who owns the lock.
    pub fn try_share_existing(path: &Path) -> Result<Option<Self>> {
        try_existing(path, File::try_lock_shared)
    }

    /// As [`Lock::try_share_existing`], exclusively.
    pub fn try_acquire_existing(path: &Path) -> Result<Option<Self>> {
        try_existing(path, File::try_lock)
    }

    /// Shares the lock on a new file that nobody else knows yet.
    pub fn share_new(file: File) -> Result<Self> {
        file.lock_shared().doing(|| "locking a new file")?;
        Ok(Lock { file })
    }

    /// Waits until the lock is free. Dropping the future gives up waiting.
    pub async fn acquire(path: PathBuf) -> Result<Self> {
        wait(path, File::lock).await
    }

    /// Waits until nobody holds the lock exclusively, then shares it with whoever else shares it. Dropping the future
    /// gives up waiting.
    pub async fn share(path: PathBuf) -> Result<Self> {
        wait(path, File::lock_shared).await
    }
}

fn try_existing(
    path: &Path,
    lock: fn(&File) -> std::result::Result<(), TryLockError>,
) -> Result<Option<Lock>> {
    use std::os::unix::fs::MetadataExt;
    let doing = || format!("locking {}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.doing(doing)?,
    };
    match lock(&file) {
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error).doing(doing),
        Ok(()) => {}
    }
    // Its owner may have removed it between the two calls.
    let ours = file.metadata().doing(doing)?.ino();
    let there = std::fs::metadata(path).is_ok_and(|there| there.ino() == ours);
    Ok(there.then_some(Lock { file }))
}

/// Waits on a thread of its own, not on one of the runtime's: a runtime that ends waits for its threads, and Ctrl-C
/// would hang for as long as the other process holds the lock.
async fn wait(path: PathBuf, lock: fn(&File) -> std::io::Result<()>) -> Result<Lock> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("lock".into())
        .spawn(move || {
            let locked = open(&path).and_then(|file| {
                lock(&file).doing(|| format!("locking {}", path.display()))?;
                Ok(Lock { file })
            });
            // Nobody listens any more when the future was dropped; the lock is then released here.
            let _ = sender.send(locked);
        })
        .doing(|| "starting a thread that waits for a lock")?;
    receiver.await.doing(|| "waiting for a lock")?
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

    #[test]
    fn a_lock_that_is_dropped_is_free_though_a_program_is_just_being_started() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::try_acquire(&path).unwrap().unwrap();
        // As a process has it between fork and exec.
        let _copy = held.file.try_clone().unwrap();
        drop(held);
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }

    #[tokio::test]
    async fn sharers_tolerate_each_other_and_exclude_an_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::share(path.clone()).await.unwrap();
        let second = Lock::share(path.clone()).await.unwrap();
        drop(first);
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        drop(second);
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }

    #[tokio::test]
    async fn giving_up_waiting_does_not_keep_the_lock_from_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::try_acquire(&path).unwrap();
        let limit = std::time::Duration::from_millis(20);
        let waited = tokio::time::timeout(limit, Lock::acquire(path.clone())).await;
        assert!(waited.is_err());
        drop(held);
        Lock::acquire(path).await.unwrap();
    }
}
