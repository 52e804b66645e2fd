//! Which VMDK images are safe to hand to `qemu-img`: single files without a parent and without extents elsewhere.
//!
//! The layout is VMware's "Virtual Disk Format 5.0"; numbers are little-endian, offsets count sectors of 512 bytes.
//! Where QEMU's reader is more liberal than the format, what QEMU would do counts here.

/// The start of a sparse extent.
pub(super) const MAGIC: &[u8] = b"KDMV";

/// The start of a descriptor that stands alone, as text.
pub(super) const DESCRIPTOR: &[u8] = b"# Disk DescriptorFile";

/// Where QEMU looks for the embedded descriptor, whatever the header says, and how much it reads there.
const DESCRIPTOR_AT: usize = 512;
const DESCRIPTOR_SIZE: usize = 20 * 512;

/// How much of the file [`check`] needs to see.
pub(super) const SEEN: usize = DESCRIPTOR_AT + DESCRIPTOR_SIZE;

/// Checks the first [`SEEN`] bytes of a sparse extent (fewer when the file is shorter); returns the size of the disk
/// in bytes, else why the image is refused.
pub(super) fn check(start: &[u8]) -> Result<u64, String> {
    let le64 = |at: usize| -> Result<u64, String> {
        let slice = start.get(at..at + 8).ok_or("its VMDK header is cut off")?;
        let bytes = slice.try_into().map_err(|_| "its VMDK header is cut off")?;
        Ok(u64::from_le_bytes(bytes))
    };
    let capacity = le64(12)?;
    // With no capacity QEMU takes the descriptor for one that stands alone, and follows it to other files.
    if capacity == 0 {
        return Err("its disk has no size".into());
    }
    if le64(28)? != 1 {
        return Err("it has no descriptor at the usual place".into());
    }
    let end = start.len().min(SEEN);
    let window = start.get(DESCRIPTOR_AT..end).unwrap_or_default();
    let text = String::from_utf8_lossy(window).to_lowercase();
    if text.contains("parentfilenamehint") {
        return Err("it names a parent image, which could be any file of this machine".into());
    }
    let kind = value(&text, "createtype").unwrap_or_default();
    if !matches!(kind, "monolithicsparse" | "streamoptimized") {
        return Err(format!(
            "its type is `{kind}`; only monolithicSparse and streamOptimized hold everything in one file"
        ));
    }
    let extents = text.lines().filter(|line| is_extent(line)).count();
    if extents != 1 {
        return Err(format!("it has {extents} extents, not one"));
    }
    capacity
        .checked_mul(512)
        .ok_or_else(|| "its disk has an impossible size".into())
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches('"'))
    })
}

fn is_extent(line: &str) -> bool {
    let access = line.split_whitespace().next().unwrap_or_default();
    matches!(access, "rw" | "rdonly" | "noaccess")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(descriptor: &str) -> Vec<u8> {
        let mut image = vec![0; SEEN];
        image[..4].copy_from_slice(MAGIC);
        image[12..20].copy_from_slice(&2048_u64.to_le_bytes());
        image[28..36].copy_from_slice(&1_u64.to_le_bytes());
        image[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
        image
    }

    const GOOD: &str = "# Disk DescriptorFile\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\
                        RW 2048 SPARSE \"disk.vmdk\"\n";

    #[test]
    fn a_single_sparse_file_is_accepted() {
        assert_eq!(check(&image(GOOD)), Ok(1 << 20));
        let monolithic = GOOD.replace("streamOptimized", "monolithicSparse");
        assert_eq!(check(&image(&monolithic)), Ok(1 << 20));
    }

    #[test]
    fn whatever_points_out_of_the_image_is_refused() {
        let parent = format!("{GOOD}parentFileNameHint=\"/etc/shadow\"\n");
        assert!(check(&image(&parent)).unwrap_err().contains("parent"));
        let second = format!("{GOOD}RW 2048 FLAT \"/etc/shadow\" 0\n");
        assert!(check(&image(&second)).unwrap_err().contains("2 extents"));
        let flat = GOOD.replace("streamOptimized", "monolithicFlat");
        assert!(check(&image(&flat)).unwrap_err().contains("monolithicflat"));
        // A capacity of 0 makes QEMU follow the descriptor's extents.
        let mut empty = image(GOOD);
        empty[12..20].fill(0);
        check(&empty).unwrap_err();
        // QEMU reads the parent at sector 1 even when the header points elsewhere.
        let mut elsewhere = image(GOOD);
        elsewhere[28] = 5;
        check(&elsewhere).unwrap_err();
    }
}
