//! Files, read from the two disks without booting or mounting them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ext4_view::FileType;
use serde::Serialize;

use super::shown;
use crate::disk::{self, Disk};
use crate::error::{Error, Result};
use crate::seal::{self, Guest};
use crate::source::Format;

/// Files larger than this are not read: of two of the same size, the time of the last change tells whether they are the same.
const MAX_READ: u64 = 64 << 20;

/// What is different in the trees of files of two guests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FileChanges {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    /// What of each is different: `content`, `kind`, `mode`, `owner`, `target` (of a link).
    pub changed: BTreeMap<String, Vec<&'static str>>,
    /// Partitions that could not be read.
    pub unread: Vec<String>,
}

/// What is known of a file without reading it.
#[derive(PartialEq)]
struct About {
    kind: FileType,
    mode: u16,
    owner: (u32, u32),
    len: u64,
    changed: ext4_view::Timestamp,
    made: Option<ext4_view::Timestamp>,
}

impl About {
    /// Whether it tells that the content is the same, too: a file that both have from the base image was made there at the same
    /// nanosecond. Packages set the time of the last change, to whole seconds, and nobody sets when a file was made.
    fn is_same_file(&self, other: &About) -> bool {
        let known = self.made.is_some_and(|made| made.nanoseconds() != 0);
        known && self == other
    }
}

/// Compares the files on two disk images that stand alone.
///
/// Errors: a disk has no root file system that can be read; reading takes far too long.
pub async fn files(old: (PathBuf, Format), new: (PathBuf, Format)) -> Result<FileChanges> {
    disk::read_apart("compare", "comparing files", move |deadline| {
        let mut files = FileChanges::default();
        let mut open = |(path, format): (PathBuf, Format)| {
            let disk = Disk::open(&path, format, deadline)?;
            let (guest, unread) = seal::guest(&disk)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let unread = unread.into_iter();
            let unread =
                unread.map(|unread| format!("{name}: {} ({})", unread.partition, unread.kind));
            files.unread.extend(unread);
            guest.ok_or_else(|| {
                Error::new(format!("comparing the files in {}", path.display()))
                    .cause("it has no root file system that can be read offline")
                    .hint("ext2, ext3 and ext4 can be")
            })
        };
        let (old, new) = (open(old)?, open(new)?);
        compare(&old, &new, &mut files)?;
        Ok(files)
    })
    .await
}

fn compare(old: &Guest, new: &Guest, files: &mut FileChanges) -> Result<()> {
    let mut before = tree(old)?;
    for (path, now) in tree(new)? {
        let Some(was) = before.remove(&path) else {
            files.added.push(shown(&path));
            continue;
        };
        if was.is_same_file(&now) {
            continue;
        }
        let different = differences((old, &was), (new, &now), &path)?;
        if !different.is_empty() {
            files.changed.insert(shown(&path), different);
        }
    }
    files.removed.extend(before.keys().map(|path| shown(path)));
    Ok(())
}

fn tree(guest: &Guest) -> Result<BTreeMap<Vec<u8>, About>> {
    let mut tree = BTreeMap::new();
    guest.walk(b"/", &mut |path, entry| {
        let found = entry.metadata()?;
        let about = About {
            kind: entry.kind,
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            len: found.len(),
            changed: found.modified(),
            made: found.created(),
        };
        tree.insert(path.to_vec(), about);
        Ok(())
    })?;
    Ok(tree)
}

fn differences(
    (old, was): (&Guest, &About),
    (new, now): (&Guest, &About),
    path: &[u8],
) -> Result<Vec<&'static str>> {
    let mut different = vec![];
    if was.kind != now.kind {
        different.push("kind");
    } else if was.kind == FileType::Symlink {
        if old.link(path)? != new.link(path)? {
            different.push("target");
        }
    } else if was.kind.is_regular_file() && other_content((old, was), (new, now), path)? {
        different.push("content");
    }
    if was.mode != now.mode {
        different.push("mode");
    }
    if was.owner != now.owner {
        different.push("owner");
    }
    Ok(different)
}

fn other_content(
    (old, was): (&Guest, &About),
    (new, now): (&Guest, &About),
    path: &[u8],
) -> Result<bool> {
    if was.len != now.len {
        return Ok(true);
    }
    if was.len > MAX_READ {
        return Ok(was.changed != now.changed);
    }
    // Bounded above, so it fits.
    let limit = usize::try_from(MAX_READ).unwrap_or(usize::MAX);
    Ok(old.read(path, limit)? != new.read(path, limit)?)
}
