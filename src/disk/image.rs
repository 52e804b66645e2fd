//! What a disk is made of: an image file, raw or qcow2 with what lies beneath it, or something elsewhere.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::qcow2::Qcow2;
use super::remote::Remote;
use crate::source::Format;

/// How many images may lie beneath an overlay. imgbuild puts one on a base image that stands alone; more than this is
/// a ring of them.
pub(super) const MAX_DEPTH: usize = 400;

/// An opened image.
pub(super) enum Image {
    Raw { file: File, len: u64 },
    Qcow2(Qcow2),
    Remote(Remote),
}

/// What is known of a piece of a disk without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Whether all of it reads as zeros; else it may.
    pub zero: bool,
    /// How far that goes, in bytes; at least 1, and maybe past the disk's end.
    pub len: u64,
}

impl Image {
    /// Opens an image with up to `depth` images beneath it.
    pub(super) fn open(path: &Path, format: Format, depth: usize) -> io::Result<Image> {
        let file = File::open(path)?;
        match format {
            Format::Raw => {
                let len = file.metadata()?.len();
                Ok(Image::Raw { file, len })
            }
            Format::Qcow2 => Qcow2::open(file, path, depth).map(Image::Qcow2),
        }
    }

    /// Size of the disk.
    pub(super) fn len(&self) -> u64 {
        match self {
            Image::Raw { len, .. } => *len,
            Image::Qcow2(image) => image.len(),
            Image::Remote(remote) => remote.len(),
        }
    }

    /// Fills `buf` from `offset`, which lies within the disk with all of `buf`.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Image::Raw { file, .. } => file.read_exact_at(buf, offset),
            Image::Qcow2(image) => image.read_at(offset, buf),
            Image::Remote(remote) => remote.read_at(offset, buf),
        }
    }

    /// What the bytes from `offset` on are. Past the end they are zeros, as an overlay sees a smaller image beneath it.
    pub(super) fn extent(&self, offset: u64) -> io::Result<Extent> {
        let left = self.len().saturating_sub(offset);
        if left == 0 {
            let len = u64::MAX - offset.min(u64::MAX - 1);
            return Ok(Extent { zero: true, len });
        }
        let found = match self {
            Image::Raw { file, .. } => holes(file, offset)?,
            Image::Qcow2(image) => image.extent(offset)?,
            // Nobody can tell without reading.
            Image::Remote(_) => Extent {
                zero: false,
                len: left,
            },
        };
        let len = found.len.min(left);
        Ok(Extent { len, ..found })
    }
}

/// What the file system that a raw image lies on knows of its holes.
fn holes(file: &File, offset: u64) -> io::Result<Extent> {
    let to_the_end = |zero| Extent {
        zero,
        len: u64::MAX - offset,
    };
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) if data > offset => Ok(Extent {
            zero: true,
            len: data - offset,
        }),
        Ok(_) => {
            let hole = rustix::fs::seek(file, SeekFrom::Hole(offset))?;
            let len = hole.saturating_sub(offset).max(1);
            Ok(Extent { zero: false, len })
        }
        Err(Errno::NXIO) => Ok(to_the_end(true)),
        // It cannot tell.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(to_the_end(false)),
        Err(error) => Err(error.into()),
    }
}
