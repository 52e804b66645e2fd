//! What was deleted is gone from the image, and nothing else is.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::fixture::{convert, debugfs_script, disk, occurrences, overlay, place, run, zero};
use crate::source::Format;

const MARKER: &str = "once in a deleted file; ";

/// A file system of 24 MiB, made with these options of mke2fs, in which files that live lie between deleted ones.
struct Specimen {
    dir: TempDir,
    files: PathBuf,
    image: PathBuf,
}

impl Specimen {
    fn new(options: &[&str]) -> Specimen {
        let dir = TempDir::new().unwrap();
        let files = dir.path().join("files");
        let image = dir.path().join("fs.raw");
        let deleted = |number| files.join(format!("some/where/deleted-{number}"));
        fs::create_dir_all(files.join("some/where")).unwrap();
        // Of sizes that fill less than a block, and more than a cluster of the image.
        let sizes = [700, 5_000, 40_000, 300_000];
        for (number, size) in sizes.into_iter().cycle().take(40).enumerate() {
            let kept = format!("{number} is kept; ").repeat(size / 10);
            fs::write(files.join(format!("some/where/kept-{number}")), kept).unwrap();
            fs::write(deleted(number), MARKER.repeat(size / 20)).unwrap();
        }
        std::os::unix::fs::symlink("some/where", files.join("link")).unwrap();
        let (from, to) = (files.to_str().unwrap(), image.to_str().unwrap());
        let mut args = vec!["-q", "-F", "-t", "ext4", "-d", from];
        args.extend(options);
        args.extend([to, "24M"]);
        run("mke2fs", &args);
        let mut script = String::new();
        for number in 0..40 {
            fs::remove_file(deleted(number)).unwrap();
            script.push_str(&format!("rm /some/where/deleted-{number}\n"));
        }
        debugfs_script(&image, &script);
        assert!(occurrences(&image, MARKER) > 1000, "it never was there");
        Specimen { dir, files, image }
    }

    /// Asserts that `image` is the file system with all its files, and nothing of those that were deleted.
    fn assert_only_live_files_in(&self, image: &Path, context: &str) {
        assert_eq!(occurrences(image, MARKER), 0, "{context}");
        run("e2fsck", &["-fn", image.to_str().unwrap()]);
        let dump = TempDir::new().unwrap();
        let to = dump.path().to_str().unwrap();
        let line = format!("rdump / {to}");
        run("debugfs", &["-R", &line, image.to_str().unwrap()]);
        fs::remove_dir(dump.path().join("lost+found")).unwrap();
        run(
            "diff",
            &["-r", "--no-dereference", self.files.to_str().unwrap(), to],
        );
    }
}

#[test]
fn of_deleted_files_nothing_is_left_and_of_others_all_whatever_the_file_system_is_like() {
    let kinds: [&[&str]; 11] = [
        &["-b", "4096"],
        &["-b", "1024"],
        &["-b", "2048", "-g", "4096"],
        &["-b", "4096", "-g", "1024", "-O", "^flex_bg"],
        &["-b", "1024", "-O", "^64bit"],
        &["-b", "1024", "-O", "^metadata_csum,^uninit_bg"],
        &[
            "-b",
            "4096",
            "-g",
            "2048",
            "-O",
            "^64bit,^metadata_csum,uninit_bg",
        ],
        &["-b", "1024", "-O", "bigalloc", "-C", "8192"],
        &["-b", "4096", "-O", "bigalloc", "-C", "16384"],
        &["-b", "1024", "-O", "none,has_journal,filetype"],
        &["-b", "4096", "-O", "none,filetype", "-I", "128"],
    ];
    for options in kinds {
        let specimen = Specimen::new(options);
        let disk = overlay(&specimen.image, Format::Raw, "disk", &[]);
        assert_eq!(zero(&disk), [], "{options:?}");
        let flat = convert(&disk, Format::Raw, "flat", &[]);
        specimen.assert_only_live_files_in(&flat, &format!("{options:?}"));
    }
}

#[test]
fn deleted_content_is_gone_whichever_image_of_a_chain_it_lies_in() {
    let specimen = Specimen::new(&[]);
    let raw = &specimen.image;
    let packed = convert(raw, Format::Qcow2, "packed", &["-c"]);
    let blank = specimen.dir.path().join("blank");
    fs::File::create(&blank).unwrap().set_len(24 << 20).unwrap();
    let over_blank = ["-B", blank.to_str().unwrap(), "-F", "raw"];
    let chains = [
        (
            "a compressed base",
            overlay(&packed, Format::Qcow2, "a", &[]),
        ),
        ("the overlay", convert(raw, Format::Qcow2, "b", &over_blank)),
        (
            "the base of a base",
            overlay(
                &overlay(raw, Format::Raw, "c1", &[]),
                Format::Qcow2,
                "c",
                &[],
            ),
        ),
        (
            "a base of subclusters",
            overlay(
                &convert(raw, Format::Qcow2, "d1", &["-o", "extended_l2=on"]),
                Format::Qcow2,
                "d",
                &[],
            ),
        ),
        (
            "below an overlay with small clusters",
            overlay(raw, Format::Raw, "e", &["-o", "cluster_size=512"]),
        ),
    ];
    for (place, disk) in chains {
        assert_eq!(zero(&disk), [], "{place}");
        let flat = convert(&disk, Format::Raw, "flat", &[]);
        specimen.assert_only_live_files_in(&flat, place);
    }
}

#[test]
fn every_partition_is_zeroed_and_those_of_another_kind_are_told() {
    let specimen = Specimen::new(&[]);
    let content = fs::read(&specimen.image).unwrap();
    let table = "label: gpt\\n1M 24M L\\n26M 1M S\\n27M 1M U\\n28M 24M L\\n";
    let whole = disk(&specimen.dir, 60, table);
    place(&whole, 1, &content);
    place(&whole, 28, &content);
    let mut swap = [0; 4096];
    swap[0xff6..].copy_from_slice(b"SWAPSPACE2");
    place(&whole, 26, &swap);
    let mut fat = [0; 512];
    fat[82..87].copy_from_slice(b"FAT32");
    place(&whole, 27, &fat);

    let disk = overlay(&whole, Format::Raw, "disk", &[]);
    let left = zero(&disk);
    let left: Vec<_> = left
        .iter()
        .map(|left| (&*left.partition, &*left.why))
        .collect();
    assert_eq!(
        left,
        [("partition 2", "it holds swap, not ext2, ext3 or ext4")]
    );

    let flat = fs::read(convert(&disk, Format::Raw, "flat", &[])).unwrap();
    let part = specimen.dir.path().join("part");
    for mib in [1, 28] {
        fs::write(&part, &flat[mib << 20..(mib + 24) << 20]).unwrap();
        specimen.assert_only_live_files_in(&part, &format!("at {mib} MiB"));
    }
}

#[test]
fn what_reads_as_zeros_already_is_not_written_again() {
    let specimen = Specimen::new(&[]);
    let disk = overlay(&specimen.image, Format::Raw, "disk", &[]);
    let free = || super::fixture::free(&disk).ranges;
    let bytes: u64 = free().iter().map(|range| range.end - range.start).sum();
    // About 3.5 MiB of deleted files; most of the file system was never used.
    assert!((3 << 20..5 << 20).contains(&bytes), "{bytes}");
    zero(&disk);
    assert_eq!(free(), []);
}
