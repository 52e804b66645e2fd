//! Which files are open or locked by any process: what a machine runs on must not be removed.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Context, Result};

/// A file, whatever its names are: device and inode.
pub(super) type Id = (u64, u64);

/// What was open at one moment.
pub struct OpenFiles(HashMap<Id, String>);

impl OpenFiles {
    /// Asks the kernel. Of other users' processes only root sees what they have open; what they have locked, as QEMU does
    /// with every image of a running machine down to the lowest, everybody sees.
    pub fn now() -> Result<Self> {
        let mut open = HashMap::new();
        let locks = std::fs::read_to_string("/proc/locks").doing(|| "reading /proc/locks")?;
        for id in locks.lines().filter_map(locked) {
            open.insert(id, "a process that has locked it".to_owned());
        }
        let processes = std::fs::read_dir("/proc").doing(|| "reading /proc")?;
        let own = std::process::id().to_string();
        for process in processes.flatten() {
            let pid = process.file_name().to_string_lossy().into_owned();
            if pid == own || !pid.chars().all(|c| c.is_ascii_digit()) {
                continue;
            }
            // One that has ended, or is another user's.
            let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
                continue;
            };
            let files = descriptors.flatten().filter_map(|descriptor| {
                let about = std::fs::metadata(descriptor.path()).ok()?;
                about.is_file().then(|| (about.dev(), about.ino()))
            });
            let files: Vec<Id> = files.collect();
            if files.is_empty() {
                continue;
            }
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let name = format!("{} (process {pid})", crate::text::printable(name.trim()));
            for id in files {
                open.insert(id, name.clone());
            }
        }
        Ok(OpenFiles(open))
    }

    /// Who has a file open, if somebody has.
    pub(super) fn holder(&self, file: Id) -> Option<&str> {
        self.0.get(&file).map(String::as_str)
    }
}

/// The file at a path, if there is one.
pub(super) fn id(path: &Path) -> Option<Id> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.dev(), about.ino()))
}

/// The file of a line of `/proc/locks` (proc_locks(5)): its sixth field is `MAJOR:MINOR:INODE`, the first two in hexadecimal
/// digits. A line of somebody who waits has `->` before the kind of lock.
fn locked(line: &str) -> Option<Id> {
    let mut fields = line.split_ascii_whitespace().filter(|field| *field != "->");
    let mut parts = fields.nth(5)?.split(':');
    let major = u32::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u32::from_str_radix(parts.next()?, 16).ok()?;
    let inode = parts.next()?.parse().ok()?;
    Some((rustix::fs::makedev(major, minor), inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(path: &Path) -> Option<String> {
        let open = OpenFiles::now().unwrap();
        open.holder(id(path).unwrap()).map(str::to_owned)
    }

    #[test]
    fn lines_of_locks_are_understood() {
        for line in [
            "1: OFDLCK ADVISORY  READ -1 fd:01:1234 100 101",
            "2: POSIX  ADVISORY  WRITE 3568 fd:01:1234 0 EOF",
            "2: -> FLOCK  ADVISORY  WRITE 3570 fd:01:1234 0 EOF",
        ] {
            assert_eq!(
                locked(line),
                Some((rustix::fs::makedev(0xfd, 1), 1234)),
                "{line}"
            );
        }
        assert_eq!(locked("3: DELEG ACTIVE"), None);
    }

    #[test]
    fn a_file_that_another_process_has_open_is_told_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let file = std::fs::File::create(&path).unwrap();
        assert_eq!(holder(&path), None, "it is our own");
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .stdin(file)
            .spawn()
            .unwrap();
        // By another name, too.
        let other = folder.path().join("other");
        std::fs::hard_link(&path, &other).unwrap();
        let expected = format!("sleep (process {})", child.id());
        let found = holder(&other);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, Some(expected));
        assert_eq!(holder(&path), None);
    }

    #[test]
    fn a_lock_is_seen_wherever_it_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let file = std::fs::File::create(&path).unwrap();
        file.lock_shared().unwrap();
        assert!(holder(&path).is_some());
    }
}
