//! Damaged and crafted images: an error or a finding, never a panic, never without end.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::fixture::{Tree, audit_with, debugfs, disk, findings, place, places, plan};
use crate::seal::Item;
use crate::seal::audit::Subject;
use crate::source::Format;

/// Numbers that look random and are the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn garbage_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("garbage");
    let mut noise = Noise(42);
    let random: Vec<u8> = (0..1 << 18)
        .flat_map(|_| noise.next().to_le_bytes())
        .collect();
    for content in [&b""[..], b"x", &[0; 4096], &random] {
        fs::write(&path, content).unwrap();
        for format in [Format::Raw, Format::Qcow2] {
            let error = audit_with(&path, format, &plan(&[])).unwrap_err();
            assert!(error.get_cause().is_some());
        }
    }
    assert!(audit_with(&dir.path().join("none"), Format::Raw, &plan(&[])).is_err());
}

#[test]
fn truncated_images_are_errors() {
    let tree = Tree::sealed();
    let raw = tree.image();
    let image = tree.convert(&raw, &["-c", "-o", "compression_type=zstd"]);
    let whole = disk(&tree.dir, 16, "label: gpt\\n1M 8M L\\n");
    place(&whole, 1, &fs::read(&raw).unwrap());
    for (path, format) in [
        (raw, Format::Raw),
        (image, Format::Qcow2),
        (whole, Format::Raw),
    ] {
        let content = fs::read(&path).unwrap();
        for part in [1, 3, 5] {
            fs::write(&path, &content[..content.len() * part / 10]).unwrap();
            assert!(
                audit_with(&path, format, &plan(&[])).is_err(),
                "{format:?} {part}"
            );
        }
    }
}

#[test]
fn flipped_bytes_end_in_a_result() {
    let tree = Tree::sealed();
    // Without checksums, or nearly every change would be caught by these.
    let raw = tree.image_with(&["-O", "^metadata_csum"]);
    let packed = tree.convert(&raw, &["-c"]);
    let mut noise = Noise(7);
    for (path, format, reach) in [
        (&raw, Format::Raw, 1 << 20),
        (&packed, Format::Qcow2, 1 << 17),
    ] {
        let content = fs::read(path).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        for _ in 0..50 {
            let places: Vec<u64> = (0..20)
                .map(|_| noise.next() % reach.min(content.len() as u64))
                .collect();
            for at in &places {
                file.write_all_at(&[noise.next() as u8], *at).unwrap();
            }
            if let Err(error) = audit_with(path, format, &plan(&[])) {
                assert!(!error.to_string().contains("far too long"), "{error}");
            }
            for at in places {
                file.write_all_at(&content[at as usize..=at as usize], at)
                    .unwrap();
            }
        }
    }
}

#[test]
fn loops_of_links_end() {
    let tree = Tree::sealed();
    tree.link("/etc/b", "/etc/a");
    tree.link("/etc/a", "/etc/b");
    tree.link("/etc/a", "/etc/hostname");
    tree.link("../../../../etc/shadow/..", "/etc/shadow");
    tree.link("/root/.ssh", "/root/.ssh/x");
    tree.link("..", "/var/log/up");
    tree.link("/var/log", "/home/x/.ssh");
    assert_eq!(findings(&tree.image(), &[]), []);
}

#[test]
fn a_ring_of_directories_ends() {
    let tree = Tree::sealed();
    let image = tree.image();
    debugfs(&image, "ln /etc /etc/ring");
    let error = audit_with(&image, Format::Raw, &plan(&[])).unwrap_err();
    assert!(error.to_string().contains("no end"), "{error}");
}

#[test]
fn absurd_sizes_are_not_allocated() {
    let tree = Tree::sealed();
    let long = "x/".repeat(100);
    tree.link(&long, "/etc/hostname");
    tree.file("/etc/sudoers.d/x", "x");
    let image = tree.image();
    debugfs(&image, "sif /etc/hostname size 4000000000000");
    debugfs(&image, "sif /etc/sudoers.d/x size 4000000000000");
    assert_eq!(findings(&image, &[]), []);
    debugfs(&image, "sif /etc/sudoers.d size 1000000000000");
    assert!(audit_with(&image, Format::Raw, &plan(&[])).is_err());
}

#[test]
fn names_cannot_play_tricks_on_a_terminal() {
    let tree = Tree::sealed();
    tree.file("/tmp/a\u{1b}[2J\nb", "");
    let found = findings(&tree.image(), &[]);
    assert_eq!(
        places(&found),
        [(Subject::Item(Item::Tmp), "/tmp/a\\u{1b}[2J\\nb")]
    );
}
