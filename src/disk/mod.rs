//! Random access to the bytes of a disk as the guest saw them, and what lies there: partitions, file systems, and the
//! blocks that these do not use. Read in process, without root, and without trust in what the guest left there.

mod apart;
mod ext;
mod free;
mod image;
mod origin;
mod partitions;
mod qcow2;
mod remote;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

pub use apart::read_apart;
pub use ext::Superblock;
pub use free::{Free, Left, free_blocks};
use image::{Extent, Image};
pub use origin::Origin;
pub use partitions::{Content, Part, content, partitions};
pub use qcow2::backing_file;
pub use remote::{CHUNK, Fetch, Remote};

use crate::error::{Error, Result};
use crate::source::Format;

/// A disk opened for reading. Clones share it.
#[derive(Clone)]
pub struct Disk(Arc<Inner>);

struct Inner {
    image: Image,
    deadline: Instant,
}

impl Disk {
    /// Opens an image that stands alone. No read succeeds after `deadline`: a crafted file system must not keep its
    /// reader busy for ever.
    pub fn open(path: &Path, format: Format, deadline: Instant) -> Result<Disk> {
        Disk::opened(path, Image::open(path, format, 0), deadline)
    }

    /// Opens a qcow2 image with the images beneath it.
    pub fn open_overlay(path: &Path, deadline: Instant) -> Result<Disk> {
        let image = Image::open(path, Format::Qcow2, image::MAX_DEPTH);
        Disk::opened(path, image, deadline)
    }

    /// A disk whose bytes are fetched. Nothing is yet.
    fn remote(remote: Remote, deadline: Instant) -> Disk {
        let image = Image::Remote(remote);
        Disk(Arc::new(Inner { image, deadline }))
    }

    fn opened(path: &Path, image: io::Result<Image>, deadline: Instant) -> Result<Disk> {
        let failed =
            |error| Error::new(format!("opening the disk image {}", path.display())).cause(error);
        let image = image.map_err(failed)?;
        Ok(Disk(Arc::new(Inner { image, deadline })))
    }

    /// Size of the disk as the guest sees it.
    pub fn size(&self) -> u64 {
        self.0.image.len()
    }

    /// Fills `buf` from `offset`; an error when that reaches past the end.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.in_time()?;
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.size()) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("offset {offset} is past the end of the disk"),
            ));
        }
        self.0.image.read_at(offset, buf)
    }

    /// Up to `len` bytes from `offset`; fewer at the end of the disk.
    pub fn read_up_to(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut buf = vec![0; len.min(left)];
        self.read_at(offset, &mut buf)?;
        Ok(buf)
    }

    /// What the image's tables say about the bytes from `offset` on.
    fn extent(&self, offset: u64) -> io::Result<Extent> {
        self.in_time()?;
        self.0.image.extent(offset)
    }

    fn in_time(&self) -> io::Result<()> {
        match Instant::now() > self.0.deadline {
            true => Err(io::Error::other("reading the disk takes far too long")),
            false => Ok(()),
        }
    }
}

/// One partition, or a whole disk, seen as a disk of its own.
#[derive(Clone)]
pub struct Slice {
    /// The whole disk.
    pub disk: Disk,
    /// Where it begins there, in bytes.
    pub start: u64,
    /// Its size in bytes.
    pub len: u64,
}

impl Slice {
    /// Up to `len` bytes from `offset` within the slice; fewer at its end.
    pub fn read_up_to(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        match self.start.checked_add(offset) {
            Some(start) => self.disk.read_up_to(start, len.min(left)),
            None => Ok(vec![]),
        }
    }
}

impl ext4_view::Ext4Read for Slice {
    fn read(
        &mut self,
        offset: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let end = offset.checked_add(dst.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err("the file system reaches past the end of its partition".into());
        }
        let start = self
            .start
            .checked_add(offset)
            .ok_or("an offset beyond all bounds")?;
        Ok(self.disk.read_at(start, dst)?)
    }
}

/// Little-endian and big-endian numbers at an offset; `None` past the end.
mod number {
    fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
        data.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    pub(super) fn le16(data: &[u8], at: usize) -> Option<u16> {
        bytes(data, at).map(u16::from_le_bytes)
    }

    pub(super) fn le32(data: &[u8], at: usize) -> Option<u32> {
        bytes(data, at).map(u32::from_le_bytes)
    }

    pub(super) fn le64(data: &[u8], at: usize) -> Option<u64> {
        bytes(data, at).map(u64::from_le_bytes)
    }

    pub(super) fn be32(data: &[u8], at: usize) -> Option<u32> {
        bytes(data, at).map(u32::from_be_bytes)
    }

    pub(super) fn be64(data: &[u8], at: usize) -> Option<u64> {
        bytes(data, at).map(u64::from_be_bytes)
    }
}
