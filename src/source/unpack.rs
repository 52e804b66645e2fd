//! Making a published file an image that QEMU can use: decompression and conversion, within bounds.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::digest::{CHUNK, Hasher};
use super::format::Compression;
use super::work::Meter;
use crate::error::{Context as _, Error, Kind, Result, chain};
use crate::proc::Program;
use crate::run::events::{Events, Unit};

/// Holes are kept for zeroes of at least this size: a block of common file systems.
const BLOCK: usize = 4096;

/// How many bytes come out between two looks at the free space.
const LOOK_EVERY: u64 = 64 << 20;

/// The memory that a decoder may use; `xz -9` takes 65 MiB.
const DECODER_MEMORY: u64 = 1 << 30;

/// What work on images may use up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The largest disk that comes out, in bytes.
    pub output: u64,
    /// The bytes that are left free on the file system of the cache.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            output: 256 << 30,
            reserve: 1 << 30,
        }
    }
}

impl Limits {
    /// Fails when `needed` more bytes would leave less than the reserve on the file system of `path`.
    pub fn check_space(&self, path: &Path, needed: u64) -> Result<()> {
        let stat = rustix::fs::statvfs(path).doing(|| format!("looking at {}", path.display()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= self.reserve.saturating_add(needed) {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let folder = path.parent().unwrap_or(path);
        Err(Error::new(format!("writing to {}", folder.display()))
            .cause(format!(
                "the file system has {} MiB left; {} MiB are needed, and {} MiB are to stay free",
                free >> 20,
                mib(needed),
                mib(self.reserve),
            ))
            .hint("free some space (`imgbuild image list`, `imgbuild image rm`, `imgbuild gc`)"))
    }
}

/// Decompresses `source` (in messages: `shown`) to the new file `target`, keeping holes. Returns the sha256 of what
/// came out. Ends with an error when `stop` is cancelled.
pub(super) fn decompress(
    (source, shown): (&Path, &str),
    compression: Compression,
    target: &Path,
    limits: Limits,
    events: &Events,
    stop: &CancellationToken,
) -> Result<String> {
    let doing = || format!("unpacking {shown}");
    let input = File::open(source).doing(doing)?;
    let total = input.metadata().doing(doing)?.len();
    let input = Counted {
        file: input,
        done: 0,
        meter: Meter::new(events, "unpack", Some(total)),
    };
    let input = BufReader::with_capacity(CHUNK, input);
    let mut decoder: Box<dyn Read> = match compression {
        Compression::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(DECODER_MEMORY, flags);
            let stream = stream.doing(doing)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(input).doing(doing)?),
    };
    let mut output = File::create_new(target).doing(doing)?;
    let mut hasher = Hasher::for_expected(None);
    let mut buffer = vec![0; CHUNK];
    let (mut written, mut looked) = (0_u64, 0_u64);
    loop {
        if stop.is_cancelled() {
            return Err(Error::new(doing()).cause("interrupted"));
        }
        let filled = fill(&mut decoder, &mut buffer).map_err(|error| {
            Error::new(doing())
                .kind(Kind::Usage)
                .cause(format!("its data is damaged: {}", chain(&error)))
        })?;
        if filled == 0 {
            break;
        }
        written += filled as u64;
        if written > limits.output {
            let gib = limits.output >> 30;
            return Err(Error::new(doing())
                .kind(Kind::Usage)
                .cause(format!("more than {gib} GiB come out of it"))
                .hint("a disk of that size is no cloud image"));
        }
        hasher.update(&buffer[..filled]);
        write_sparse(&mut output, &buffer[..filled]).doing(doing)?;
        if written - looked >= LOOK_EVERY {
            looked = written;
            limits.check_space(target, 0)?;
        }
    }
    output.set_len(written).doing(doing)?;
    output.sync_all().doing(doing)?;
    Ok(hasher.finish().sha256)
}

/// Converts a VMDK, which [`super::format::detect`] has found safe and of `size` bytes, to the new qcow2 `target`.
pub(super) async fn convert(
    (source, shown): (&Path, &str),
    size: u64,
    target: &Path,
    limits: Limits,
    events: &Events,
) -> Result<()> {
    if size > limits.output {
        let gib = limits.output >> 30;
        return Err(Error::new(format!("converting {shown}"))
            .cause(format!("its disk is larger than {gib} GiB")));
    }
    // Formats are said explicitly: QEMU's guess would let the image's content choose the driver.
    let convert = Program::new("qemu-img")
        .args(["convert", "-p", "-f", "vmdk", "-O", "qcow2"])
        .arg(source)
        .arg(target);
    let progress = |output: &[u8]| {
        if let Some(done) = basis_points(&String::from_utf8_lossy(output)) {
            events.progress("unpack", done, Some(10_000), Unit::BasisPoints);
        }
    };
    convert.stream(progress).await
}

/// The last percentage that `qemu-img -p` printed, as `(12.34/100%)`.
fn basis_points(output: &str) -> Option<u64> {
    let (before, _) = output.rsplit_once("/100%")?;
    let (_, percent) = before.rsplit_once('(')?;
    let percent: f64 = percent.trim().parse().ok()?;
    Some((percent.clamp(0.0, 100.0) * 100.0) as u64)
}

/// Reads until the buffer is full or the data ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes bytes, skipping blocks of zeroes.
fn write_sparse(file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    let zero = |block: &&[u8]| block.iter().all(|byte| *byte == 0);
    let mut rest = bytes;
    while !rest.is_empty() {
        let zeroes = rest.chunks(BLOCK).take_while(zero).map(<[u8]>::len).sum();
        let (hole, data) = rest.split_at(zeroes);
        if !hole.is_empty() {
            file.seek(SeekFrom::Current(hole.len().cast_signed() as i64))?;
        }
        let length = data
            .chunks(BLOCK)
            .take_while(|block| !zero(block))
            .map(<[u8]>::len)
            .sum();
        let (data, after) = data.split_at(length);
        file.write_all(data)?;
        rest = after;
    }
    Ok(())
}

/// A file that tells how far it was read.
struct Counted {
    file: File,
    done: u64,
    meter: Meter,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.done += read as u64;
        self.meter.at(self.done);
        Ok(read)
    }
}
