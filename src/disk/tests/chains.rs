//! Overlays, with what is beneath them, are read as QEMU reads them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::fixture::{convert, overlay, run};
use crate::disk::Disk;
use crate::error::Result;
use crate::source::Format;

fn open(path: &Path) -> Result<Disk> {
    Disk::open_overlay(path, Instant::now() + Duration::from_secs(60))
}

/// Writes to a qcow2 image by commands of qemu-io.
fn write(image: &Path, commands: &[&str]) {
    let mut args = vec!["-f", "qcow2"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(image.to_str().unwrap());
    run("qemu-io", &args);
}

/// Asserts that the disk has the content that QEMU sees, and that what it takes for zeros are zeros.
fn assert_read_as_by_qemu(image: &Path) {
    let expected = fs::read(convert(image, Format::Raw, "expected", &[])).unwrap();
    let disk = open(image).unwrap();
    let read = disk.read_up_to(0, usize::MAX).unwrap();
    assert!(read == expected, "{} is read differently", image.display());
    let mut zeros = 0;
    let mut at = 0;
    while at < disk.size() {
        let extent = disk.extent(at).unwrap();
        let end = (at + extent.len).min(disk.size());
        if extent.zero {
            let content = &expected[at as usize..end as usize];
            assert!(content.iter().all(|byte| *byte == 0), "at {at}");
            zeros += end - at;
        }
        at = end;
    }
    assert!(zeros > 1 << 20, "no zeros are known without reading");
}

#[test]
fn content_comes_from_the_highest_image_that_has_it() {
    for options in [
        &[][..],
        &["-o", "cluster_size=4k"],
        &["-o", "extended_l2=on,cluster_size=128k"],
        &["-o", "compat=0.10"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("base.raw");
        // With an end in the middle of a cluster, and smaller than what is above it.
        fs::write(&raw, vec![1; (3 << 20) + 5120]).unwrap();
        for base in ["base.raw", "base.qcow2"] {
            let format = match base {
                "base.raw" => Format::Raw,
                _ => Format::Qcow2,
            };
            let base = match format {
                Format::Raw => raw.clone(),
                Format::Qcow2 => convert(&raw, format, base, &["-c"]),
            };
            let middle = overlay(&base, format, "middle", options);
            run(
                "qemu-img",
                &[
                    "resize",
                    "-q",
                    "-f",
                    "qcow2",
                    middle.to_str().unwrap(),
                    "8M",
                ],
            );
            write(
                &middle,
                &[
                    "write -P 2 1000k 300k",
                    "write -P 3 4M 64k",
                    "write -P 4 3073k 1k",
                ],
            );
            let top = overlay(&middle, Format::Qcow2, "top", &[]);
            write(
                &top,
                &[
                    "write -z 1028k 100k",
                    "write -P 5 1050k 3k",
                    "write -z -u 0 512k",
                    "discard 2M 64k",
                ],
            );
            assert_read_as_by_qemu(&middle);
            assert_read_as_by_qemu(&top);
        }
    }
}

#[test]
fn an_image_beneath_itself_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("ring");
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            "ring",
            image.to_str().unwrap(),
            "1M",
        ],
    );
    let error = open(&image).err().unwrap();
    assert!(error.to_string().contains("overlay"), "{error}");
}

#[test]
fn an_image_beneath_must_be_there_and_of_a_format_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    fs::write(&base, vec![1; 1 << 20]).unwrap();
    let top = overlay(&base, Format::Raw, "top", &[]);
    let content = fs::read(&top).unwrap();
    let format = content
        .windows(4)
        .position(|four| four == b"\xe2\x79\x2a\xca");
    for (name, says) in [(&b"vmdk"[..], "neither"), (b"raw", "base")] {
        let mut changed = content.clone();
        let at = format.unwrap() + 8;
        changed[at - 1] = name.len() as u8;
        changed[at..at + name.len()].copy_from_slice(name);
        fs::write(&top, changed).unwrap();
        if name == b"raw" {
            fs::remove_file(&base).unwrap();
        }
        let error = open(&top).err().unwrap();
        assert!(error.to_string().contains(says), "{error}");
    }
    let mut unsaid = content.clone();
    unsaid[format.unwrap()] = 0;
    fs::write(&top, unsaid).unwrap();
    let error = open(&top).err().unwrap();
    assert!(error.to_string().contains("in which format"), "{error}");
}
