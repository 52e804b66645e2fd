//! The superblock of ext2, ext3 and ext4, and the blocks that no file has, by the file system's own bitmaps.
//!
//! The layout is that of the kernel's `Documentation/filesystems/ext4`; numbers are little-endian. Bitmaps are believed
//! only if they agree with everything beside them, for whoever asks is going to overwrite these blocks.

use std::ops::Range;

use super::Slice;
use super::number::{le16, le32};

/// More block groups than this are not looked at: with 4 KiB blocks, those of 128 TiB.
const MAX_GROUPS: u64 = 1 << 20;
/// More pieces of free space than this are no guest's, but an attack on our memory.
const MAX_PIECES: usize = 1 << 20;

const NEEDS_RECOVERY: u32 = 0x4;
const META_BG: u32 = 0x10;
const BIT_64: u32 = 0x80;
/// Features that neither move the bitmaps nor change what they mean: filetype, extents, 64bit, mmp, flex_bg, ea_inode,
/// csum_seed, large_dir, inline_data, encrypt, casefold.
const KNOWN_INCOMPAT: u32 =
    0x2 | 0x40 | BIT_64 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;
const GROUP_CHECKSUMS: u32 = 0x10 | 0x400;
const BIGALLOC: u32 = 0x200;
/// The same for: sparse_super, large_file, btree_dir, huge_file, dir_nlink, extra_isize, quota, readonly, project,
/// verity, orphan_present.
const KNOWN_RO_COMPAT: u32 = GROUP_CHECKSUMS
    | BIGALLOC
    | 0x1
    | 0x2
    | 0x4
    | 0x8
    | 0x20
    | 0x40
    | 0x100
    | 0x1000
    | 0x2000
    | 0x8000
    | 0x1_0000;
/// A group whose bitmap was never written, since none of its blocks was ever used.
const BLOCK_UNINIT: u16 = 0x2;

const TRUNCATED: &str = "its superblock is truncated";
const IMPOSSIBLE: &str = "its superblock holds impossible numbers";

/// What the superblock says of the file system's shape.
pub struct Superblock {
    raw: Vec<u8>,
    block_size: u64,
    blocks: u64,
    blocks_per_group: u64,
    incompat: u32,
    ro_compat: u32,
}

impl Superblock {
    /// Reads it; what it says about sizes fits the partition.
    pub fn read(slice: &Slice) -> Result<Superblock, String> {
        let raw = slice.read_up_to(1024, 1024).map_err(|e| e.to_string())?;
        if raw.len() < 1024 {
            return Err(TRUNCATED.into());
        }
        let field = |at| le32(&raw, at).ok_or(TRUNCATED);
        let incompat = field(0x60)?;
        let high = if incompat & BIT_64 != 0 {
            field(0x150)?
        } else {
            0
        };
        let blocks = u64::from(high) << 32 | u64::from(field(4)?);
        let log_size = field(0x18)?;
        let blocks_per_group = u64::from(field(0x20)?);
        let inode_size = le16(&raw, 0x58).ok_or(TRUNCATED)?;
        let groups = blocks / blocks_per_group.max(1);
        if groups > MAX_GROUPS || log_size > 6 || inode_size < 128 || blocks_per_group == 0 {
            return Err(IMPOSSIBLE.into());
        }
        let block_size = 1024 << log_size;
        if blocks
            .checked_mul(block_size)
            .is_none_or(|len| len > slice.len)
        {
            return Err("it is larger than its partition: the image is truncated".into());
        }
        Ok(Superblock {
            block_size,
            blocks,
            blocks_per_group,
            incompat,
            ro_compat: field(0x64)?,
            raw,
        })
    }

    /// Why the file system was not left clean, if so.
    pub fn dirty(&self) -> Option<&'static str> {
        if self.incompat & NEEDS_RECOVERY != 0 {
            Some("was not unmounted: its journal has not been replayed")
        } else if self.short(0x3a) & 3 != 1 {
            Some("is not marked clean: it was not unmounted, or has errors")
        } else {
            None
        }
    }

    /// The bytes of the file system that are in no block of a file or of itself, in order; or why that cannot be told.
    /// Groups that were never used since the file system was made are left out.
    pub(super) fn free(&self, slice: &Slice) -> Result<Vec<Range<u64>>, String> {
        if let Some(dirty) = self.dirty() {
            return Err(format!("it {dirty}"));
        }
        let groups = Groups::of(self)?;
        let mut free = Pieces::default();
        let mut own = vec![];
        for group in 0..groups.count {
            let descriptor = groups.descriptor(slice, group)?;
            own.extend(groups.metadata(&descriptor));
            if !descriptor.never_used {
                groups.free_in(slice, group, &descriptor, &mut free)?;
            }
        }
        own.push(0..groups.descriptors_end);
        if own.iter().any(|range| free.overlaps(range)) {
            return Err("its bitmaps give away its own metadata".into());
        }
        let bytes = |range: &Range<u64>| range.start * self.block_size..range.end * self.block_size;
        Ok(free.0.iter().map(bytes).collect())
    }

    /// A number of the superblock, all of which is there.
    fn short(&self, at: usize) -> u16 {
        le16(&self.raw, at).unwrap_or_default()
    }

    fn long(&self, at: usize) -> u32 {
        le32(&self.raw, at).unwrap_or_default()
    }
}

/// Ranges of blocks in order, neighbours joined.
#[derive(Default)]
struct Pieces(Vec<Range<u64>>);

impl Pieces {
    fn push(&mut self, range: Range<u64>) -> Result<(), String> {
        if let Some(last) = self.0.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
            return Ok(());
        }
        if self.0.len() == MAX_PIECES {
            return Err("its free space is in too many pieces".into());
        }
        self.0.push(range);
        Ok(())
    }

    fn overlaps(&self, range: &Range<u64>) -> bool {
        let at = self.0.partition_point(|piece| piece.end <= range.start);
        self.0.get(at).is_some_and(|piece| piece.start < range.end)
    }
}

/// The block groups and where their descriptors are. All numbers are blocks, if not said otherwise.
struct Groups {
    block_size: u64,
    /// Of all the file system.
    blocks: u64,
    first: u64,
    per_group: u64,
    count: u64,
    /// Blocks that one bit of a bitmap stands for.
    ratio: u64,
    inode_table: u64,
    /// Bytes.
    descriptor_size: u64,
    descriptors: u64,
    descriptors_end: u64,
    checksums: bool,
    wide: bool,
}

/// What one group's descriptor says.
struct Descriptor {
    block_bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    /// In bits of the bitmap.
    free: u64,
    never_used: bool,
}

impl Groups {
    fn of(superblock: &Superblock) -> Result<Groups, String> {
        let (incompat, ro_compat) = (superblock.incompat, superblock.ro_compat);
        if incompat & META_BG != 0 {
            return Err("it spreads its group descriptors (meta_bg)".into());
        }
        let unknown = (incompat & !KNOWN_INCOMPAT, ro_compat & !KNOWN_RO_COMPAT);
        if unknown != (0, 0) {
            return Err(format!(
                "it has features that are not known ({:#x}, {:#x})",
                unknown.0, unknown.1
            ));
        }
        let block_size = superblock.block_size;
        let blocks = superblock.blocks;
        let per_group = superblock.blocks_per_group;
        let shift = match ro_compat & BIGALLOC {
            0 => 0,
            _ => superblock.long(0x1c).wrapping_sub(superblock.long(0x18)),
        };
        if shift > 16 {
            return Err(IMPOSSIBLE.into());
        }
        let ratio = 1_u64 << shift;
        // Before block 1 of a file system with the smallest blocks is the boot sector; clusters begin at 0.
        let first = u64::from(block_size == 1024 && ratio == 1);
        let wide = incompat & BIT_64 != 0;
        let descriptor_size = if wide {
            u64::from(superblock.short(0xfe))
        } else {
            32
        };
        let inode_table = u64::from(superblock.long(0x28)) * u64::from(superblock.short(0x58));
        let count = blocks.saturating_sub(first).div_ceil(per_group);
        let descriptors = if block_size == 1024 { 2 } else { 1 };
        let descriptors_end = descriptors + (count * descriptor_size).div_ceil(block_size);
        let right = u64::from(superblock.long(0x14)) == first
            && per_group.is_multiple_of(ratio)
            && per_group / ratio <= block_size * 8
            && descriptor_size.is_power_of_two()
            && (!wide || (64..=1024).contains(&descriptor_size))
            && descriptors_end <= blocks;
        if !right {
            return Err(IMPOSSIBLE.into());
        }
        Ok(Groups {
            block_size,
            blocks,
            first,
            per_group,
            count,
            ratio,
            inode_table: inode_table.div_ceil(block_size),
            descriptor_size,
            descriptors,
            descriptors_end,
            checksums: ro_compat & GROUP_CHECKSUMS != 0,
            wide,
        })
    }

    fn descriptor(&self, slice: &Slice, group: u64) -> Result<Descriptor, String> {
        let at = self.descriptors * self.block_size + group * self.descriptor_size;
        let raw = slice.read_up_to(at, self.descriptor_size as usize);
        let raw = raw.map_err(|error| error.to_string())?;
        let cut = || "its group descriptors are truncated".to_owned();
        let short = |at| le16(&raw, at).ok_or_else(cut);
        let long = |at| le32(&raw, at).ok_or_else(cut);
        let address = |low, high| -> Result<u64, String> {
            let high = if self.wide { long(high)? } else { 0 };
            Ok(u64::from(high) << 32 | u64::from(long(low)?))
        };
        let free_high = if self.wide { short(0x2c)? } else { 0 };
        Ok(Descriptor {
            block_bitmap: address(0, 0x20)?,
            inode_bitmap: address(4, 0x24)?,
            inode_table: address(8, 0x28)?,
            free: u64::from(free_high) << 16 | u64::from(short(0xc)?),
            // Without checksums of the descriptors, there are no flags.
            never_used: self.checksums && short(0x12)? & BLOCK_UNINIT != 0,
        })
    }

    fn metadata(&self, descriptor: &Descriptor) -> [Range<u64>; 3] {
        let range = |start: u64, len: u64| start..start.saturating_add(len);
        [
            range(descriptor.block_bitmap, 1),
            range(descriptor.inode_bitmap, 1),
            range(descriptor.inode_table, self.inode_table),
        ]
    }

    /// Adds the free blocks of a group.
    fn free_in(
        &self,
        slice: &Slice,
        group: u64,
        descriptor: &Descriptor,
        free: &mut Pieces,
    ) -> Result<(), String> {
        let start = self.first + group * self.per_group;
        let len = self.per_group.min(self.blocks - start);
        let bits = len.div_ceil(self.ratio);
        if descriptor.block_bitmap >= self.blocks {
            return Err(format!("the bitmap of group {group} is outside of it"));
        }
        let at = descriptor.block_bitmap * self.block_size;
        let bitmap = slice.read_up_to(at, self.block_size as usize);
        let bitmap = bitmap.map_err(|error| error.to_string())?;
        let mut counted = 0;
        for run in clear_bits(&bitmap, bits) {
            counted += run.end - run.start;
            let end = (start + run.end * self.ratio).min(start + len);
            free.push(start + run.start * self.ratio..end)?;
        }
        match counted == descriptor.free {
            true => Ok(()),
            false => Err(format!(
                "the bitmap of group {group} has {counted} free blocks, its descriptor says {}",
                descriptor.free
            )),
        }
    }
}

/// The runs of clear bits among the first `count`, the least significant bit of a byte being its first. What is not
/// there counts as set.
fn clear_bits(bitmap: &[u8], count: u64) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = vec![];
    for (at, byte) in (0..count).step_by(8).zip(bitmap) {
        // Most bytes are all used or all free.
        if *byte == 0xff {
            continue;
        }
        for bit in 0..8.min(count - at) {
            if byte & 1 << bit != 0 {
                continue;
            }
            match runs.last_mut() {
                Some(last) if last.end == at + bit => last.end += 1,
                _ => runs.push(at + bit..at + bit + 1),
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_clear_bits_go_over_bytes_and_end_at_the_count() {
        assert_eq!(clear_bits(&[0xff, 0xff], 16), []);
        assert_eq!(
            clear_bits(&[0b0111_1110, 0xfe, 0], 20),
            [0..1, 7..9, 16..20]
        );
        assert_eq!(clear_bits(&[0xfe, 0xfe], 100), [0..1, 8..9]);
    }
}
