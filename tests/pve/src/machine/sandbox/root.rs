//! The root file system of sandboxes: that of a guest image.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::image;

/// Bytes of a block of a partition table. An image has no device that could say otherwise.
const BLOCK: u64 = 512;

/// The content of an image, in a file that nobody else can name: it goes with the process, however that ends.
pub struct Root {
    disk: File,
    /// Where its first partition begins, in bytes.
    pub offset: u64,
}

/// Those that this process has made: one per image, for all its servers.
static MADE: Mutex<BTreeMap<PathBuf, Arc<Root>>> = Mutex::const_new(BTreeMap::new());

impl Root {
    /// That of an image in qcow2.
    pub async fn of(image: &Path) -> Result<Arc<Root>, String> {
        let mut made = MADE.lock().await;
        if let Some(root) = made.get(image) {
            return Ok(root.clone());
        }
        let root = Root::make(image).await;
        let root = root.map_err(|error| format!("{}: {error}", image.display()))?;
        let root = Arc::new(root);
        made.insert(image.to_owned(), root.clone());
        Ok(root)
    }

    async fn make(image: &Path) -> Result<Root, String> {
        let said = |error: io::Error| error.to_string();
        let header = image::header(image).ok_or("it is no image in qcow2")?;
        let disk = tempfile::tempfile().map_err(said)?;
        disk.set_len(header.size).map_err(said)?;
        image::fill(image, "qcow2", &name(&disk)).await?;
        let offset = first_partition(&disk).map_err(said)?;
        Ok(Root { disk, offset })
    }

    /// A name by which programs can open it.
    pub fn name(&self) -> PathBuf {
        name(&self.disk)
    }
}

fn name(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// Where the first partition of a GPT begins (UEFI specification, 5.3): the second block says at 72 in which block the entries
/// begin, and an entry says at 32 in which block its partition does.
fn first_partition(disk: &File) -> io::Result<u64> {
    let read = |offset: u64| {
        let mut bytes = [0; 8];
        disk.read_exact_at(&mut bytes, offset)?;
        io::Result::Ok(bytes)
    };
    if &read(BLOCK)? != b"EFI PART" {
        return Err(io::Error::other("it has no GPT"));
    }
    let entries = u64::from_le_bytes(read(BLOCK + 72)?);
    let first = entries.saturating_mul(BLOCK).saturating_add(32);
    let partition = u64::from_le_bytes(read(first)?);
    Ok(partition.saturating_mul(BLOCK))
}
