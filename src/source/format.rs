//! What a file is, by its content: names and servers lie.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{Format, qcow2, vmdk};
use crate::error::{Context as _, Error, Kind, Result};

/// How much of a file is looked at. The superblock of btrfs at 64 KiB is the last thing looked for.
pub(super) const SEEN: u64 = 64 * 1024 + 128;

/// What a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Ready as the backing file of an overlay; with the size of the disk in bytes.
    Ready(Format, u64),
    /// A VMDK that is safe to convert; with the size of the disk in bytes.
    Vmdk(u64),
    Compressed(Compression),
}

/// The compressions that images are published in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Xz,
    Gzip,
    Zstd,
}

/// Looks at a file, which errors call `shown`.
///
/// Errors: it cannot be read; it is not a disk image ([`Kind::Usage`]); it refers to other files, which could be
/// secrets of this machine ([`Kind::Verification`]).
pub(super) fn detect(path: &Path, shown: &str) -> Result<Content> {
    let doing = || format!("reading {shown}");
    let file = File::open(path).doing(doing)?;
    let size = file.metadata().doing(doing)?.len();
    let mut start = Vec::new();
    file.take(SEEN).read_to_end(&mut start).doing(doing)?;
    classify(&start, size).map_err(|refusal| {
        let error = Error::new(format!("using {shown} as a disk image"));
        match refusal {
            Refusal::NotAnImage(what) => error
                .kind(Kind::Usage)
                .cause(format!("it is not a disk image but {what}"))
                .hint("the source must be a qcow2, raw or VMDK image, plain or compressed by xz, gzip or zstd"),
            Refusal::Unsafe(why) => error.kind(Kind::Verification).cause(why).hint(
                "make it self-contained with `qemu-img convert` on a machine where you trust the image",
            ),
        }
    })
}

/// Whether a file that begins like this is a qcow2 image that is complete in itself.
pub(super) fn is_qcow2(start: &[u8]) -> bool {
    start.starts_with(qcow2::MAGIC) && qcow2::check(start).is_ok()
}

enum Refusal {
    NotAnImage(String),
    Unsafe(String),
}

fn classify(start: &[u8], size: u64) -> Result<Content, Refusal> {
    let has = |at: usize, magic: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(magic));
    if has(0, qcow2::MAGIC) {
        let size = qcow2::check(start).map_err(Refusal::Unsafe)?;
        return Ok(Content::Ready(Format::Qcow2, size));
    }
    if has(0, vmdk::MAGIC) {
        return vmdk::check(start)
            .map(Content::Vmdk)
            .map_err(Refusal::Unsafe);
    }
    if has(0, vmdk::DESCRIPTOR) {
        let text = "it is a VMDK descriptor, whose disk is in other files";
        return Err(Refusal::Unsafe(text.into()));
    }
    let compressions: [(&[u8], Compression); 3] = [
        (b"\xfd7zXZ\0", Compression::Xz),
        (b"\x1f\x8b\x08", Compression::Gzip),
        (b"\x28\xb5\x2f\xfd", Compression::Zstd),
    ];
    if let Some((_, compression)) = compressions.iter().find(|(magic, _)| has(0, magic)) {
        return Ok(Content::Compressed(*compression));
    }
    let foreign: [(usize, &[u8], &str); 8] = [
        (
            0,
            b"BZh",
            "a bzip2 file, a compression that is not supported",
        ),
        (0, b"PK\x03\x04", "a zip archive"),
        (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (
            257,
            b"ustar",
            "a tar archive (an OVA is one: unpack the disk in it)",
        ),
        (
            0,
            b"vhdxfile",
            "a VHDX image, a format that is not supported",
        ),
        (
            0,
            b"conectix",
            "a VHD image, a format that is not supported",
        ),
        (
            0x40,
            b"\x7f\x10\xda\xbe",
            "a VDI image, a format that is not supported",
        ),
        (0, b"QED\0", "a QED image, a format that is not supported"),
    ];
    if let Some((_, _, what)) = foreign.iter().find(|(at, magic, _)| has(*at, magic)) {
        return Err(Refusal::NotAnImage((*what).into()));
    }
    let raw: [(usize, &[u8]); 7] = [
        (510, b"\x55\xaa"),            // MBR, also the protective one of GPT
        (4096, b"EFI PART"),           // GPT on sectors of 4096 bytes
        (1024 + 56, b"\x53\xef"),      // ext2, ext3, ext4
        (0, b"XFSB"),                  // xfs
        (64 * 1024 + 64, b"_BHRfS_M"), // btrfs
        (32 * 1024 + 1, b"CD001"),     // ISO 9660
        (512, b"EFI PART"),            // GPT without its MBR
    ];
    if raw.iter().any(|(at, magic)| has(*at, magic)) {
        // QEMU shows the last, incomplete sector as a whole one.
        let size = size.next_multiple_of(512);
        return Ok(Content::Ready(Format::Raw, size));
    }
    Err(Refusal::NotAnImage(describe(start)))
}

/// What a user would call these bytes.
fn describe(start: &[u8]) -> String {
    /// Characters of a text that are shown.
    const SHOWN: usize = 60;
    let start = &start[..start.len().min(1024)];
    if start.is_empty() {
        return "an empty file".into();
    }
    let readable =
        |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace() || *byte >= 0x80;
    let text = String::from_utf8_lossy(start);
    if !start.iter().all(readable) {
        return "data without a partition table or file system".into();
    }
    let trimmed = text.trim_start().to_lowercase();
    if trimmed.starts_with("<!doctype html") || trimmed.starts_with("<html") {
        return "an HTML page".into();
    }
    let line: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let shown: String = line.chars().take(SHOWN).collect();
    format!("text that begins with \"{shown}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Result<Content> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        detect(&path, "the file")
    }

    fn with(at: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; at];
        bytes.extend_from_slice(magic);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    #[test]
    fn raw_disks_are_known_by_partition_table_or_file_system() {
        for (at, magic) in [
            (510, &b"\x55\xaa"[..]),
            (1080, b"\x53\xef"),
            (32769, b"CD001"),
            (65600, b"_BHRfS_M"),
        ] {
            let disk = with(at, magic);
            let size = disk.len() as u64;
            assert_eq!(
                of(&disk).unwrap(),
                Content::Ready(Format::Raw, size),
                "{at}"
            );
        }
    }

    #[test]
    fn what_is_not_a_disk_is_named() {
        for (bytes, what) in [
            (&b""[..], "an empty file"),
            (b"\n<!DOCTYPE html><html>", "an HTML page"),
            (b"Not Found\n", "text that begins with \"Not Found\""),
            (b"BZh91AY&SY", "bzip2"),
            (b"PK\x03\x04", "zip"),
            (&[0; 4096], "without a partition table"),
        ] {
            let error = of(bytes).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            assert_eq!(error.get_kind(), Kind::Usage);
        }
    }

    #[test]
    fn a_vmdk_descriptor_is_refused_since_its_disk_is_elsewhere() {
        let error = of(b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n").unwrap_err();
        assert_eq!(error.get_kind(), Kind::Verification);
        assert!(error.to_string().contains("descriptor"), "{error}");
    }
}
