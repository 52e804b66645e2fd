//! From a resolved source to a kept image: look, lock, look again, download, make ready, keep.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::cache::{Cache, Meta, Staging, hash};
use super::digest::Digest;
use super::format::{Content, detect};
use super::partial::Partial;
use super::resolve::{Place, Resolved};
use super::unpack::{Limits, convert, decompress};
use super::work::heavy;
use super::{BaseImage, Context, Format, Verified};
use super::{download, local, nixos};
use crate::error::{Context as _, Error, Kind, Result};
use crate::store::Lock;

/// Brings the image that `resolved` stands for, verified and ready to be the backing file of an overlay. What is in the
/// cache already costs no request.
///
/// Errors: a wrong digest, or an image that refers to other files ([`Kind::Verification`]); something that is no disk
/// image ([`Kind::Usage`]); nothing in the cache with `offline`; no server that serves it; a full disk.
pub async fn fetch(resolved: &Resolved, cx: &Context<'_>) -> Result<BaseImage> {
    let image = match &resolved.place {
        Place::File(path) => return local::fetch(path, resolved, cx).await,
        Place::Flake(flake, file) => return nixos::fetch(flake, file.as_deref(), cx).await,
        Place::Target => {
            return Err(Error::new(format!("fetching {}", resolved.origin))
                .kind(Kind::Usage)
                .cause("a template stays on its target"));
        }
        Place::Urls(_) | Place::Cache => from_cache_or_network(resolved, cx).await?,
    };
    // The entry tells how it was verified when it was kept; what counts is how it was this time.
    Ok(BaseImage {
        verified: resolved.verified.clone(),
        ..image
    })
}

async fn from_cache_or_network(resolved: &Resolved, cx: &Context<'_>) -> Result<BaseImage> {
    let cache = Cache::new(cx.dirs);
    let expected = resolved.expected.as_ref().ok_or_else(|| {
        Error::new(format!("fetching {}", resolved.origin)).cause("nothing verifies it")
    })?;
    if let Some(image) = cache.find(expected, cx.events).await? {
        return Ok(image);
    }
    let urls = match &resolved.place {
        Place::Urls(urls) if !cx.offline => urls,
        _ => return Err(missed(resolved, expected)),
    };
    let lock = own(cache.fetch_lock(expected), &resolved.origin, cx).await?;
    if let Some(image) = cache.find(expected, cx.events).await? {
        return Ok(image);
    }
    let partial = Partial::open(cache.partial(expected), expected, lock.clone(), cx.events).await?;
    let (partial, served) = download::download(urls, expected, partial, cx).await?;
    let published = Published {
        path: partial.path().to_owned(),
        ours: true,
        key: expected.key(),
        sha256: partial.digests().sha256,
        origin: served.map_or_else(|| resolved.origin.clone(), |url| url.to_string()),
        verified: resolved.verified.clone(),
    };
    let kept = keep(&cache, published, lock, cx).await;
    // A file that is of no use stays of no use; other failures (a full disk) leave it for the next attempt.
    let useless = |error: &Error| matches!(error.get_kind(), Kind::Usage | Kind::Verification);
    if kept.as_ref().map_or_else(useless, |_| true) {
        partial.discard()?;
    }
    let sha256 = kept?;
    cache.index(expected, &sha256)?;
    found(&cache, expected, cx).await
}

/// The entry that was just kept.
pub(super) async fn found(cache: &Cache, digest: &Digest, cx: &Context<'_>) -> Result<BaseImage> {
    cache.find(digest, cx.events).await?.ok_or_else(|| {
        Error::new(format!("using the image {digest}"))
            .kind(Kind::Conflict)
            .cause("another process removed it from the cache at once")
    })
}

/// Waits for the lock of an image that is being brought, saying so when somebody else has it.
pub(super) async fn own(path: PathBuf, shown: &str, cx: &Context<'_>) -> Result<Arc<Lock>> {
    if let Some(lock) = Lock::try_acquire(&path)? {
        return Ok(Arc::new(lock));
    }
    cx.events
        .note(format!("another build is fetching {shown}; waiting for it"));
    Lock::acquire(path).await.map(Arc::new)
}

/// A verified file as upstream published it.
pub(super) struct Published {
    pub path: PathBuf,
    /// Whether it may be moved into the cache; else it stays where it is.
    pub ours: bool,
    /// Names the work in progress; that of the digest whose lock the caller holds.
    pub key: String,
    pub sha256: String,
    pub origin: String,
    pub verified: Verified,
}

/// Makes an entry of a published file; returns the entry's key. The caller holds the `lock` of the digest, which is kept
/// until all work on the entry has ended, even when the future is dropped.
pub(super) async fn keep(
    cache: &Cache,
    published: Published,
    lock: Arc<Lock>,
    cx: &Context<'_>,
) -> Result<String> {
    let shown = published.origin.clone();
    let staging = Arc::new(Staging::new(cache, &published.key)?);
    let image = staging.path().join("image");
    let holds = (staging.clone(), lock);
    let ready = make_ready(&published, &image, &shown, holds, cx).await?;
    let fetched = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    cache.place(staging.path(), |stamp, allocated| Meta {
        image_sha256: ready.sha256,
        format: ready.format,
        virtual_size: ready.virtual_size,
        allocated,
        origin: published.origin,
        verified: published.verified,
        fetched: fetched.as_secs(),
        stamp,
        sha256: published.sha256.clone(),
    })?;
    Ok(published.sha256)
}

struct Ready {
    format: Format,
    virtual_size: u64,
    sha256: String,
}

/// Puts at `image` what the published file holds: itself, or what is in it.
async fn make_ready(
    published: &Published,
    image: &Path,
    shown: &str,
    holds: (Arc<Staging>, Arc<Lock>),
    cx: &Context<'_>,
) -> Result<Ready> {
    let mut current = Unpacked {
        path: published.path.clone(),
        sha256: published.sha256.clone(),
        movable: published.ours,
    };
    let mut content = detect(&current.path, shown)?;
    if let Content::Compressed(compression) = content {
        let target = image.with_file_name("unpacked");
        let (source, into) = (current.path, target.clone());
        let (name, events) = (shown.to_owned(), cx.events.clone());
        let sha256 = heavy(move |stop| {
            let _holds = holds;
            let limits = Limits::default();
            decompress((&source, &name), compression, &into, limits, &events, stop)
        })
        .await?;
        content = detect(&target, shown)?;
        current = Unpacked {
            path: target,
            sha256,
            movable: true,
        };
    }
    match content {
        Content::Ready(format, virtual_size) => {
            let doing = || format!("keeping {shown}");
            match current.movable {
                true => std::fs::rename(&current.path, image).doing(doing)?,
                false => return Err(Error::new(doing()).cause("it is used where it is")),
            }
            Ok(Ready {
                format,
                virtual_size,
                sha256: current.sha256,
            })
        }
        Content::Vmdk(size) => {
            convert(
                (&current.path, shown),
                size,
                image,
                Limits::default(),
                cx.events,
            )
            .await?;
            let Content::Ready(format, virtual_size) = detect(image, shown)? else {
                return Err(Error::new(format!("converting {shown}"))
                    .cause("qemu-img made something that is no qcow2 image"));
            };
            remove_unpacked(&current, published)?;
            Ok(Ready {
                format,
                virtual_size,
                sha256: hash(image, None, cx.events).await?.sha256,
            })
        }
        Content::Compressed(_) => Err(Error::new(format!("unpacking {shown}"))
            .kind(Kind::Usage)
            .cause("it is compressed twice")),
    }
}

struct Unpacked {
    path: PathBuf,
    sha256: String,
    movable: bool,
}

/// Nothing but the image and its metadata belongs into an entry.
fn remove_unpacked(unpacked: &Unpacked, published: &Published) -> Result<()> {
    if unpacked.path == published.path {
        return Ok(());
    }
    std::fs::remove_file(&unpacked.path).doing(|| format!("removing {}", unpacked.path.display()))
}

fn missed(resolved: &Resolved, expected: &Digest) -> Error {
    Error::new(format!("getting {} ({expected})", resolved.origin))
        .cause("it is not in the cache, and the network is off limits")
        .hint("run without --offline, or `imgbuild image pull` while there is a network")
}
