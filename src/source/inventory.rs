//! What `imgbuild image list` and `imgbuild image rm` do.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cache::{Cache, Meta};
use super::{Format, Verified};
use crate::error::{Context as _, Error, Kind, Result};
use crate::store::{Dirs, Lock};

/// An image in the cache.
#[derive(Debug, Clone)]
pub struct CachedImage {
    /// sha256 of what was published, lower-case hex.
    pub sha256: String,
    /// URL or path it came from.
    pub origin: String,
    pub format: Format,
    /// Size of the disk as a guest sees it, in bytes.
    pub virtual_size: u64,
    /// Bytes the file takes on disk.
    pub allocated: u64,
    /// How it was verified when it was fetched.
    pub verified: Verified,
    pub fetched: SystemTime,
    pub last_used: SystemTime,
}

/// All images in the cache, in the order of their digests. Damaged entries are left out; the next fetch drops them.
pub fn list(dirs: &Dirs) -> Result<Vec<CachedImage>> {
    let cache = Cache::new(dirs);
    let entries = cache.entries()?;
    let known = entries.iter().filter_map(|sha256| cache.meta(sha256));
    Ok(known.map(|meta| describe(&cache, meta)).collect())
}

/// Removes the image whose sha256 begins with `digest_prefix` (optionally after `sha256:`) and returns what it was.
///
/// Errors: no image or several begin so, or it is no digest ([`Kind::Usage`]); a build uses it ([`Kind::Conflict`]).
pub fn remove(dirs: &Dirs, digest_prefix: &str) -> Result<CachedImage> {
    let cache = Cache::new(dirs);
    let fault = |cause: String| {
        Error::new(format!("removing the image {digest_prefix}"))
            .kind(Kind::Usage)
            .cause(cause)
    };
    let prefix = digest_prefix
        .strip_prefix("sha256:")
        .unwrap_or(digest_prefix);
    let prefix = prefix.to_ascii_lowercase();
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(fault("it is not the beginning of a sha256 digest".into()));
    }
    let mut matching = cache.entries()?;
    matching.retain(|sha256| sha256.starts_with(&prefix));
    let sha256 = match matching.as_slice() {
        [one] => one,
        [] => {
            return Err(fault("there is no such image in the cache".into())
                .hint("`imgbuild image list` shows what there is"));
        }
        several => {
            return Err(fault(format!("{} images begin so", several.len()))
                .hint(format!("give more digits: {}", several.join(", "))));
        }
    };
    let Some(_owned) = Lock::try_acquire(&cache.use_lock(sha256))? else {
        return Err(Error::new(format!("removing the image {sha256}"))
            .kind(Kind::Conflict)
            .cause("a build is using it")
            .hint("wait for the build to end, or stop it"));
    };
    let image = cache.meta(sha256).map(|meta| describe(&cache, meta));
    cache.drop_entry(sha256)?;
    // A damaged entry is removed as well, but there is nothing to say about it.
    image.ok_or_else(|| {
        Error::new(format!("describing the image {sha256}"))
            .cause("its metadata was damaged; it has been removed")
    })
}

/// Removes what interrupted fetches have left: partial downloads and work in progress that nobody works on. Returns the
/// bytes that became free.
pub fn sweep(dirs: &Dirs) -> Result<u64> {
    let cache = Cache::new(dirs);
    let mut freed = 0;
    for (lock, path) in cache.leftovers()? {
        let Some(_owned) = Lock::try_acquire(&lock)? else {
            continue;
        };
        freed += allocated(&path);
        let removed = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        removed.doing(|| format!("removing {}", path.display()))?;
    }
    Ok(freed)
}

/// Bytes on disk of a file, or of a folder's files.
fn allocated(path: &Path) -> u64 {
    let within = std::fs::read_dir(path).into_iter().flatten().flatten();
    let files = within.map(|item| item.path()).chain([path.to_owned()]);
    let metadata = files.filter_map(|file| std::fs::metadata(file).ok());
    metadata.map(|metadata| metadata.blocks() * 512).sum()
}

fn describe(cache: &Cache, meta: Meta) -> CachedImage {
    let fetched = UNIX_EPOCH + Duration::from_secs(meta.fetched);
    let noted = std::fs::metadata(cache.entry(&meta.sha256).join("meta.json"));
    CachedImage {
        last_used: noted.and_then(|noted| noted.modified()).unwrap_or(fetched),
        fetched,
        sha256: meta.sha256,
        origin: meta.origin,
        format: meta.format,
        virtual_size: meta.virtual_size,
        allocated: meta.allocated,
        verified: meta.verified,
    }
}
