//! Random access to the bytes of a disk as the guest saw them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::qcow2::Qcow2;
use crate::error::{Context, Error, Result};
use crate::source::Format;

/// A disk image opened for reading. Clones share it.
#[derive(Clone)]
pub(super) struct Disk(Arc<Inner>);

struct Inner {
    image: Image,
    len: u64,
    deadline: Instant,
}

enum Image {
    Raw(File),
    Qcow2(Qcow2),
}

impl Disk {
    /// Opens an image. No read succeeds after `deadline`: a crafted file system must not keep the audit busy for ever.
    pub(super) fn open(path: &Path, format: Format, deadline: Instant) -> Result<Disk> {
        let doing = || format!("opening the sealed image {}", path.display());
        let file = File::open(path).doing(doing)?;
        let (image, len) = match format {
            Format::Raw => {
                let len = file.metadata().doing(doing)?.len();
                (Image::Raw(file), len)
            }
            Format::Qcow2 => {
                let image = Qcow2::open(file).map_err(|error| Error::new(doing()).cause(error))?;
                let len = image.len();
                (Image::Qcow2(image), len)
            }
        };
        Ok(Disk(Arc::new(Inner {
            image,
            len,
            deadline,
        })))
    }

    /// Size of the disk as the guest sees it.
    pub(super) fn len(&self) -> u64 {
        self.0.len
    }

    /// Fills `buf` from `offset`; an error when that reaches past the end.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if Instant::now() > self.0.deadline {
            return Err(io::Error::other(
                "reading the file system takes far too long",
            ));
        }
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.0.len) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("offset {offset} is past the end of the disk"),
            ));
        }
        match &self.0.image {
            Image::Raw(file) => file.read_exact_at(buf, offset),
            Image::Qcow2(image) => image.read_at(offset, buf),
        }
    }

    /// Up to `len` bytes from `offset`; fewer at the end of the disk.
    pub(super) fn read_up_to(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.0.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut buf = vec![0; len.min(left)];
        self.read_at(offset, &mut buf)?;
        Ok(buf)
    }
}

/// One partition, or a whole disk, seen as a disk of its own.
#[derive(Clone)]
pub(super) struct Slice {
    pub disk: Disk,
    pub start: u64,
    pub len: u64,
}

impl Slice {
    /// Up to `len` bytes from `offset` within the slice; fewer at its end.
    pub(super) fn read_up_to(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
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
pub(super) mod number {
    fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
        data.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    pub(in super::super) fn le16(data: &[u8], at: usize) -> Option<u16> {
        bytes(data, at).map(u16::from_le_bytes)
    }

    pub(in super::super) fn le32(data: &[u8], at: usize) -> Option<u32> {
        bytes(data, at).map(u32::from_le_bytes)
    }

    pub(in super::super) fn le64(data: &[u8], at: usize) -> Option<u64> {
        bytes(data, at).map(u64::from_le_bytes)
    }

    pub(in super::super) fn be32(data: &[u8], at: usize) -> Option<u32> {
        bytes(data, at).map(u32::from_be_bytes)
    }

    pub(in super::super) fn be64(data: &[u8], at: usize) -> Option<u64> {
        bytes(data, at).map(u64::from_be_bytes)
    }
}
