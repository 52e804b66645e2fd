//! The guest's tree of files as it would be mounted, read without mounting anything.
//!
//! Paths are resolved here rather than by `ext4-view`, for two reasons: a link may lead into another file system, and
//! the crate would allocate whatever length a crafted link claims to have.

use std::collections::VecDeque;

use ext4_view::{Ext4, Ext4Error, FileType, Metadata};

use super::pattern::{matches, split};
use crate::disk::{Slice, Superblock};
use crate::error::{Error, Result};

const MAX_LINKS: usize = 40;
const MAX_PATH: usize = 4096;
/// A directory or file list larger than this is not a guest's, but an attack.
const MAX_DIRECTORY: u64 = 64 << 20;
const MAX_ENTRIES: usize = 500_000;
/// Directories within directories; deeper is a ring of them.
const MAX_DEPTH: usize = 200;

/// One ext2/3/4 file system.
pub(super) struct FileSystem {
    pub fs: Ext4,
    /// Why the file system was not left clean, if so.
    pub dirty: Option<&'static str>,
}

/// The root file system and what `/etc/fstab` mounts into it.
pub struct Guest {
    /// Mount points without a trailing slash (the root is empty), longest first.
    mounts: Vec<(Vec<u8>, Ext4)>,
}

/// One entry of a directory.
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: FileType,
    inner: ext4_view::DirEntry,
}

impl Entry {
    /// Owner, size and mode.
    pub fn metadata(&self) -> Result<Metadata> {
        self.inner
            .metadata()
            .map_err(|error| unreadable(self.inner.path().as_ref(), &error))
    }
}

/// Why a file system cannot be opened.
pub(super) enum Refused {
    /// It uses features that `ext4-view` does not know: nothing wrong with it.
    Unsupported(String),
    /// It was not left clean, for this reason, and cannot be read as it is.
    Dirty(&'static str),
    /// It is damaged.
    Damaged(String),
}

impl<T: ToString> From<T> for Refused {
    fn from(cause: T) -> Refused {
        Refused::Damaged(cause.to_string())
    }
}

/// Opens an ext2/3/4 file system.
pub(super) fn open(slice: &Slice) -> Result<FileSystem, Refused> {
    // ext4-view makes room for all group descriptors before it reads any.
    let dirty = Superblock::read(slice)?.dirty();
    match (Ext4::load(Box::new(slice.clone())), dirty) {
        (Ok(fs), dirty) => Ok(FileSystem { fs, dirty }),
        (Err(_), Some(dirty)) => Err(Refused::Dirty(dirty)),
        (Err(Ext4Error::Incompatible(cause)), None) => Err(Refused::Unsupported(cause.to_string())),
        (Err(error), None) => Err(error.into()),
    }
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn unreadable(path: &[u8], error: &Ext4Error) -> Error {
    Error::new(format!("reading {} in the sealed image", show(path)))
        .cause(error)
        .hint("the image may be damaged; build it again")
}

fn too_much(path: &[u8], what: &str) -> Error {
    Error::new(format!("reading {} in the sealed image", show(path))).cause(what)
}

/// `None` for what does not exist.
fn optional<T>(path: &[u8], result: Result<T, Ext4Error>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    [dir, b"/", name].concat()
}

impl Guest {
    /// A guest with only its root file system.
    pub(super) fn new(root: Ext4) -> Guest {
        Guest {
            mounts: vec![(vec![], root)],
        }
    }

    /// Adds the file system mounted at `point`.
    pub(super) fn mount(&mut self, point: &[u8], fs: Ext4) {
        let trimmed = point.trim_ascii_end();
        let trimmed = trimmed.strip_suffix(b"/").unwrap_or(trimmed);
        self.mounts.push((trimmed.to_vec(), fs));
        self.mounts
            .sort_by_key(|(point, _)| std::cmp::Reverse(point.len()));
    }

    /// Where a path without links lies.
    fn locate(&self, path: &[u8]) -> (&Ext4, Vec<u8>) {
        for (point, fs) in &self.mounts {
            match path.strip_prefix(point.as_slice()) {
                Some(b"") => return (fs, b"/".to_vec()),
                Some(rest) if rest[0] == b'/' => return (fs, rest.to_vec()),
                _ => {}
            }
        }
        // The root's empty mount point is a prefix of everything, and paths start with a slash.
        let (_, root) = &self.mounts[self.mounts.len() - 1];
        (root, path.to_vec())
    }

    fn lstat(&self, path: &[u8]) -> Result<Option<Metadata>> {
        let (fs, inner) = self.locate(path);
        match ext4_view::Path::try_from(inner.as_slice()) {
            Ok(inner) => optional(path, fs.symlink_metadata(inner)),
            Err(_) => Ok(None),
        }
    }

    /// `path` with every link followed (the last one too if `follow`), and what is there. `None` if nothing is.
    fn resolve(&self, path: &[u8], follow: bool) -> Result<Option<(Vec<u8>, Metadata)>> {
        let mut todo: VecDeque<Vec<u8>> = split(path).map(<[u8]>::to_vec).collect();
        let mut done = vec![];
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                let up = done.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                done.truncate(up);
                continue;
            }
            let next = join(&done, &name);
            if next.len() > MAX_PATH {
                return Ok(None);
            }
            match self.lstat(&next)? {
                None => return Ok(None),
                Some(found) if found.is_symlink() && (follow || !todo.is_empty()) => {
                    links += 1;
                    if links > MAX_LINKS || found.len() > MAX_PATH as u64 {
                        return Ok(None);
                    }
                    let (fs, inner) = self.locate(&next);
                    let inner = ext4_view::Path::try_from(inner.as_slice()).map_err(|error| {
                        Error::new("resolving a link in the sealed image").cause(error)
                    })?;
                    let Some(target) = optional(&next, fs.read_link(inner))? else {
                        return Ok(None);
                    };
                    let target: &[u8] = target.as_ref();
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    for name in split(target).collect::<Vec<_>>().into_iter().rev() {
                        todo.push_front(name.to_vec());
                    }
                }
                Some(_) => done = next,
            }
        }
        if done.is_empty() {
            done.push(b'/');
        }
        let metadata = self.lstat(&done)?;
        Ok(metadata.map(|metadata| (done, metadata)))
    }

    /// What is at `path`, not following a link there.
    pub fn metadata(&self, path: &[u8]) -> Result<Option<Metadata>> {
        Ok(self.resolve(path, false)?.map(|(_, metadata)| metadata))
    }

    /// Up to `limit` bytes of the regular file that `path` leads to; `None` if there is none.
    pub fn read(&self, path: &[u8], limit: usize) -> Result<Option<Vec<u8>>> {
        let Some((path, metadata)) = self.resolve(path, true)? else {
            return Ok(None);
        };
        if !metadata.file_type().is_regular_file() {
            return Ok(None);
        }
        let (fs, inner) = self.locate(&path);
        let Ok(inner) = ext4_view::Path::try_from(inner.as_slice()) else {
            return Ok(None);
        };
        let Some(mut file) = optional(&path, fs.open(inner))? else {
            return Ok(None);
        };
        let len = usize::try_from(metadata.len())
            .unwrap_or(usize::MAX)
            .min(limit);
        let mut data = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match file.read_bytes(&mut data[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) => return Err(unreadable(&path, &error)),
            }
        }
        data.truncate(filled);
        Ok(Some(data))
    }

    /// Where the link at `path` leads; `None` if there is none.
    pub fn link(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.resolve(path, false)?;
        let short = found.filter(|(_, found)| found.is_symlink() && found.len() <= MAX_PATH as u64);
        let Some((path, _)) = short else {
            return Ok(None);
        };
        let (fs, inner) = self.locate(&path);
        let Ok(inner) = ext4_view::Path::try_from(inner.as_slice()) else {
            return Ok(None);
        };
        let target = optional(&path, fs.read_link(inner))?;
        Ok(target.map(|target| target.as_ref().to_vec()))
    }

    /// The entries of the directory that `path` leads to, without `.` and `..`; none if there is no such directory.
    pub(super) fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        match self.resolve(path, true)? {
            Some((path, metadata)) if metadata.is_dir() => {
                self.list_resolved(&path, metadata.len())
            }
            _ => Ok(vec![]),
        }
    }

    fn list_resolved(&self, path: &[u8], len: u64) -> Result<Vec<Entry>> {
        if len > MAX_DIRECTORY {
            return Err(too_much(path, "the directory claims an absurd size"));
        }
        let (fs, inner) = self.locate(path);
        let Ok(inner) = ext4_view::Path::try_from(inner.as_slice()) else {
            return Ok(vec![]);
        };
        let mut entries = vec![];
        for entry in fs
            .read_dir(inner)
            .map_err(|error| unreadable(path, &error))?
        {
            let entry = entry.map_err(|error| unreadable(path, &error))?;
            let name = entry.file_name().as_ref().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = entry
                .file_type()
                .map_err(|error| unreadable(path, &error))?;
            entries.push(Entry {
                name,
                kind,
                inner: entry,
            });
            if entries.len() > MAX_ENTRIES {
                return Err(too_much(path, "the directory has absurdly many entries"));
            }
        }
        Ok(entries)
    }

    /// The paths that match a pattern of [`crate::seal::rules`].
    pub fn glob(&self, pattern: &str) -> Result<Vec<Vec<u8>>> {
        let mut found = vec![vec![]];
        for part in split(pattern.as_bytes()) {
            let mut next = vec![];
            for dir in found {
                if part.contains(&b'*') {
                    let names = self.list(&dir)?.into_iter().map(|entry| entry.name);
                    next.extend(
                        names
                            .filter(|name| matches(part, name))
                            .map(|name| join(&dir, &name)),
                    );
                } else {
                    next.push(join(&dir, part));
                }
            }
            found = next;
        }
        let mut present = vec![];
        for path in found {
            if self.metadata(&path)?.is_some() {
                present.push(path);
            }
        }
        present.sort();
        Ok(present)
    }

    /// Visits everything below `dir`, links not followed, mount points once. Returns how many entries it saw.
    pub fn walk(
        &self,
        dir: &[u8],
        visit: &mut dyn FnMut(&[u8], &Entry) -> Result<()>,
    ) -> Result<usize> {
        let Some((start, metadata)) = self.resolve(dir, true)?.filter(|(_, found)| found.is_dir())
        else {
            return Ok(0);
        };
        let start = if start == b"/" { vec![] } else { start };
        let mut seen = 0;
        let mut todo = vec![(start, metadata.len())];
        while let Some((dir, len)) = todo.pop() {
            let listed = if dir.is_empty() { b"/" } else { dir.as_slice() };
            for entry in self.list_resolved(listed, len)? {
                seen += 1;
                let path = join(&dir, &entry.name);
                if split(&path).count() > MAX_DEPTH || seen > MAX_ENTRIES * 10 {
                    return Err(too_much(
                        &path,
                        "the tree has absurdly many entries, or no end",
                    ));
                }
                visit(&path, &entry)?;
                if entry.kind.is_dir()
                    && let Some(metadata) = self.lstat(&path)?
                    && metadata.is_dir()
                {
                    todo.push((path, metadata.len()));
                }
            }
        }
        Ok(seen)
    }
}
