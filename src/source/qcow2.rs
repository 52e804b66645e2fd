//! The part of a qcow2 header that decides whether an image is safe and complete in itself.
//!
//! The layout is QEMU's `docs/interop/qcow2.rst`; numbers are big-endian.

/// "QFI" and 0xfb, at the start of the file.
pub(super) const MAGIC: &[u8] = b"QFI\xfb";

/// The incompatible features that are understood: bit 0, not closed cleanly; 3, compression type; 4, extended L2
/// entries. Bit 1 (corrupt) and 2 (external data file) have messages of their own.
const KNOWN_FEATURES: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4;

/// Checks a header, which may be longer than needed; returns the size of the disk in bytes, else why the image is
/// refused.
///
/// An image that names another file is refused, since QEMU would open whatever file of this machine it names.
pub(super) fn check(header: &[u8]) -> Result<u64, String> {
    let be32 = |at: usize| bytes(header, at).map(u32::from_be_bytes);
    let be64 = |at: usize| bytes(header, at).map(u64::from_be_bytes);
    let version = be32(4)?;
    if !matches!(version, 2 | 3) {
        return Err(format!("its qcow2 version {version} is not supported"));
    }
    if be64(8)? != 0 || be32(16)? != 0 {
        return Err("it names a backing file, which could be any file of this machine".into());
    }
    if be32(32)? != 0 {
        return Err("it is encrypted".into());
    }
    let features = if version == 3 { be64(72)? } else { 0 };
    if features & 1 << 2 != 0 {
        return Err(
            "it names an external data file, which could be any file of this machine".into(),
        );
    }
    if features & 1 << 1 != 0 {
        return Err("it is marked as corrupt".into());
    }
    if features & !KNOWN_FEATURES != 0 {
        return Err("it uses qcow2 features that are not known".into());
    }
    match be64(24)? {
        0 => Err("its disk has no size".into()),
        size => Ok(size),
    }
}

fn bytes<const N: usize>(header: &[u8], at: usize) -> Result<[u8; N], String> {
    let slice = header
        .get(at..at + N)
        .ok_or("its qcow2 header is cut off")?;
    slice
        .try_into()
        .map_err(|_| "its qcow2 header is cut off".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version 3 header of a disk of 1 GiB, with one field overwritten.
    fn header(at: usize, field: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 104];
        header[..4].copy_from_slice(MAGIC);
        header[7] = 3;
        header[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
        header[at..at + field.len()].copy_from_slice(field);
        header
    }

    #[test]
    fn a_self_contained_image_is_accepted() {
        assert_eq!(check(&header(0, MAGIC)), Ok(1 << 30));
        assert_eq!(check(&header(79, &[1 | 8 | 16])), Ok(1 << 30));
    }

    #[test]
    fn whatever_points_out_of_the_image_is_refused() {
        assert!(
            check(&header(15, &[200]))
                .unwrap_err()
                .contains("backing file")
        );
        assert!(
            check(&header(19, &[9]))
                .unwrap_err()
                .contains("backing file")
        );
        assert!(
            check(&header(79, &[4]))
                .unwrap_err()
                .contains("external data file")
        );
    }

    #[test]
    fn damaged_encrypted_and_unknown_images_are_refused() {
        assert!(check(&header(79, &[2])).unwrap_err().contains("corrupt"));
        assert!(check(&header(72, &[1])).unwrap_err().contains("not known"));
        assert!(check(&header(35, &[2])).unwrap_err().contains("encrypted"));
        assert!(check(&header(7, &[9])).unwrap_err().contains("version 9"));
        assert!(check(&header(24, &[0; 8])).unwrap_err().contains("no size"));
        assert!(check(MAGIC).unwrap_err().contains("cut off"));
    }
}
