//! The machine's RAM, saved to a file and brought back: QEMU's migration stream through a descriptor that it is handed,
//! so that no path, port or program is involved. That works on QEMU 7.2 as on 10.
//!
//! QEMU believes a stream: one with another memory size or from another CPU may load and hang. So whoever restores has to
//! compare [`super::memory_key`] first, and nothing of the guest runs before the stream's digest was found right.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;

use serde_json::json;

use super::qmp::Qmp;
use crate::error::{Context, Error, Result};

/// Quick; the next levels make the file little smaller.
const LEVEL: i32 = 1;

/// Threads that compress. The guest stands still meanwhile, so there is a core for each but QEMU's.
const THREADS: u32 = 2;

/// Bytes that are passed on at once, and that the pipe to QEMU holds.
const CHUNK: usize = 1 << 20;

/// The name of the descriptor within QEMU.
const NAME: &str = "memory";

/// RAM in a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Saved {
    /// sha256 of the file.
    pub sha256: String,
    /// Bytes of the file.
    pub size: u64,
}

/// Saves the RAM of a machine that is stopped to a new file.
pub(super) async fn save(qmp: &mut Qmp, path: &Path) -> Result<Saved> {
    let doing = || format!("saving the machine's memory to {}", path.display());
    let (reader, writer) = pipe().doing(doing)?;
    let file = File::create_new(path).doing(doing)?;
    let pack = tokio::task::spawn_blocking(move || pack(reader, file));
    watch(qmp).await?;
    // By default QEMU is as slow as for a network in use.
    qmp.execute(
        "migrate-set-parameters",
        json!({"max-bandwidth": 1_u64 << 40}),
    )
    .await?;
    qmp.hand_over(NAME, OwnedFd::from(writer)).await?;
    let uri = json!({"uri": format!("fd:{NAME}")});
    if let Err(refused) = qmp.execute("migrate", uri).await {
        // Else nobody would ever close it, and the other end would be read for ever.
        qmp.execute("closefd", json!({"fdname": NAME})).await?;
        return Err(refused);
    }
    ended(qmp).await.doing(doing)?;
    let packed = pack.await.doing(doing)?;
    packed.doing(doing)
}

/// Fills the RAM of a machine that was started to wait for it. It does not run yet afterwards. An error if the file is
/// not the one that was saved.
pub(super) async fn restore(qmp: &mut Qmp, path: &Path, saved: &Saved) -> Result<()> {
    let doing = || format!("restoring the machine's memory from {}", path.display());
    let (reader, writer) = pipe().doing(doing)?;
    watch(qmp).await?;
    qmp.hand_over(NAME, OwnedFd::from(reader)).await?;
    let from: PathBuf = path.to_owned();
    let unpack = tokio::task::spawn_blocking(move || unpack(&from, writer));
    qmp.execute("migrate-incoming", json!({"uri": format!("fd:{NAME}")}))
        .await?;
    let loaded = ended(qmp).await.doing(doing);
    // What was wrong with the file explains more than that QEMU did not like it.
    let unpacked = unpack.await.doing(doing)?;
    let sha256 = unpacked.doing(doing)?;
    if sha256 != saved.sha256 {
        return Err(Error::new(doing()).cause("it was changed since it was saved"));
    }
    loaded
}

/// A pipe that need not be waited for at every 64 KiB.
fn pipe() -> io::Result<(io::PipeReader, io::PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    // Refused where the user has many pipes already; then it is slower.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, CHUNK);
    Ok((reader, writer))
}

async fn watch(qmp: &mut Qmp) -> Result<()> {
    // What an earlier one has left unread is not about this one.
    qmp.forget("MIGRATION");
    let events = json!({"capabilities": [{"capability": "events", "state": true}]});
    qmp.execute("migrate-set-capabilities", events).await?;
    Ok(())
}

/// Waits for the end of a migration.
async fn ended(qmp: &mut Qmp) -> Result<()> {
    loop {
        let event = qmp.event_called("MIGRATION").await?;
        let status = event.data.get("status").and_then(|status| status.as_str());
        match status {
            Some("completed") => return Ok(()),
            Some("failed") => {
                let answer = qmp.execute("query-migrate", json!({})).await?;
                let why = answer.get("error-desc").and_then(|why| why.as_str());
                return Err(Error::new("QEMU").cause(why.unwrap_or("it gave no reason")));
            }
            _ => {}
        }
    }
}

fn pack(mut from: impl Read, file: File) -> io::Result<Saved> {
    let mut encoder = zstd::Encoder::new(Hashed::new(file), LEVEL)?;
    encoder.multithread(THREADS)?;
    copy(&mut from, &mut encoder)?;
    let hashed = encoder.finish()?;
    Ok(Saved {
        size: hashed.bytes,
        sha256: hashed.sha256()?,
    })
}

/// Returns the sha256 of the whole file.
fn unpack(path: &Path, mut to: impl Write) -> io::Result<String> {
    let file = Hashed::new(File::open(path)?);
    let mut decoder = zstd::Decoder::new(file)?;
    // A file that is damaged is told by its digest, a stream that QEMU does not take by QEMU.
    let _ = copy(&mut decoder, &mut to);
    drop(to);
    let mut rest = decoder.finish().into_inner();
    io::copy(&mut rest, &mut io::sink())?;
    rest.sha256()
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer)? {
            0 => return to.flush(),
            read => to.write_all(&buffer[..read])?,
        }
    }
}

/// How many pieces of a file may wait to be hashed.
const QUEUE: usize = 16;

/// A file that is hashed as it is read or written, on a thread of its own: it takes as long as packing does.
struct Hashed {
    file: File,
    pieces: SyncSender<Vec<u8>>,
    digest: JoinHandle<ring::digest::Digest>,
    bytes: u64,
}

impl Hashed {
    fn new(file: File) -> Self {
        let (pieces, to_hash) = mpsc::sync_channel::<Vec<u8>>(QUEUE);
        let digest = std::thread::spawn(move || {
            let mut context = ring::digest::Context::new(&ring::digest::SHA256);
            for piece in to_hash {
                context.update(&piece);
            }
            context.finish()
        });
        Hashed {
            file,
            pieces,
            digest,
            bytes: 0,
        }
    }

    fn note(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.pieces.send(bytes.to_vec()).map_err(io::Error::other)
    }

    fn sha256(self) -> io::Result<String> {
        drop(self.pieces);
        let digest = self.digest.join();
        let digest = digest.map_err(|_| io::Error::other("the thread that hashes panicked"))?;
        Ok(crate::text::hex(digest.as_ref()))
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.note(&buffer[..read])?;
        Ok(read)
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.note(&bytes[..written])?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_is_unpacked_and_every_changed_byte_changes_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("memory");
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 700) as u8).collect();
        let saved = pack(content.as_slice(), File::create_new(&path).unwrap()).unwrap();
        let mut back = vec![];
        assert_eq!(unpack(&path, &mut back).unwrap(), saved.sha256);
        assert!(back == content);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), saved.size);

        let whole = std::fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            let found = unpack(&path, io::sink());
            assert!(found.is_ok_and(|sha256| sha256 != saved.sha256), "{at}");
        }
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_ne!(unpack(&path, io::sink()).unwrap(), saved.sha256);
    }
}
