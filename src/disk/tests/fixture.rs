//! Disks made by e2fsprogs, sfdisk and qemu-img.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::backend::qemu::image;
use crate::disk::{Free, Left, free_blocks};
use crate::error::Result;
use crate::source::Format;

/// Runs a program that these tests require.
pub fn run(program: &str, args: &[&str]) {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let out = Command::new(program)
        .args(args)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {said}");
}

/// Runs a command of debugfs on an image.
pub fn debugfs(image: &Path, command: &str) {
    run("debugfs", &["-w", "-R", command, image.to_str().unwrap()]);
}

/// An empty disk of this many MiB with the partitions of an sfdisk script.
pub fn disk(dir: &TempDir, mib: u64, script: &str) -> PathBuf {
    let image = dir.path().join("whole.raw");
    File::create(&image).unwrap().set_len(mib << 20).unwrap();
    let command = format!(
        "PATH=$PATH:/usr/sbin:/sbin; printf '{script}' | sfdisk -q {}",
        image.display()
    );
    run("sh", &["-c", &command]);
    image
}

/// Puts `content` into a disk at an offset in MiB.
pub fn place(disk: &Path, mib: u64, content: &[u8]) {
    let file = File::options().write(true).open(disk).unwrap();
    file.write_all_at(content, mib << 20).unwrap();
}

/// Runs commands of debugfs, one a line, on an image.
pub fn debugfs_script(image: &Path, commands: &str) {
    let script = image.with_extension("debugfs");
    std::fs::write(&script, commands).unwrap();
    let (script, image) = (script.to_str().unwrap(), image.to_str().unwrap());
    run("debugfs", &["-w", "-f", script, image]);
}

/// A qcow2 overlay called `name` over the image `base`, made with these options of qemu-img.
pub fn overlay(base: &Path, format: Format, name: &str, options: &[&str]) -> PathBuf {
    let image = base.with_file_name(name);
    let mut args = vec!["create", "-q", "-f", "qcow2", "-F", format.name(), "-b"];
    args.push(base.to_str().unwrap());
    args.extend(options);
    args.push(image.to_str().unwrap());
    run("qemu-img", &args);
    image
}

/// The image `from` (a raw one by its name, else qcow2) in another format, called `name`.
pub fn convert(from: &Path, to: Format, name: &str, options: &[&str]) -> PathBuf {
    let image = from.with_file_name(name);
    let is_raw = from.extension().is_some_and(|extension| extension == "raw");
    let format = if is_raw { "raw" } else { "qcow2" };
    let mut args = vec!["convert", "-f", format, "-O", to.name()];
    args.extend(options);
    args.extend([from.to_str().unwrap(), image.to_str().unwrap()]);
    run("qemu-img", &args);
    image
}

/// How often a text is in a file.
pub fn occurrences(file: &Path, text: &str) -> usize {
    let content = std::fs::read(file).unwrap();
    let first = text.as_bytes()[0];
    let starts = content
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == first);
    starts
        .filter(|(at, _)| content[*at..].starts_with(text.as_bytes()))
        .count()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// The free blocks of an overlay.
pub fn free(overlay: &Path) -> Free {
    try_free(overlay).unwrap()
}

/// The same where that may fail.
pub fn try_free(overlay: &Path) -> Result<Free> {
    block_on(free_blocks(overlay))
}

/// Zeroes the free blocks of an overlay, as a build does; returns what could not be.
pub fn zero(overlay: &Path) -> Vec<Left> {
    let free = free(overlay);
    block_on(image::zero(overlay, &free.ranges)).unwrap();
    free.left
}
