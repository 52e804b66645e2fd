//! Files that are no images: what steps fetch for their guests, kept by digest and shared by all builds.

use std::path::{Path, PathBuf};

use super::Context;
use super::address::Address;
use super::cache::Cache;
use super::digest::{Digest, Hasher};
use super::download;
use super::fetch::own;
use super::partial::Partial;
use super::work::{Meter, heavy};
use crate::error::{Context as _, Error, Result};
use crate::store::Lock;

/// A file that is there, and stays while this lives.
#[derive(Debug)]
pub struct Fetched {
    pub path: PathBuf,
    /// Keeps `imgbuild image rm` away.
    pub used: Lock,
}

/// Brings the file with this digest, from the first of the URLs that serves it. What is in the shared cache or in our
/// own costs no request; it is hashed each time, since a file system does not promise anything.
///
/// Errors: a wrong digest (of kind `Verification`); nothing in the cache with `offline`; no server that serves it.
pub async fn file(urls: &[String], digest: &Digest, cx: &Context<'_>) -> Result<Fetched> {
    let used = Lock::share(Cache::new(cx.dirs).file_lock(digest)).await?;
    let path = bring(urls, digest, cx).await?;
    Ok(Fetched { path, used })
}

async fn bring(urls: &[String], digest: &Digest, cx: &Context<'_>) -> Result<PathBuf> {
    let key = digest.key();
    if let Some(shared) = &cx.dirs.shared {
        let path = shared.join("files").join(&key);
        if is_good(&path, digest, cx).await? {
            return Ok(path);
        }
    }
    let path = cx.dirs.files().join(&key);
    if is_good(&path, digest, cx).await? {
        return Ok(path);
    }
    let addresses: Vec<Address> = urls
        .iter()
        .map(|url| Address::parse(url))
        .collect::<Result<_>>()?;
    let shown = addresses
        .first()
        .map(Address::to_string)
        .unwrap_or_default();
    if cx.offline {
        return Err(Error::new(format!("fetching {shown}"))
            .cause(format!(
                "{digest} is not in the cache, and the network is off limits"
            ))
            .hint("run once without --offline"));
    }
    let cache = Cache::new(cx.dirs);
    let lock = own(cache.fetch_lock(digest), &shown, cx).await?;
    if is_good(&path, digest, cx).await? {
        return Ok(path);
    }
    let partial = Partial::open(cache.partial(digest), digest, lock, cx.events).await?;
    let (partial, _) = download::download(&addresses, digest, partial, cx).await?;
    cache.note_origin(&key, &shown)?;
    let doing = || format!("keeping {shown}");
    std::fs::create_dir_all(cx.dirs.files()).doing(doing)?;
    std::fs::rename(partial.path(), &path).doing(doing)?;
    partial.discard()?;
    Ok(path)
}

/// Whether the file is there and what it should be. One of our own that is not is replaced by what is fetched then.
async fn is_good(path: &Path, digest: &Digest, cx: &Context<'_>) -> Result<bool> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            cx.events
                .warn(format!("{} cannot be read: {error}", path.display()));
            return Ok(false);
        }
    };
    let (expected, events, shown) = (
        digest.clone(),
        cx.events.clone(),
        path.display().to_string(),
    );
    let digests = heavy(move |stop| {
        let mut hasher = Hasher::for_expected(Some(&expected));
        let total = file.metadata().doing(|| format!("reading {shown}"))?.len();
        let mut meter = Meter::new(&events, "verify", Some(total));
        hasher.read(&file, &shown, &mut meter, stop)?;
        Ok(hasher.finish())
    })
    .await?;
    if digests.satisfy(digest) {
        return Ok(true);
    }
    cx.events.warn(format!(
        "{} was changed or damaged, and is not used",
        path.display()
    ));
    Ok(false)
}
