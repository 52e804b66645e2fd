//! Disk images: what their headers say, and qemu-img.

use std::io::Read;
use std::path::Path;

use crate::process;

/// What is needed of qcow2's header.
pub struct Header {
    /// Bytes that the guest sees.
    pub size: u64,
    /// As it is written there: relative to the image.
    pub backing: Option<String>,
}

/// The header of a qcow2 image (`docs/interop/qcow2.rst` of QEMU); none for other files.
pub fn header(path: &Path) -> Option<Header> {
    let mut bytes = vec![];
    std::fs::File::open(path)
        .ok()?
        .take(4096)
        .read_to_end(&mut bytes)
        .ok()?;
    let long = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let short = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    bytes.starts_with(b"QFI\xfb").then_some(())?;
    let (at, length) = (usize::try_from(long(8)?).ok()?, short(16)? as usize);
    let backing = (at > 0).then(|| bytes.get(at..at + length)).flatten();
    Some(Header {
        size: long(24)?,
        backing: backing.map(|name| String::from_utf8_lossy(name).into_owned()),
    })
}

async fn run(arguments: &[&str]) -> Result<(), String> {
    process::run("qemu-img", arguments).await
}

/// Writes the content of one image into another one, of this format.
pub async fn convert(from: &Path, format: &str, to: &Path, into: &str) -> Result<(), String> {
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    let arguments = ["convert", "-f", format, "-O", into, &from, &to];
    let copied = run(&arguments).await;
    copied.map_err(|error| format!("copy failed: {error}"))
}

/// Writes the content of an image into a file that is there, empty, and as long as what the guest sees.
pub async fn fill(from: &Path, format: &str, to: &Path) -> Result<(), String> {
    let (from, to) = (from.to_string_lossy(), to.to_string_lossy());
    let formats = ["-f", format, "-O", "raw"];
    let arguments = [
        &["convert", "-n", "--target-is-zero"],
        &formats[..],
        &[&from, &to],
    ];
    run(&arguments.concat()).await
}

/// Makes an empty image.
pub async fn create(path: &Path, format: &str, bytes: u64) -> Result<(), String> {
    let path = path.to_string_lossy();
    run(&["create", "-q", "-f", format, &path, &bytes.to_string()]).await
}

/// Makes an image of the changes to `base`, which is named as `relative` in it.
pub async fn overlay(path: &Path, relative: &str, format: &str) -> Result<(), String> {
    let path = path.to_string_lossy();
    run(&[
        "create", "-q", "-f", "qcow2", "-F", format, "-b", relative, &path,
    ])
    .await
}

/// Makes an image longer.
pub async fn resize(path: &Path, format: &str, bytes: u64) -> Result<(), String> {
    let path = path.to_string_lossy();
    run(&["resize", "-q", "-f", format, &path, &bytes.to_string()]).await
}
