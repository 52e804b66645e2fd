//! Partition tables (GPT, MBR, none) and the kinds of file system, by their magic numbers.

use std::io;

use super::number::{le16, le32, le64};
use super::{Disk, Slice};

const SECTOR: u64 = 512;
/// More partitions than this are not looked at: no image has them, a crafted table can.
const MAX_PARTITIONS: usize = 128;
/// GPT type of the partition that holds GRUB's core image on BIOS machines (21686148-6449-6E6F-744E-656564454649).
const BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";

/// A partition, or the whole disk.
pub struct Part {
    /// `partition 1`, or `disk` for a disk without a table.
    pub name: String,
    /// Its bytes.
    pub slice: Slice,
    /// Whether it is the place for a boot loader's code, which has no file system.
    pub boot_code: bool,
}

/// What a partition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// An ext2, ext3 or ext4 file system.
    Ext,
    /// Nothing that could hold a trace of the build: FAT (the EFI system partition), boot code, zeros.
    Nothing,
    /// Something else, by name.
    Other(&'static str),
}

/// The partitions of a disk, in the order of its table.
pub fn partitions(disk: &Disk) -> io::Result<Vec<Part>> {
    let head = disk.read_up_to(0, 1024)?;
    if head.get(512..520) == Some(b"EFI PART") {
        return gpt(disk, &head[512..]);
    }
    let parts = mbr(disk, &head)?;
    if !parts.is_empty() {
        return Ok(parts);
    }
    let slice = Slice {
        disk: disk.clone(),
        start: 0,
        len: disk.size(),
    };
    Ok(vec![Part {
        name: "disk".into(),
        slice,
        boot_code: false,
    }])
}

fn part(disk: &Disk, number: usize, first: u64, sectors: u64, boot_code: bool) -> io::Result<Part> {
    let start = first.checked_mul(SECTOR);
    let len = sectors.checked_mul(SECTOR);
    let end = start
        .zip(len)
        .and_then(|(start, len)| start.checked_add(len));
    match (start, len, end) {
        (Some(start), Some(len), Some(end)) if end <= disk.size() => Ok(Part {
            name: format!("partition {number}"),
            slice: Slice {
                disk: disk.clone(),
                start,
                len,
            },
            boot_code,
        }),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("partition {number} reaches past the end of the disk: the image is truncated"),
        )),
    }
}

fn gpt(disk: &Disk, header: &[u8]) -> io::Result<Vec<Part>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "an impossible GPT header");
    let table = le64(header, 72)
        .and_then(|lba| lba.checked_mul(SECTOR))
        .ok_or_else(bad)?;
    let count = le32(header, 80).ok_or_else(bad)? as usize;
    let size = le32(header, 84).ok_or_else(bad)? as usize;
    if !(128..=4096).contains(&size) || !size.is_multiple_of(8) {
        return Err(bad());
    }
    let entries = disk.read_up_to(table, count.min(MAX_PARTITIONS) * size)?;
    let mut parts = vec![];
    for (at, entry) in entries.chunks_exact(size).enumerate() {
        let kind = entry.get(..16).unwrap_or_default();
        if kind.iter().all(|byte| *byte == 0) {
            continue;
        }
        let first = le64(entry, 32).ok_or_else(bad)?;
        let last = le64(entry, 40).ok_or_else(bad)?;
        let sectors = last
            .checked_sub(first)
            .and_then(|n| n.checked_add(1))
            .ok_or_else(bad)?;
        parts.push(part(disk, at + 1, first, sectors, kind == BIOS_BOOT)?);
    }
    Ok(parts)
}

/// One entry of an MBR: type, first sector (relative), count.
fn mbr_entry(sector: &[u8], at: usize) -> Option<(u8, u64, u64)> {
    let entry = sector.get(446 + at * 16..446 + at * 16 + 16)?;
    if entry[0] & 0x7f != 0 {
        return None;
    }
    let (first, count) = (le32(entry, 8)?, le32(entry, 12)?);
    (entry[4] != 0 && count != 0).then_some((entry[4], first.into(), count.into()))
}

fn mbr(disk: &Disk, head: &[u8]) -> io::Result<Vec<Part>> {
    let mut parts = vec![];
    // A FAT boot sector carries the same signature, but starts with a jump and describes itself.
    let fat = head.get(54..57) == Some(b"FAT") || head.get(82..85) == Some(b"FAT");
    if le16(head, 510) != Some(0xaa55) || fat {
        return Ok(parts);
    }
    for at in 0..4 {
        match mbr_entry(head, at) {
            Some((0x05 | 0x0f | 0x85, first, _)) => logical(disk, first, &mut parts)?,
            Some((_, first, sectors)) if first != 0 => {
                parts.push(part(disk, at + 1, first, sectors, false)?);
            }
            _ => {}
        }
    }
    Ok(parts)
}

/// Follows the chain of logical partitions, which a crafted disk can tie into a ring.
fn logical(disk: &Disk, extended: u64, parts: &mut Vec<Part>) -> io::Result<()> {
    let mut at = extended;
    for number in 5..MAX_PARTITIONS {
        let sector = disk.read_up_to(at * SECTOR, 512)?;
        if le16(&sector, 510) != Some(0xaa55) {
            return Ok(());
        }
        if let Some((_, first, sectors)) = mbr_entry(&sector, 0) {
            parts.push(part(disk, number, at + first, sectors, false)?);
        }
        match mbr_entry(&sector, 1) {
            Some((_, next, _)) if next != 0 => at = extended + next,
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// What lies in a partition.
pub fn content(part: &Part) -> io::Result<Content> {
    if part.boot_code {
        return Ok(Content::Nothing);
    }
    let head = part.slice.read_up_to(0, HEAD)?;
    Ok(match ext(&head) {
        true => Content::Ext,
        false => beside_ext(&head),
    })
}

/// Whether a partition holds an ext2/3/4 file system beyond doubt: who formats one anew may leave the old superblock,
/// which then describes what is not there any more.
pub fn only_ext(part: &Part) -> io::Result<bool> {
    let head = part.slice.read_up_to(0, HEAD)?;
    Ok(!part.boot_code && ext(&head) && beside_ext(&head) == Content::Other("unknown"))
}

/// How much of a partition is needed to recognise what it holds.
const HEAD: usize = 0x1_1000;

fn ext(head: &[u8]) -> bool {
    head.get(0x438..0x43a) == Some(b"\x53\xef")
}

/// What is there besides the magic number of ext2/3/4.
fn beside_ext(head: &[u8]) -> Content {
    let is = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    if is(0, b"XFSB") {
        Content::Other("xfs")
    } else if is(0x1_0040, b"_BHRfS_M") {
        Content::Other("btrfs")
    } else if is(0, b"LUKS\xba\xbe") {
        Content::Other("LUKS")
    } else if (0..4).any(|sector| is(sector * 512, b"LABELONE")) {
        Content::Other("LVM")
    } else if is(0x400, b"\x10\x20\xf5\xf2") {
        Content::Other("f2fs")
    } else if is(0, b"hsqs") {
        Content::Other("squashfs")
    } else if is(0xff6, b"SWAPSPACE2") {
        // Swap can hold what was in the build's memory.
        Content::Other("swap")
    } else if is(54, b"FAT") || is(82, b"FAT32") || head.iter().all(|byte| *byte == 0) {
        Content::Nothing
    } else {
        Content::Other("unknown")
    }
}
