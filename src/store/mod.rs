//! Where state lives: the folders, locks that die with their owner, and files written so that a crash leaves the old
//! or the new content, never half of it.

pub mod artifact;
pub mod dirs;
mod keyed_hash;
pub mod layers;
mod libvirt;
pub mod lock;
pub mod open_files;
pub mod outputs;
pub mod registry;
pub mod space;
mod stamp;

pub use dirs::Dirs;
pub use keyed_hash::KeyedHash;
pub use layers::Layers;
pub use lock::Lock;
pub use registry::Registry;
pub use stamp::Stamp;

use std::io::Write;
use std::path::Path;

use crate::error::{Context, Result};

/// Replaces `path` by `content` atomically and durably: written aside, synced, renamed, folder synced.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).doing(doing)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.join(format!(".{name}.{}.partial", std::process::id()));
    let written = std::fs::File::create(&aside)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&aside, path));
    if written.is_err() {
        // The write's own error is what matters; the file aside is removed on a best effort.
        let _ = std::fs::remove_file(&aside);
    }
    written.doing(doing)?;
    sync_folder(folder).doing(doing)
}

/// Creates a folder, and those above it, that only this user can look into: it will hold keys, disks and logs.
pub fn create_private_folder(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .doing(|| format!("creating {}", path.display()))
}

/// Makes renames and creations in `folder` durable.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_content_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("taken");
        std::fs::create_dir_all(target.join("not-empty")).unwrap();
        write_atomically(&target, b"new").unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(target.is_dir());
    }
}
