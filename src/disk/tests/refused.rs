//! File systems whose bitmaps are not to be believed are left as they are, and that is told.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::fixture::{debugfs, debugfs_script, free, overlay, run, try_free};
use crate::source::Format;

/// A file system of 8 MiB with something in its free blocks.
fn image(dir: &TempDir, options: &[&str]) -> PathBuf {
    let image = dir.path().join("fs.raw");
    let file = dir.path().join("file");
    fs::write(&file, vec![b'x'; 100_000]).unwrap();
    let mut args = vec!["-q", "-F", "-t", "ext4", "-b", "1024"];
    args.extend(options);
    args.extend([image.to_str().unwrap(), "8M"]);
    let _ = fs::remove_file(&image);
    run("mke2fs", &args);
    let commands = format!("write {} deleted\nrm deleted\n", file.display());
    debugfs_script(&image, &commands);
    image
}

/// Why nothing on this image would be zeroed.
#[track_caller]
fn why(image: &Path) -> String {
    let free = free(&overlay(image, Format::Raw, "overlay", &[]));
    assert_eq!(free.ranges, []);
    assert_eq!(free.left.len(), 1);
    free.left[0].why.clone()
}

#[test]
fn a_file_system_that_was_not_left_clean() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(&dir, &[]);
    debugfs(&image, "ssv state 0");
    assert!(why(&image).contains("not marked clean"));
    debugfs(&image, "ssv state 1");
    debugfs(&image, "feature needs_recovery");
    assert!(why(&image).contains("journal"));
    debugfs(&image, "feature -needs_recovery");
    let free = free(&overlay(&image, Format::Raw, "overlay", &[]));
    assert_ne!(free.ranges, [], "it never would have been zeroed");
}

#[test]
fn features_that_are_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let spread = image(&dir, &["-O", "meta_bg,^resize_inode"]);
    assert!(why(&spread).contains("meta_bg"));
    for feature in ["FEATURE_I31", "FEATURE_R31"] {
        let image = image(&dir, &[]);
        debugfs(&image, &format!("feature {feature}"));
        assert!(why(&image).contains("not known (0x"), "{feature}");
    }
}

#[test]
fn a_bitmap_that_is_not_what_its_group_says() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(&dir, &[]);
    debugfs(&image, "setb 5000");
    assert!(why(&image).contains("its descriptor says"));
}

#[test]
fn a_bitmap_by_which_the_file_system_itself_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(&dir, &["-O", "^metadata_csum,^uninit_bg,^64bit"]);
    let bytes = fs::read(&image).unwrap();
    // Block 2 has the descriptors. Its first one gives the bitmap, the inode table (at 8) and the free blocks (at 12).
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (bitmap, table) = (word(2048) * 1024, word(2048 + 8));
    let count = u16::from_le_bytes(bytes[2060..2062].try_into().unwrap());
    let file = File::options().write(true).open(&image).unwrap();
    // The first bit is block 1's.
    let at = bitmap + (table - 1) / 8;
    file.write_all_at(&[bytes[at] & !(1 << ((table - 1) % 8))], at as u64)
        .unwrap();
    file.write_all_at(&(count + 1).to_le_bytes(), 2060).unwrap();
    assert!(why(&image).contains("its own metadata"));
}

#[test]
fn an_old_superblock_below_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(&dir, &[]);
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(b"LUKS\xba\xbe", 0).unwrap();
    assert!(why(&image).contains("more than one kind"));
}

#[test]
fn impossible_numbers() {
    let dir = tempfile::tempdir().unwrap();
    for (what, at, number) in [
        ("block size", 0x18, 9),
        ("block size", 0x18, 2),
        ("cluster size", 0x1c, 40),
        ("blocks in a group", 0x20, 0),
        ("blocks in a group", 0x20, 1),
        ("blocks in a group", 0x20, 1 << 20),
        ("first block", 0x14, 1),
        ("size of a descriptor", 0xfe, 65),
        ("blocks", 0x04, 1 << 30),
        ("blocks", 0x150, 1),
        ("inodes in a group", 0x28, 1 << 31),
    ] {
        let image = image(&dir, &["-O", "bigalloc", "-C", "2048"]);
        let file = File::options().write(true).open(&image).unwrap();
        let number = u32::to_le_bytes(number);
        file.write_all_at(&number, 1024 + at).unwrap();
        println!("{what}: {}", why(&image));
    }
}

#[test]
fn whatever_is_flipped_ends_in_an_error_or_in_ranges_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(&dir, &["-O", "^metadata_csum"]);
    let top = overlay(&image, Format::Raw, "overlay", &[]);
    run(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -z 1M 3M", top.to_str().unwrap()],
    );
    // The file system's superblock, descriptors and bitmaps; the overlay's header and tables.
    for (path, from, to) in [
        (&image, 1024, 70_000),
        (&top, 0, 512),
        (&top, 1 << 18, 1 << 19),
    ] {
        let content = fs::read(path).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        let mut noise = 99_u64;
        let mut random = |below: u64| {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (noise >> 33) % below
        };
        for _ in 0..60 {
            for _ in 0..3 {
                let at = from + random(to.min(content.len() as u64) - from);
                file.write_all_at(&[random(256) as u8], at).unwrap();
            }
            match try_free(&top) {
                Ok(free) => assert!(free.ranges.iter().all(|range| range.end <= 8 << 20)),
                // Of a thread that panicked, it is said that nothing could be understood.
                Err(error) => assert!(
                    ["far too long", "cannot be understood"]
                        .iter()
                        .all(|text| !error.to_string().contains(text)),
                    "{error}"
                ),
            }
            file.write_all_at(&content, 0).unwrap();
        }
    }
}
