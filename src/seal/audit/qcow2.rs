//! Reading qcow2: as much of it as `qemu-img convert` writes, with clusters compressed by zlib or zstd (the crates at
//! hand read only zlib). No backing file, no encryption, no external data file: a sealed image stands alone.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use super::disk::number::{be32, be64};

/// Decompressed clusters that are kept, in bytes; file systems read in blocks far smaller than a cluster.
const CACHE: usize = 16 << 20;
/// The largest L1 table that is read: with 64 KiB clusters, that of a disk of 64 TiB.
const MAX_L1: u64 = 1 << 17;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZERO: u64 = 1;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Incompatible features: only that the refcounts may be stale (1) and that the compression type is not zlib (8) can
/// be ignored or handled.
const KNOWN_FEATURES: u64 = 1 | 8;

pub(super) struct Qcow2 {
    file: File,
    file_len: u64,
    len: u64,
    cluster_bits: u32,
    zstd: bool,
    l1: Vec<u64>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// L2 tables by their offset, clusters by their number; the newest last.
    tables: Vec<(u64, Vec<u64>)>,
    clusters: Vec<(u64, Vec<u8>)>,
}

enum Cluster {
    Zero,
    Plain(u64),
    Compressed { offset: u64, len: usize },
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Qcow2 {
    pub(super) fn open(file: File) -> io::Result<Qcow2> {
        let file_len = file.metadata()?.len();
        let mut header = [0; 112];
        let present = header
            .len()
            .min(usize::try_from(file_len).unwrap_or(usize::MAX));
        file.read_exact_at(&mut header[..present], 0)?;
        let short = || invalid("the qcow2 header is truncated");
        let u32_at = |at| be32(&header, at).ok_or_else(short);
        let u64_at = |at| be64(&header, at).ok_or_else(short);
        if u32_at(0)? != 0x5146_49fb {
            return Err(invalid("this is not a qcow2 image"));
        }
        let version = u32_at(4)?;
        let features = match version {
            2 => 0,
            3 => u64_at(72)?,
            _ => return Err(invalid("an unknown version of qcow2")),
        };
        if features & !KNOWN_FEATURES != 0 {
            return Err(invalid(
                "the qcow2 image is marked corrupt or uses a feature that sealed images do not have",
            ));
        }
        if u64_at(8)? != 0 {
            return Err(invalid(
                "the qcow2 image is an overlay; a sealed image stands alone",
            ));
        }
        if u32_at(32)? != 0 {
            return Err(invalid("the qcow2 image is encrypted"));
        }
        let cluster_bits = u32_at(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(invalid("an impossible cluster size"));
        }
        let len = u64_at(24)?;
        let l1_entries = u64::from(u32_at(36)?);
        // An L2 table fills a cluster with 8-byte entries.
        let covered = 1_u64 << (2 * cluster_bits - 3);
        if l1_entries > MAX_L1 || l1_entries < len.div_ceil(covered) {
            return Err(invalid(
                "the size of the qcow2 image and that of its table do not match",
            ));
        }
        let mut image = Qcow2 {
            file,
            file_len,
            len,
            cluster_bits,
            zstd: version == 3 && u32_at(100)? > 104 && header[104] == 1,
            l1: vec![],
            cache: Mutex::default(),
        };
        image.l1 = image.table(u64_at(40)?, l1_entries as usize)?;
        image.check_bounds()?;
        Ok(image)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let size = 1_usize << self.cluster_bits;
        while !buf.is_empty() {
            let within = (offset % size as u64) as usize;
            let (now, rest) = buf.split_at_mut(buf.len().min(size - within));
            self.read_in_cluster(&mut cache, offset >> self.cluster_bits, within, now)?;
            offset += now.len() as u64;
            buf = rest;
        }
        Ok(())
    }

    fn read_in_cluster(
        &self,
        cache: &mut Cache,
        cluster: u64,
        within: usize,
        buf: &mut [u8],
    ) -> io::Result<()> {
        let (offset, len) = match self.find(cache, cluster)? {
            Cluster::Zero => {
                buf.fill(0);
                return Ok(());
            }
            Cluster::Plain(offset) => return self.read_file(offset + within as u64, buf),
            Cluster::Compressed { offset, len } => (offset, len),
        };
        let found = cache.clusters.iter().position(|(key, _)| *key == cluster);
        let data = match found {
            Some(at) => cache.clusters.remove(at).1,
            None => self.decompress(offset, len)?,
        };
        let part = data.get(within..within + buf.len());
        buf.copy_from_slice(part.ok_or_else(|| invalid("a short cluster"))?);
        cache.clusters.push((cluster, data));
        if cache.clusters.len() > (CACHE >> self.cluster_bits).max(2) {
            cache.clusters.remove(0);
        }
        Ok(())
    }

    /// Where a cluster of the disk lies in the file.
    fn find(&self, cache: &mut Cache, cluster: u64) -> io::Result<Cluster> {
        let per_table = 1_u64 << (self.cluster_bits - 3);
        let outside = || invalid("an offset outside the qcow2 tables");
        let l1 = usize::try_from(cluster / per_table).map_err(|_| outside())?;
        let table = self.l1.get(l1).ok_or_else(outside)? & OFFSET;
        if table == 0 {
            return Ok(Cluster::Zero);
        }
        let found = cache.tables.iter().position(|(key, _)| *key == table);
        let entries = match found {
            Some(at) => cache.tables.remove(at).1,
            None => self.table(table, per_table as usize)?,
        };
        let entry = entries.get((cluster % per_table) as usize).copied();
        cache.tables.push((table, entries));
        if cache.tables.len() > 16 {
            cache.tables.remove(0);
        }
        Ok(self.decode(entry.ok_or_else(outside)?))
    }

    fn decode(&self, entry: u64) -> Cluster {
        if entry & COMPRESSED != 0 {
            let offset_bits = 62 - (self.cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = (entry & (COMPRESSED - 1)) >> offset_bits;
            // The length is given as the sectors that the data touches after the first.
            let len = (sectors + 1) * 512 - offset % 512;
            return Cluster::Compressed {
                offset,
                len: len as usize,
            };
        }
        match entry & OFFSET {
            0 => Cluster::Zero,
            _ if entry & READS_AS_ZERO != 0 => Cluster::Zero,
            offset => Cluster::Plain(offset),
        }
    }

    fn decompress(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.file_len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut packed = vec![0; len.min(left)];
        self.file.read_exact_at(&mut packed, offset)?;
        let mut data = vec![0; 1 << self.cluster_bits];
        if self.zstd {
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

    /// Finds a truncated file at once, not only where the audit happens to read.
    fn check_bounds(&self) -> io::Result<()> {
        let per_table = 1 << (self.cluster_bits - 3);
        for table in &self.l1 {
            let table = table & OFFSET;
            if table == 0 {
                continue;
            }
            for entry in self.table(table, per_table)? {
                match self.decode(entry) {
                    Cluster::Plain(offset) | Cluster::Compressed { offset, .. }
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
