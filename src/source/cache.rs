//! The cache of images: `images/sha256-HEX/{image, meta.json}`, keyed by the digest of what upstream published.
//!
//! An entry is made aside and renamed, so it is whole or not there. Whoever uses an image shares its lock; whoever
//! removes one must own it. `meta.json`'s modification time is when the image was last used.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::digest::{Algorithm, Digest, Digests, Hasher};
use super::work::{Meter, heavy};
use super::{BaseImage, Format, Verified};
use crate::error::{Context as _, Error, Kind, Result};
use crate::run::events::Events;
use crate::store::{Dirs, Lock, Stamp, sync_folder, write_atomically};

/// What is known about a kept image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Meta {
    /// sha256 of what was published: the key of the entry.
    pub sha256: String,
    /// sha256 of the file that is kept, which differs when that was unpacked or converted.
    pub image_sha256: String,
    pub format: Format,
    pub virtual_size: u64,
    pub allocated: u64,
    pub origin: String,
    pub verified: Verified,
    /// Seconds since 1970.
    pub fetched: u64,
    pub stamp: Stamp,
}

/// The folders of the cache.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    images: PathBuf,
    locks: PathBuf,
}

/// Begins the name of an entry's folder.
const ENTRY: &str = "sha256-";

/// Begins the name of a folder with work in progress.
const STAGING: &str = ".staging-";

/// Follows [`STAGING`] in the name of a folder with an entry that is being removed.
const REMOVED: &str = "removed-";

impl Cache {
    pub fn new(dirs: &Dirs) -> Self {
        Cache {
            images: dirs.images(),
            locks: dirs.locks(),
        }
    }

    /// The folder of an entry.
    pub fn entry(&self, sha256: &str) -> PathBuf {
        self.images.join(format!("{ENTRY}{sha256}"))
    }

    /// The lock that users of an image share.
    pub fn use_lock(&self, sha256: &str) -> PathBuf {
        self.locks.join(format!("image-{sha256}.lock"))
    }

    /// The lock of whoever brings the image with this digest.
    pub fn fetch_lock(&self, digest: &Digest) -> PathBuf {
        self.locks
            .join(format!("image-fetch-{}.lock", digest.key()))
    }

    /// The lock that users of a file which is no image share.
    pub fn file_lock(&self, digest: &Digest) -> PathBuf {
        self.locks.join(format!("file-{}.lock", digest.key()))
    }

    /// Remembers where a file or a document came from, to be shown: without credentials.
    pub fn note_origin(&self, key: &str, origin: &str) -> Result<()> {
        write_atomically(&self.note("origin", key), origin.as_bytes())
    }

    /// Where a file or a document came from, if that is known.
    pub fn origin(&self, key: &str) -> Option<String> {
        std::fs::read_to_string(self.note("origin", key)).ok()
    }

    /// Where a download with this digest gathers.
    pub fn partial(&self, digest: &Digest) -> PathBuf {
        self.images.join(format!("{}.partial", digest.key()))
    }

    /// A file of remembered facts, of one `kind`.
    pub fn note(&self, kind: &str, id: &str) -> PathBuf {
        self.images.join(kind).join(id)
    }

    /// The digests of all entries.
    pub fn entries(&self) -> Result<Vec<String>> {
        let names = self.names()?;
        let hexes = names.iter().filter_map(|name| name.strip_prefix(ENTRY));
        let digests = hexes.filter_map(|hex| Digest::new(Algorithm::Sha256, hex));
        let mut entries: Vec<_> = digests.map(|digest| digest.hex).collect();
        entries.sort_unstable();
        Ok(entries)
    }

    /// What is being worked on or was left, each after the lock of whoever works on it.
    pub fn leftovers(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let names = self.names()?;
        let leftovers = names.iter().filter_map(|name| {
            let partial = || {
                name.strip_suffix(".partial")
                    .or_else(|| name.strip_suffix(".partial.json"))
            };
            let key = name.strip_prefix(STAGING).or_else(partial)?;
            let lock = match key.strip_prefix(REMOVED) {
                Some(sha256) => self.use_lock(&Digest::new(Algorithm::Sha256, sha256)?.hex),
                None => self.fetch_lock(&Digest::of_key(key)?),
            };
            Some((lock, self.images.join(name)))
        });
        Ok(leftovers.collect())
    }

    /// The names of all that is in the cache.
    fn names(&self) -> Result<Vec<String>> {
        let doing = || format!("reading {}", self.images.display());
        let folder = match std::fs::read_dir(&self.images) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            folder => folder.doing(doing)?,
        };
        let names = folder.map(|item| Ok(item?.file_name().to_string_lossy().into_owned()));
        names.collect::<std::io::Result<_>>().doing(doing)
    }

    /// What is known about an entry; `None` when it is not there or damaged.
    pub fn meta(&self, sha256: &str) -> Option<Meta> {
        let text = std::fs::read(self.entry(sha256).join("meta.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The image with this digest, if it is there and intact; its lock is shared from now on. A damaged entry is
    /// dropped. Fails with [`Kind::Conflict`] when a damaged entry is in use.
    pub async fn find(&self, digest: &Digest, events: &Events) -> Result<Option<BaseImage>> {
        let Some(sha256) = self.key(digest) else {
            return Ok(None);
        };
        let folder = self.entry(&sha256);
        if !folder.exists() {
            return Ok(None);
        }
        let lock = Lock::share(self.use_lock(&sha256)).await?;
        if !folder.exists() {
            return Ok(None);
        }
        if let Some(meta) = self.meta(&sha256)
            && self.is_intact(&meta, events).await?
        {
            touch(&folder.join("meta.json"))?;
            return Ok(Some(BaseImage {
                path: folder.join("image"),
                format: meta.format,
                virtual_size: meta.virtual_size,
                allocated: meta.allocated,
                sha256: meta.sha256,
                file_sha256: meta.image_sha256,
                origin: meta.origin,
                verified: meta.verified,
                lock: Some(Arc::new(lock)),
                stamp: None,
            }));
        }
        drop(lock);
        events.warn(format!(
            "the cached image {sha256} was changed or damaged and is dropped"
        ));
        match Lock::try_acquire(&self.use_lock(&sha256))? {
            Some(_owned) => self.drop_entry(&sha256).map(|()| None),
            None => Err(
                Error::new(format!("dropping the damaged cached image {sha256}"))
                    .kind(Kind::Conflict)
                    .cause("another build is using it"),
            ),
        }
    }

    /// The key of the entry with this digest, as far as it is known.
    fn key(&self, digest: &Digest) -> Option<String> {
        match digest.algorithm {
            Algorithm::Sha256 => Some(digest.hex.clone()),
            Algorithm::Sha512 => {
                let hex = std::fs::read_to_string(self.note("index", &digest.key())).ok()?;
                Digest::new(Algorithm::Sha256, &hex).map(|digest| digest.hex)
            }
        }
    }

    /// Whether the image is the one that was put there: at once by its stamp, else by hashing it.
    async fn is_intact(&self, meta: &Meta, events: &Events) -> Result<bool> {
        let path = self.entry(&meta.sha256).join("image");
        let Ok(metadata) = std::fs::metadata(&path) else {
            return Ok(false);
        };
        let stamp = Stamp::of(&metadata);
        if stamp == meta.stamp {
            return Ok(true);
        }
        let digests = hash(&path, None, events).await?;
        if digests.sha256 != meta.image_sha256 {
            return Ok(false);
        }
        let meta = Meta {
            stamp,
            ..meta.clone()
        };
        self.write_meta(&self.entry(&meta.sha256), &meta)?;
        Ok(true)
    }

    /// Makes an entry of `staged`, a folder with the finished `image` in it. If the entry has come to exist meanwhile,
    /// that one stays.
    pub fn place(&self, staged: &Path, describe: impl FnOnce(Stamp, u64) -> Meta) -> Result<()> {
        let image = staged.join("image");
        let doing = || format!("keeping {}", image.display());
        let file = File::open(&image).doing(doing)?;
        file.set_permissions(Permissions::from_mode(0o444))
            .doing(doing)?;
        file.sync_all().doing(doing)?;
        let metadata = file.metadata().doing(doing)?;
        // The stamp is fresh, so it could miss a change within a tick of the clock; but nobody else writes here.
        // `blocks` counts 512 bytes, whatever the file system's own block size.
        let meta = describe(Stamp::of(&metadata), metadata.blocks() * 512);
        self.write_meta(staged, &meta)?;
        match std::fs::rename(staged, self.entry(&meta.sha256)) {
            Err(error) if is_taken(&error) => Ok(()),
            renamed => renamed
                .and_then(|()| sync_folder(&self.images))
                .doing(doing),
        }
    }

    /// Remembers that the file with the (sha512) digest `by` has the key `sha256`.
    pub fn index(&self, by: &Digest, sha256: &str) -> Result<()> {
        match by.algorithm {
            Algorithm::Sha256 => Ok(()),
            Algorithm::Sha512 => {
                write_atomically(&self.note("index", &by.key()), sha256.as_bytes())
            }
        }
    }

    /// Removes an entry, which the caller owns. It disappears at once, whatever happens then.
    pub fn drop_entry(&self, sha256: &str) -> Result<()> {
        let doing = || format!("removing the image {sha256}");
        let aside = Staging::new(self, &format!("{REMOVED}{sha256}"))?;
        std::fs::rename(self.entry(sha256), aside.path().join("entry")).doing(doing)?;
        let index = self.images.join("index");
        for item in std::fs::read_dir(index).into_iter().flatten().flatten() {
            if std::fs::read_to_string(item.path()).is_ok_and(|key| key == sha256) {
                std::fs::remove_file(item.path()).doing(doing)?;
            }
        }
        Ok(())
    }

    fn write_meta(&self, folder: &Path, meta: &Meta) -> Result<()> {
        let path = folder.join("meta.json");
        let text =
            serde_json::to_vec_pretty(meta).doing(|| format!("writing {}", path.display()))?;
        write_atomically(&path, &text)
    }
}

/// The digests of a file, with progress. Fails when the file changes meanwhile.
pub(super) async fn hash(
    path: &Path,
    expected: Option<&Digest>,
    events: &Events,
) -> Result<Digests> {
    let (path, events) = (path.to_owned(), events.clone());
    let mut hasher = Hasher::for_expected(expected);
    heavy(move |stop| {
        let shown = path.display().to_string();
        let doing = || format!("reading {shown}");
        let file = File::open(&path).doing(doing)?;
        let before = file.metadata().doing(doing)?;
        let mut meter = Meter::new(&events, "verify", Some(before.len()));
        hasher.read(&file, &shown, &mut meter, stop)?;
        let after = file.metadata().doing(doing)?;
        match Stamp::of(&before) == Stamp::of(&after) {
            true => Ok(hasher.finish()),
            false => Err(Error::new(doing()).cause("it was changed meanwhile")),
        }
    })
    .await
}

/// A folder for work in progress. It is removed when dropped; what a crash leaves is removed by the next of its name.
pub(super) struct Staging(PathBuf);

impl Staging {
    /// Makes the empty folder. The caller holds a lock that goes with the name.
    pub fn new(cache: &Cache, name: &str) -> Result<Self> {
        let path = cache.images.join(format!("{STAGING}{name}"));
        let doing = || format!("preparing {}", path.display());
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(doing);
            }
            _ => std::fs::create_dir_all(&path).doing(doing)?,
        }
        Ok(Staging(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // It is gone already when it became an entry; what cannot be removed now goes with the next of its name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn is_taken(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::DirectoryNotEmpty
    )
}

fn touch(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.set_modified(SystemTime::now()))
        .doing(|| format!("noting the use of {}", path.display()))
}
