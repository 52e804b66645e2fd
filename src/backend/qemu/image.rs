//! What is done with disk images: overlays, and the flat image that ships. Formats are always said, never guessed:
//! a guest can write a header into its disk that makes a guess dangerous.

use std::ops::Range;
use std::path::Path;

use super::argv;
use crate::backend::Backing;
use crate::error::{Context, Error, Result};
use crate::proc::Program;
use crate::run::events::Unit;
use crate::run::{Resource, Run};
use crate::source::Format;

/// How an image is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub format: Format,
    /// Compress with zstd; qcow2 only.
    pub zstd: bool,
}

/// Makes a disk that starts with the content of `backing` and leaves it alone.
pub async fn overlay(backing: &Backing, path: &Path) -> Result<()> {
    let args = argv::create_overlay(backing, path);
    Program::new("qemu-img").args(args).stdout().await?;
    Ok(())
}

/// As [`overlay`], of a disk that QEMU has open.
pub(super) async fn overlay_of_open(backing: &Backing, path: &Path) -> Result<()> {
    // Opening it a second time is refused, and not needed: its size is known.
    let line = Program::new("qemu-img").args(argv::create_overlay(backing, path));
    line.arg("-u").stdout().await?;
    Ok(())
}

/// Makes these ranges of the qcow2 `disk` read as zeros, without touching what is beneath it.
pub async fn zero(disk: &Path, ranges: &[Range<u64>]) -> Result<()> {
    if ranges.is_empty() {
        return Ok(());
    }
    let mut said = String::new();
    // The disk is thrown away after the conversion, so nothing of it is synced.
    let done = Program::new("qemu-io")
        .args(["-f", "qcow2", "-t", "unsafe"])
        .arg(disk)
        .stdin(zero_commands(ranges))
        .stream(|chunk| said.push_str(&String::from_utf8_lossy(chunk)))
        .await;
    // It tells on stdout what failed, among its prompts.
    done.map_err(|error| match error.get_detail() {
        Some(_) => error,
        None => error.detail("what it said", said.replace("qemu-io> ", "").trim()),
    })
}

/// QEMU refuses requests of 2 GiB and more.
const MAX_REQUEST: u64 = 1 << 30;

/// Commands of qemu-io that make whole clusters read as zeros without writing them.
fn zero_commands(ranges: &[Range<u64>]) -> String {
    let mut commands = String::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let len = MAX_REQUEST.min(range.end - at);
            commands.push_str(&format!("write -q -z -u {at} {len}\n"));
            at += len;
        }
    }
    commands
}

/// Writes the whole content of `from`, with everything beneath it, to `to`, and makes it durable.
pub async fn flatten(
    (from, format): (&Path, Format),
    to: &Resource,
    target: Target,
    run: &Run,
) -> Result<()> {
    let Resource::File { path } = to else {
        return Err(Error::new(format!("converting an image to {to}")));
    };
    // Who removes the file of a build that was killed must not be overtaken by the program that makes it.
    let guard = run.guard(Resource::Process {
        word: path.to_string_lossy().into_owned(),
    })?;
    let mut program = Program::new("qemu-img")
        .args(["convert", "-p", "-W", "-f", format.name(), "-O"])
        .arg(target.format.name());
    if target.zstd {
        program = program.args(["-c", "-o", "compression_type=zstd"]);
    }
    let mut progress = Progress::default();
    program
        .arg(from)
        .arg(path)
        .stream(|chunk| {
            if let Some(done) = progress.take(chunk) {
                let whole = Some(10_000);
                run.events
                    .progress("convert", done, whole, Unit::BasisPoints);
            }
        })
        .await?;
    run.release(&guard)?;
    let file = std::fs::File::open(path).doing(|| format!("opening {}", path.display()))?;
    tokio::task::spawn_blocking(move || file.sync_all())
        .await
        .map_err(|error| Error::new("writing the image to disk").caused_by(&error))?
        .doing(|| format!("writing {} to disk", path.display()))
}

/// Whether this machine's QEMU compresses with zstd. Its help does not say, so it is asked to make such an image, in
/// `folder`.
pub async fn has_zstd(folder: &Path) -> Result<bool> {
    let probe = folder.join("zstd-probe.qcow2");
    let made = Program::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "compression_type=zstd"])
        .arg(&probe)
        .arg("1M")
        .stdout()
        .await;
    match std::fs::remove_file(&probe) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("removing {}", probe.display()))
        }
        _ => Ok(made.is_ok()),
    }
}

/// Reads `    (12.34/100%)\r` as it comes, in pieces.
#[derive(Default)]
struct Progress {
    pending: String,
}

impl Progress {
    /// The newest progress in hundredths of a percent.
    fn take(&mut self, chunk: &[u8]) -> Option<u64> {
        self.pending.push_str(&String::from_utf8_lossy(chunk));
        let mut newest = None;
        while let Some(end) = self.pending.find('\r') {
            let line: String = self.pending.drain(..=end).collect();
            newest = percent(&line).or(newest);
        }
        newest
    }
}

fn percent(line: &str) -> Option<u64> {
    let number = line.trim().strip_prefix('(')?.strip_suffix("/100%)")?;
    let percent: f64 = number.parse().ok()?;
    Some((percent.clamp(0.0, 100.0) * 100.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_in_pieces() {
        let mut progress = Progress::default();
        assert_eq!(progress.take(b"    (0.00/10"), None);
        assert_eq!(progress.take(b"0%)\r    (12.50/100%)\r    (13"), Some(1250));
        assert_eq!(progress.take(b".00/100%)\r"), Some(1300));
    }

    #[tokio::test]
    async fn an_overlay_starts_with_the_content_of_its_backing() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base, with comma");
        std::fs::write(&base, vec![7; 1 << 20]).unwrap();
        let backing = Backing {
            path: base,
            format: Format::Raw,
            size: 2 << 20,
        };
        let disk = folder.path().join("disk");
        overlay(&backing, &disk).await.unwrap();
        let flat = folder.path().join("flat");
        let line = Program::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw"]);
        line.arg(&disk).arg(&flat).stdout().await.unwrap();
        let bytes = std::fs::read(flat).unwrap();
        assert_eq!((bytes.len(), bytes[0], bytes[1 << 20]), (2 << 20, 7, 0));
    }

    #[test]
    fn requests_stay_below_what_qemu_takes() {
        let commands = zero_commands(&[4096..8192, 1 << 20..(5 << 29) + (1 << 20)]);
        let expected = "write -q -z -u 4096 4096
write -q -z -u 1048576 1073741824
write -q -z -u 1074790400 1073741824
write -q -z -u 2148532224 536870912
";
        assert_eq!(commands, expected);
    }

    #[tokio::test]
    async fn a_range_that_cannot_be_zeroed_is_an_error_with_what_qemu_said() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        let create = Program::new("qemu-img").args(["create", "-q", "-f", "qcow2"]);
        create.arg(&disk).arg("1M").stdout().await.unwrap();
        zero(&disk, &[0..4096, 8192..1 << 20]).await.unwrap();
        let error = zero(&disk, &[0..4096, 1 << 30..(1 << 30) + 4096, 8192..12288]);
        let error = error.await.unwrap_err();
        assert_eq!(
            error.get_detail().unwrap().text,
            "write failed: Input/output error"
        );
    }
}
