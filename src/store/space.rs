//! Is there room? Asked before a build begins, not by it failing after an hour.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use indicatif::BinaryBytes;

use crate::error::{Context, Error, Result};

/// Refuses when a file system has less room than what is asked of it in sum; paths need not exist yet.
pub fn require(needs: &[(PathBuf, u64)]) -> Result<()> {
    let mut by_device: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
    for (path, bytes) in needs {
        let existing = existing(path);
        let doing = || format!("looking at {}", existing.display());
        let device = std::fs::metadata(&existing).doing(doing)?.dev();
        let entry = by_device.entry(device).or_insert((existing, 0));
        entry.1 += bytes;
    }
    for (path, needed) in by_device.into_values() {
        let free = free(&path)?;
        if free < needed {
            return Err(Error::new("checking for free disk space")
                .cause(format!(
                    "this build needs about {}, and {} has {}",
                    BinaryBytes(needed),
                    path.display(),
                    BinaryBytes(free)
                ))
                .hint("`imgbuild image list` and `imgbuild cache list` show what is kept; IMGBUILD_HOME moves the cache to another disk"));
        }
    }
    Ok(())
}

/// Bytes that an ordinary user can still write on the file system of `path`.
pub fn free(path: &Path) -> Result<u64> {
    let about = rustix::fs::statvfs(path).doing(|| format!("looking at {}", path.display()))?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}

fn existing(path: &Path) -> PathBuf {
    let mut ancestors = path.ancestors();
    let found = ancestors.find(|path| path.exists());
    found.map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_on_one_file_system_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let free = free(folder.path()).unwrap();
        let need = |bytes| (folder.path().join("not/there/yet"), bytes);
        require(&[need(1), need(1)]).unwrap();
        let error = require(&[need(free / 4 * 3), need(free / 4 * 3)]).unwrap_err();
        assert!(
            error.to_string().contains("this build needs about"),
            "{error}"
        );
    }
}
