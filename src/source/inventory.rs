//! What `imgbuild image list` and `imgbuild image rm` do.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cache::{Cache, Meta};
use super::digest::{Algorithm, Digest};
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

/// What is kept that is no image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// What steps fetch, by its digest.
    Fetched,
    /// What recipes look things up in, by the sha256 of its URL.
    Document,
}

/// A file in the cache that is no image.
#[derive(Debug, Clone)]
pub struct CachedFile {
    pub kind: FileKind,
    /// `sha256:HEX` or `sha512:HEX`.
    pub digest: Digest,
    /// URL that it came from, if that is known.
    pub origin: Option<String>,
    /// Bytes the file takes on disk.
    pub allocated: u64,
}

impl CachedFile {
    fn path(&self, dirs: &Dirs) -> PathBuf {
        let (folder, name) = match self.kind {
            FileKind::Fetched => (dirs.files(), self.digest.key()),
            FileKind::Document => (dirs.documents(), self.digest.hex.clone()),
        };
        folder.join(name)
    }
}

/// Something in the cache.
#[derive(Debug, Clone)]
pub enum Cached {
    Image(CachedImage),
    File(CachedFile),
}

/// All that is in the cache besides images: first files, then documents, in the order of their digests.
pub fn files(dirs: &Dirs) -> Result<Vec<CachedFile>> {
    let cache = Cache::new(dirs);
    let mut files = vec![];
    for kind in [FileKind::Fetched, FileKind::Document] {
        let folder = match kind {
            FileKind::Fetched => dirs.files(),
            FileKind::Document => dirs.documents(),
        };
        for name in names(&folder)? {
            let digest = match kind {
                FileKind::Fetched => Digest::of_key(&name),
                FileKind::Document => Digest::new(Algorithm::Sha256, &name),
            };
            // Others, such as what a crash left half-written, are not ours to show.
            files.extend(digest.map(|digest| CachedFile {
                kind,
                digest,
                origin: cache.origin(&name),
                allocated: allocated(&folder.join(&name)),
            }));
        }
    }
    Ok(files)
}

/// The names in a folder, sorted; none if it is not there.
fn names(folder: &Path) -> Result<Vec<String>> {
    let doing = || format!("reading {}", folder.display());
    let items = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        items => items.doing(doing)?,
    };
    let names = items.map(|item| Ok(item?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<_> = names.collect::<std::io::Result<_>>().doing(doing)?;
    names.sort_unstable();
    Ok(names)
}

/// Removes what has a digest that begins with `digest_prefix` (optionally after `sha256:` or `sha512:`), and returns what
/// it was.
///
/// Errors: nothing or several begin so, or it is no digest ([`Kind::Usage`]); a build uses it ([`Kind::Conflict`]).
pub fn remove(dirs: &Dirs, digest_prefix: &str) -> Result<Cached> {
    let cache = Cache::new(dirs);
    let fault = |cause: String| {
        Error::new(format!("removing {digest_prefix} from the cache"))
            .kind(Kind::Usage)
            .cause(cause)
    };
    let (algorithm, prefix) = match digest_prefix.split_once(':') {
        None => (None, digest_prefix),
        Some(("sha256", prefix)) => (Some(Algorithm::Sha256), prefix),
        Some(("sha512", prefix)) => (Some(Algorithm::Sha512), prefix),
        Some((other, _)) => return Err(fault(format!("`{other}` is no kind of digest here"))),
    };
    let prefix = prefix.to_ascii_lowercase();
    if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(fault("it is not the beginning of a digest".into()));
    }
    let is_meant = |digest: &Digest| {
        algorithm.is_none_or(|algorithm| algorithm == digest.algorithm)
            && digest.hex.starts_with(&prefix)
    };
    let images = cache.entries()?.into_iter();
    let mut images: Vec<_> = images
        .filter_map(|hex| Digest::new(Algorithm::Sha256, &hex))
        .collect();
    images.retain(is_meant);
    let mut files = files(dirs)?;
    files.retain(|file| is_meant(&file.digest));
    match (images.as_slice(), files.as_slice()) {
        // What a recipe has used as both goes in two turns, or there would be no digits to tell them apart.
        ([image], files) if files.iter().all(|file| file.digest == *image) => {
            remove_image(&cache, &image.hex).map(Cached::Image)
        }
        ([], [file]) => {
            remove_file(dirs, file)?;
            Ok(Cached::File(file.clone()))
        }
        ([], []) => Err(fault("there is nothing like that in the cache".into())
            .hint("`imgbuild image list` shows what there is")),
        _ => {
            let several = images.iter().chain(files.iter().map(|file| &file.digest));
            let several: Vec<_> = several.map(ToString::to_string).collect();
            Err(fault(format!("{} digests begin so", several.len()))
                .hint(format!("give more digits: {}", several.join(", "))))
        }
    }
}

fn remove_image(cache: &Cache, sha256: &str) -> Result<CachedImage> {
    let _owned = owned(&cache.use_lock(sha256), sha256)?;
    let image = cache.meta(sha256).map(|meta| describe(cache, meta));
    cache.drop_entry(sha256)?;
    // A damaged entry is removed as well, but there is nothing to say about it.
    image.ok_or_else(|| {
        Error::new(format!("describing the image {sha256}"))
            .cause("its metadata was damaged; it has been removed")
    })
}

fn remove_file(dirs: &Dirs, file: &CachedFile) -> Result<()> {
    let cache = Cache::new(dirs);
    let path = file.path(dirs);
    let _owned = match file.kind {
        FileKind::Fetched => Some(owned(
            &cache.file_lock(&file.digest),
            &file.digest.to_string(),
        )?),
        // It is read at once by whoever reads it.
        FileKind::Document => None,
    };
    std::fs::remove_file(&path).doing(|| format!("removing {}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let note = cache.note("origin", &name);
    match std::fs::remove_file(&note) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("removing {}", note.display()))
        }
        _ => Ok(()),
    }
}

fn owned(lock: &Path, shown: &str) -> Result<Lock> {
    Lock::try_acquire(lock)?.ok_or_else(|| {
        Error::new(format!("removing {shown} from the cache"))
            .kind(Kind::Conflict)
            .cause("a build is using it")
            .hint("wait for the build to end, or stop it")
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
