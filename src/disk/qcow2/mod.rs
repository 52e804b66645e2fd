//! Reading qcow2: as much of it as QEMU writes, with clusters compressed by zlib or zstd (the crates at hand read only
//! zlib), subclusters, and images beneath. No encryption, no external data file: `source` refuses these.

mod header;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use header::Header;
pub use header::backing_file;

use super::image::{Extent, Image};

/// Decompressed clusters that are kept, in bytes; file systems read in blocks far smaller than a cluster.
const CACHE: usize = 16 << 20;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZERO: u64 = 1;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

pub(super) struct Qcow2 {
    file: File,
    file_len: u64,
    header: Header,
    l1: Vec<u64>,
    backing: Option<Box<Image>>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// L2 tables by their offset, clusters by their number; the newest last.
    tables: Vec<(u64, Vec<u64>)>,
    clusters: Vec<(u64, Vec<u8>)>,
}

/// Where a piece of the disk is.
#[derive(Debug, Clone, Copy)]
enum Place {
    Zero,
    /// In the image beneath; there is none, zeros.
    Beneath,
    /// At this offset of the file.
    Plain(u64),
    /// All of the cluster is packed.
    Compressed {
        offset: u64,
        len: usize,
    },
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Qcow2 {
    /// Opens the image `file`, which is at `path`, with up to `depth` images beneath it.
    pub(super) fn open(file: File, path: &Path, depth: usize) -> io::Result<Qcow2> {
        let header = Header::read(&file)?;
        let backing = match &header.backing {
            None => None,
            Some(_) if depth == 0 => {
                return Err(invalid(
                    "the qcow2 image is an overlay; a sealed image stands alone",
                ));
            }
            Some((name, format)) => {
                let beneath = path.parent().unwrap_or(path).join(name);
                let image = Image::open(&beneath, *format, depth - 1).map_err(|error| {
                    let text = format!("its backing file {}: {error}", beneath.display());
                    io::Error::new(error.kind(), text)
                })?;
                Some(Box::new(image))
            }
        };
        let mut image = Qcow2 {
            file_len: file.metadata()?.len(),
            file,
            l1: vec![],
            backing,
            header,
            cache: Mutex::default(),
        };
        image.l1 = image.table(image.header.l1_offset, image.header.l1_entries)?;
        image.check_bounds()?;
        Ok(image)
    }

    pub(super) fn len(&self) -> u64 {
        self.header.len
    }

    pub(super) fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        let mut cache = self.lock();
        while !buf.is_empty() {
            let (place, len) = self.find(&mut cache, offset)?;
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let (now, rest) = buf.split_at_mut(buf.len().min(len));
            match place {
                Place::Zero => now.fill(0),
                Place::Beneath => self.read_beneath(offset, now)?,
                Place::Plain(at) => self.read_file(at, now)?,
                Place::Compressed { offset: at, len } => {
                    self.read_packed(&mut cache, offset, (at, len), now)?;
                }
            }
            offset += now.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    /// What is known of the bytes from `offset` on, which lies within the disk.
    pub(super) fn extent(&self, offset: u64) -> io::Result<Extent> {
        let (place, len) = self.find(&mut self.lock(), offset)?;
        match (place, &self.backing) {
            (Place::Plain(_) | Place::Compressed { .. }, _) => Ok(Extent { zero: false, len }),
            (Place::Beneath, Some(beneath)) => {
                let found = beneath.extent(offset)?;
                let len = found.len.min(len);
                Ok(Extent { len, ..found })
            }
            (Place::Zero | Place::Beneath, _) => Ok(Extent { zero: true, len }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the byte at `offset` is, and for how many bytes that holds.
    fn find(&self, cache: &mut Cache, offset: u64) -> io::Result<(Place, u64)> {
        let bits = self.header.cluster_bits;
        let (cluster, within) = (offset >> bits, offset & ((1 << bits) - 1));
        let outside = || invalid("an offset outside the qcow2 tables");
        let per_table = self.per_table() as u64;
        let l1 = usize::try_from(cluster / per_table).map_err(|_| outside())?;
        let table = self.l1.get(l1).ok_or_else(outside)? & OFFSET;
        let index = cluster % per_table;
        if table == 0 {
            return Ok((Place::Beneath, ((per_table - index) << bits) - within));
        }
        let found = cache.tables.iter().position(|(key, _)| *key == table);
        let words = match found {
            Some(at) => cache.tables.remove(at).1,
            None => self.table(table, self.per_table() * self.words())?,
        };
        let at = index as usize * self.words();
        let entry = words.get(at).copied();
        let subclusters = words.get(at + 1).copied();
        cache.tables.push((table, words));
        if cache.tables.len() > 16 {
            cache.tables.remove(0);
        }
        let entry = entry.ok_or_else(outside)?;
        match self.header.extended {
            true => Ok(self.decode_extended(entry, subclusters.ok_or_else(outside)?, within)),
            false => Ok((self.decode(entry, within), (1 << bits) - within)),
        }
    }

    /// Entries of an L2 table.
    fn per_table(&self) -> usize {
        (1 << (self.header.cluster_bits - 3)) / self.words()
    }

    /// Words of an entry.
    fn words(&self) -> usize {
        if self.header.extended { 2 } else { 1 }
    }

    /// Where the byte `within` the cluster of an L2 entry is.
    fn decode(&self, entry: u64, within: u64) -> Place {
        if entry & COMPRESSED != 0 {
            let offset_bits = 62 - (self.header.cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
            // The length is given as the sectors that the data touches after the first.
            let len = (sectors + 1) * 512 - offset % 512;
            return Place::Compressed {
                offset,
                len: len as usize,
            };
        }
        match entry & OFFSET {
            _ if entry & READS_AS_ZERO != 0 => Place::Zero,
            0 => Place::Beneath,
            offset => Place::Plain(offset + within),
        }
    }

    /// The same where each of a cluster's 32 subclusters has a bit for being there, and one for reading as zeros.
    fn decode_extended(&self, entry: u64, subclusters: u64, within: u64) -> (Place, u64) {
        let bits = self.header.cluster_bits;
        let sub_bits = bits - 5;
        let left = (1 << sub_bits) - (within & ((1 << sub_bits) - 1));
        let there = 1 << (within >> sub_bits);
        match self.decode(entry & !READS_AS_ZERO, within) {
            packed @ Place::Compressed { .. } => (packed, (1 << bits) - within),
            _ if subclusters & (there << 32) != 0 => (Place::Zero, left),
            plain @ Place::Plain(_) if subclusters & there != 0 => (plain, left),
            _ => (Place::Beneath, left),
        }
    }

    /// An image beneath that is smaller goes on with zeros.
    fn read_beneath(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let Some(beneath) = &self.backing else {
            buf.fill(0);
            return Ok(());
        };
        let left = usize::try_from(beneath.len().saturating_sub(offset)).unwrap_or(usize::MAX);
        let (inside, outside) = buf.split_at_mut(buf.len().min(left));
        outside.fill(0);
        beneath.read_at(offset, inside)
    }

    fn read_packed(
        &self,
        cache: &mut Cache,
        offset: u64,
        (at, len): (u64, usize),
        buf: &mut [u8],
    ) -> io::Result<()> {
        let bits = self.header.cluster_bits;
        let (cluster, within) = (offset >> bits, (offset & ((1 << bits) - 1)) as usize);
        let found = cache.clusters.iter().position(|(key, _)| *key == cluster);
        let data = match found {
            Some(at) => cache.clusters.remove(at).1,
            None => self.decompress(at, len)?,
        };
        let part = data.get(within..within + buf.len());
        buf.copy_from_slice(part.ok_or_else(|| invalid("a short cluster"))?);
        cache.clusters.push((cluster, data));
        if cache.clusters.len() > (CACHE >> bits).max(2) {
            cache.clusters.remove(0);
        }
        Ok(())
    }

    fn decompress(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.file_len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut packed = vec![0; len.min(left)];
        self.file.read_exact_at(&mut packed, offset)?;
        let mut data = vec![0; 1 << self.header.cluster_bits];
        if self.header.zstd {
            zstd::stream::read::Decoder::with_buffer(&packed[..])?
                .single_frame()
                .read_exact(&mut data)?;
        } else {
            flate2::bufread::DeflateDecoder::new(&packed[..]).read_exact(&mut data)?;
        }
        Ok(data)
    }

    /// Reads from the file; what lies past its end reads as zeros, as in QEMU, once [`Self::check_bounds`] has passed.
    fn read_file(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let left = usize::try_from(self.file_len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (inside, outside) = buf.split_at_mut(buf.len().min(left));
        outside.fill(0);
        self.file.read_exact_at(inside, offset)
    }

    fn table(&self, offset: u64, entries: usize) -> io::Result<Vec<u64>> {
        let mut raw = vec![0; entries * 8];
        let end = offset.checked_add(raw.len() as u64);
        if end.is_none_or(|end| end > self.file_len) {
            return Err(truncated());
        }
        self.file.read_exact_at(&mut raw, offset)?;
        let (entries, _) = raw.as_chunks::<8>();
        Ok(entries
            .iter()
            .map(|entry| u64::from_be_bytes(*entry))
            .collect())
    }

    /// Finds a truncated file at once, not only where somebody happens to read.
    fn check_bounds(&self) -> io::Result<()> {
        for table in &self.l1 {
            let table = table & OFFSET;
            if table == 0 {
                continue;
            }
            let words = self.table(table, self.per_table() * self.words())?;
            for entry in words.iter().step_by(self.words()) {
                match self.decode(*entry, 0) {
                    Place::Plain(offset) | Place::Compressed { offset, .. }
                        if offset >= self.file_len =>
                    {
                        return Err(truncated());
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

fn truncated() -> io::Error {
    invalid("the qcow2 image is truncated: a table points past the end of the file")
}
