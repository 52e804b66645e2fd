//! Where on a disk the content of deleted files may still be.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use super::partitions::only_ext;
use super::{Content, Disk, Part, Superblock, content, partitions, read_apart};
use crate::error::{Error, Result};

/// Shorter pieces are looked at whether they are zeros already: they share a cluster with something else, most
/// likely, and overwriting them would copy that.
const WORTH_READING: u64 = 64 << 10;
static ZEROS: [u8; WORTH_READING as usize] = [0; WORTH_READING as usize];

/// What no file system on a disk uses.
#[derive(Debug, Default)]
pub struct Free {
    /// Bytes of the disk in free blocks that may be other than zero, in the order of partitions and blocks.
    pub ranges: Vec<Range<u64>>,
    /// Partitions of which that cannot be told.
    pub left: Vec<Left>,
}

/// A partition whose free blocks are not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// `partition 1`, or `disk`.
    pub partition: String,
    /// Why.
    pub why: String,
}

/// Finds the free blocks of all file systems on the disk `overlay`, a qcow2 image with what is beneath it.
pub async fn free_blocks(overlay: &Path) -> Result<Free> {
    let path = overlay.to_owned();
    let doing = format!("looking for free blocks on {}", overlay.display());
    let work = move |deadline: Instant| {
        let disk = Disk::open_overlay(&path, deadline)?;
        find(&disk).map_err(|error| {
            Error::new(format!("looking for free blocks on {}", path.display())).cause(error)
        })
    };
    read_apart("free-blocks", doing, work).await
}

fn find(disk: &Disk) -> io::Result<Free> {
    let mut found = Free::default();
    for part in partitions(disk)? {
        let free = match content(&part)? {
            Content::Nothing => continue,
            Content::Other(kind) => Err(format!("it holds {kind}, not ext2, ext3 or ext4")),
            Content::Ext if only_ext(&part)? => {
                Superblock::read(&part.slice).and_then(|superblock| superblock.free(&part.slice))
            }
            Content::Ext => Err("it looks like more than one kind of file system".into()),
        };
        match free {
            Ok(ranges) => add(&part, ranges, &mut found.ranges)?,
            Err(why) => found.left.push(Left {
                partition: part.name,
                why,
            }),
        }
    }
    Ok(found)
}

/// Adds those of a partition's free `ranges` that are not zeros already.
fn add(part: &Part, ranges: Vec<Range<u64>>, all: &mut Vec<Range<u64>>) -> io::Result<()> {
    for range in ranges {
        let (mut at, end) = (part.slice.start + range.start, part.slice.start + range.end);
        while at < end {
            let extent = part.slice.disk.extent(at)?;
            let next = at + extent.len.min(end - at);
            if !extent.zero && !reads_as_zero(&part.slice.disk, at..next)? {
                match all.last_mut() {
                    Some(last) if last.end == at => last.end = next,
                    _ => all.push(at..next),
                }
            }
            at = next;
        }
    }
    Ok(())
}

fn reads_as_zero(disk: &Disk, range: Range<u64>) -> io::Result<bool> {
    let len = range.end - range.start;
    if len >= WORTH_READING {
        return Ok(false);
    }
    let data = disk.read_up_to(range.start, len as usize)?;
    Ok(ZEROS.starts_with(&data))
}
