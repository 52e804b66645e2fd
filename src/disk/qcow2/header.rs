//! What the header of a qcow2 image says. The layout is QEMU's `docs/interop/qcow2.rst`; numbers are big-endian.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::invalid;
use crate::disk::number::{be32, be64};
use crate::source::Format;

/// "QFI" and 0xfb.
const MAGIC: u32 = 0x5146_49fb;
/// The largest L1 table that is read: with 64 KiB clusters, that of a disk of 64 TiB.
const MAX_L1: u64 = 1 << 17;
const EXTENDED_L2: u64 = 16;
/// Incompatible features: that the refcounts may be stale (1), the compression type (8), extended L2 entries.
const KNOWN_FEATURES: u64 = 1 | 8 | EXTENDED_L2;
/// The header extension that names the format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// QEMU takes no longer name of a backing file.
const MAX_NAME: usize = 1023;

/// What matters for reading.
pub(super) struct Header {
    /// Bytes of the disk.
    pub len: u64,
    pub cluster_bits: u32,
    /// Whether compressed clusters are zstd's, not deflate's.
    pub zstd: bool,
    /// Whether clusters have subclusters.
    pub extended: bool,
    pub l1_offset: u64,
    pub l1_entries: usize,
    /// The image beneath, as it is written there.
    pub backing: Option<(PathBuf, Format)>,
}

impl Header {
    /// Reads and checks it.
    pub(super) fn read(file: &File) -> io::Result<Header> {
        // All that QEMU puts into the header's cluster, where extensions and the backing file's name are, too.
        let head = read_up_to(file, 0, 4096)?;
        let short = || invalid("the qcow2 header is truncated");
        let u32_at = |at| be32(&head, at).ok_or_else(short);
        let u64_at = |at| be64(&head, at).ok_or_else(short);
        if u32_at(0)? != MAGIC {
            return Err(invalid("this is not a qcow2 image"));
        }
        let version = u32_at(4)?;
        let (features, size) = match version {
            2 => (0, 72),
            3 => (u64_at(72)?, u32_at(100)?),
            _ => return Err(invalid("an unknown version of qcow2")),
        };
        if features & !KNOWN_FEATURES != 0 {
            return Err(invalid(
                "the qcow2 image is marked corrupt or uses a feature that is not known",
            ));
        }
        if u32_at(32)? != 0 {
            return Err(invalid("the qcow2 image is encrypted"));
        }
        let extended = features & EXTENDED_L2 != 0;
        let cluster_bits = u32_at(20)?;
        // Subclusters are not smaller than a sector.
        let least = if extended { 14 } else { 9 };
        if !(least..=21).contains(&cluster_bits) {
            return Err(invalid("an impossible cluster size"));
        }
        let len = u64_at(24)?;
        let l1_entries = u64::from(u32_at(36)?);
        // An L2 table fills a cluster with entries of 8 bytes, or of 16 where there are subclusters.
        let covered = 1_u64 << (2 * cluster_bits - 3 - u32::from(extended));
        if l1_entries > MAX_L1 || l1_entries < len.div_ceil(covered) {
            return Err(invalid(
                "the size of the qcow2 image and that of its table do not match",
            ));
        }
        let backing = match u64_at(8)? {
            0 => None,
            at => {
                let name = name(file, at, u32_at(16)? as usize)?;
                Some((name, backing_format(&head, size as usize)?))
            }
        };
        Ok(Header {
            len,
            cluster_bits,
            zstd: version == 3 && size > 104 && head.get(104) == Some(&1),
            extended,
            l1_offset: u64_at(40)?,
            l1_entries: l1_entries as usize,
            backing,
        })
    }
}

/// The file beneath an image, as it is written there, whatever its format. `None` for what is no qcow2 image, or stands alone.
///
/// Errors: it is written in a way that is not read (only paths are).
pub fn backing_file(path: &Path) -> io::Result<Option<PathBuf>> {
    let file = File::open(path)?;
    let head = read_up_to(&file, 0, 20)?;
    let (Some(MAGIC), Some(at), Some(len)) = (be32(&head, 0), be64(&head, 8), be32(&head, 16))
    else {
        return Ok(None);
    };
    if at == 0 {
        return Ok(None);
    }
    let name = name(&file, at, len as usize)?;
    match name.as_os_str().as_bytes() {
        written if written.starts_with(b"json:") => {
            Err(invalid("its backing file is written as JSON"))
        }
        written => {
            let path = written.strip_prefix(b"file:").unwrap_or(written);
            Ok(Some(OsStr::from_bytes(path).into()))
        }
    }
}

fn read_up_to(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut buf = vec![0; len.min(usize::try_from(left).unwrap_or(usize::MAX))];
    file.read_exact_at(&mut buf, offset)?;
    Ok(buf)
}

fn name(file: &File, at: u64, len: usize) -> io::Result<PathBuf> {
    let name = read_up_to(file, at, len.min(MAX_NAME))?;
    if name.len() < len || name.contains(&0) {
        return Err(invalid("an impossible name of a backing file"));
    }
    Ok(OsString::from_vec(name).into())
}

/// The format is never guessed: a guest can write a header into a raw disk that makes a guess dangerous.
fn backing_format(head: &[u8], mut at: usize) -> io::Result<Format> {
    let unknown = || invalid("the qcow2 image does not say in which format its backing file is");
    loop {
        let kind = be32(head, at).ok_or_else(unknown)?;
        let len = be32(head, at + 4).ok_or_else(unknown)? as usize;
        let data = at + 8;
        match kind {
            0 => return Err(unknown()),
            BACKING_FORMAT => {
                let name = head.get(data..data.saturating_add(len));
                return match name.ok_or_else(unknown)? {
                    b"raw" => Ok(Format::Raw),
                    b"qcow2" => Ok(Format::Qcow2),
                    _ => Err(invalid("its backing file is neither raw nor qcow2")),
                };
            }
            // The next one starts at a multiple of 8.
            _ => at = data.saturating_add(len.next_multiple_of(8)),
        }
    }
}
