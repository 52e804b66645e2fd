//! A disk whose bytes are elsewhere: fetched piece by piece when they are read, and kept for a while.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Bytes that are fetched together. An audit of Debian 12 needs 492 of them; of 64 KiB it would need 1103, with about half
/// the bytes. Fetching ahead, four at once when what is read goes on, saved 19 requests and cost a quarter more bytes.
pub const CHUNK: u64 = 256 << 10;

/// How many chunks are kept: 64 MiB.
const KEPT: usize = 256;

/// Gets pieces of a disk that is elsewhere, while the thread that reads waits. How long that may take at most is its affair.
pub trait Fetch: Send {
    /// The chunk of this number, of [`CHUNK`] bytes; the disk's last one is as long as there are bytes.
    fn fetch(&mut self, number: u64) -> io::Result<Vec<u8>>;
}

/// Such a disk. Clones share what was fetched.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    name: String,
    size: u64,
    patience: Duration,
    chunks: Mutex<Chunks>,
}

impl Remote {
    /// A disk of `size` bytes that is called `name` in errors. Reading it may take `patience`.
    pub fn new(name: String, size: u64, patience: Duration, fetch: Box<dyn Fetch>) -> Self {
        let chunks = Chunks {
            fetch,
            kept: HashMap::new(),
            clock: 0,
        };
        Remote(Arc::new(Inner {
            name,
            size,
            patience,
            chunks: Mutex::new(chunks),
        }))
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn patience(&self) -> Duration {
        self.0.patience
    }

    /// Size of the disk.
    pub(super) fn len(&self) -> u64 {
        self.0.size
    }

    /// Fills `buf` from `offset`, which lies within the disk with all of `buf`.
    pub(super) fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        // Who waits for the lock waits for the one line that there is.
        let chunks = self.0.chunks.lock();
        let mut chunks = chunks.unwrap_or_else(PoisonError::into_inner);
        while !buf.is_empty() {
            let chunk = chunks.get(offset / CHUNK, self.0.size)?;
            // Less than a chunk, so it fits.
            let piece = chunk.get((offset % CHUNK) as usize..).unwrap_or_default();
            let len = piece.len().min(buf.len());
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (now, rest) = buf.split_at_mut(len);
            now.copy_from_slice(&piece[..len]);
            (buf, offset) = (rest, offset + len as u64);
        }
        Ok(())
    }
}

/// What was fetched last.
struct Chunks {
    fetch: Box<dyn Fetch>,
    /// By number, with the time of their last use.
    kept: HashMap<u64, (u64, Vec<u8>)>,
    clock: u64,
}

impl Chunks {
    /// A chunk of a disk of `size` bytes.
    fn get(&mut self, number: u64, size: u64) -> io::Result<&[u8]> {
        if !self.kept.contains_key(&number) {
            self.bring(number, size)?;
        }
        self.clock += 1;
        let (used, chunk) = self
            .kept
            .get_mut(&number)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        *used = self.clock;
        Ok(chunk)
    }

    fn bring(&mut self, number: u64, size: u64) -> io::Result<()> {
        let len = CHUNK.min(size - number * CHUNK);
        let chunk = self.fetch.fetch(number)?;
        if chunk.len() as u64 != len {
            let text = format!("{} bytes came where {len} were asked for", chunk.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        self.make_room();
        self.kept.insert(number, (self.clock, chunk));
        Ok(())
    }

    /// Drops what was used the longest ago, if there is too much.
    fn make_room(&mut self) {
        if self.kept.len() < KEPT {
            return;
        }
        let oldest = self.kept.iter().min_by_key(|(_, (used, _))| *used);
        if let Some(number) = oldest.map(|(number, _)| *number) {
            self.kept.remove(&number);
        }
    }
}
