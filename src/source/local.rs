//! Images on this machine, used where they are whenever QEMU can.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cache::{Cache, hash};
use super::digest::{Algorithm, Digest, Digests, sha256};
use super::fetch::{Published, found, keep, own};
use super::format::{Content, detect};
use super::resolve::Resolved;
use super::{BaseImage, Context};
use crate::error::{Context as _, Error, Kind, Result};
use crate::store::{Stamp, write_atomically};

/// Digests that were computed before, valid for as long as the stamp is.
#[derive(Serialize, Deserialize)]
struct Known {
    path: String,
    stamp: Stamp,
    sha256: String,
    sha512: Option<String>,
}

/// A local file as a base image: in place when it is qcow2 or raw, else unpacked into the cache. It is verified if an
/// expectation is given; a digest is computed once for each state of the file.
pub(super) async fn fetch(path: &Path, resolved: &Resolved, cx: &Context<'_>) -> Result<BaseImage> {
    let shown = path.display().to_string();
    // A link may point elsewhere tomorrow. What is built on the image needs this one.
    let target = match path.is_symlink() {
        true => path.canonicalize().doing(|| format!("reading {shown}"))?,
        false => path.to_owned(),
    };
    let path = target.as_path();
    let before = Stamp::of_path(path)?;
    let cache = Cache::new(cx.dirs);
    let digests = digests(path, &before, resolved.expected.as_ref(), &cache, cx).await?;
    if let Some(expected) = &resolved.expected
        && !digests.satisfy(expected)
    {
        let digest = digests.of(expected.algorithm).unwrap_or_default();
        return Err(Error::new(format!("verifying {shown}"))
            .kind(Kind::Verification)
            .cause(format!("{expected} was expected, but it has {digest}"))
            .hint("the file is damaged, or the recipe or list is about another version of it"));
    }
    let image = match detect(path, &shown)? {
        Content::Ready(format, virtual_size) => {
            let metadata = std::fs::metadata(path).doing(|| format!("reading {shown}"))?;
            BaseImage {
                path: path.to_owned(),
                format,
                virtual_size,
                // `blocks` counts 512 bytes, whatever the file system's own block size.
                allocated: std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
                file_sha256: digests.sha256.clone(),
                sha256: digests.sha256,
                origin: resolved.origin.clone(),
                verified: resolved.verified.clone(),
                lock: None,
                stamp: Some(before.clone()),
            }
        }
        Content::Vmdk(_) | Content::Compressed(_) => {
            unpacked(path, digests, resolved, &cache, cx).await?
        }
    };
    if Stamp::of_path(path)? != before {
        return Err(Error::new(format!("using {shown}")).cause("it was changed meanwhile"));
    }
    Ok(image)
}

/// The cached image that was made of the file.
async fn unpacked(
    path: &Path,
    digests: Digests,
    resolved: &Resolved,
    cache: &Cache,
    cx: &Context<'_>,
) -> Result<BaseImage> {
    let digest = Digest {
        algorithm: Algorithm::Sha256,
        hex: digests.sha256,
    };
    let image = match cache.find(&digest, cx.events).await? {
        Some(image) => image,
        None => {
            let lock = own(cache.fetch_lock(&digest), &resolved.origin, cx).await?;
            match cache.find(&digest, cx.events).await? {
                Some(image) => image,
                None => {
                    let published = Published {
                        path: path.to_owned(),
                        ours: false,
                        key: digest.key(),
                        sha256: digest.hex.clone(),
                        origin: resolved.origin.clone(),
                        verified: resolved.verified.clone(),
                    };
                    keep(cache, published, lock, cx).await?;
                    found(cache, &digest, cx).await?
                }
            }
        }
    };
    Ok(BaseImage {
        origin: resolved.origin.clone(),
        verified: resolved.verified.clone(),
        ..image
    })
}

async fn digests(
    path: &Path,
    stamp: &Stamp,
    expected: Option<&Digest>,
    cache: &Cache,
    cx: &Context<'_>,
) -> Result<Digests> {
    let shown = path.to_string_lossy().into_owned();
    let note = cache.note("files", &sha256(path.as_os_str().as_encoded_bytes()));
    let known = std::fs::read(&note).ok();
    let known: Option<Known> = known.and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(known) = known
        && known.stamp == *stamp
    {
        let digests = Digests {
            sha256: known.sha256,
            sha512: known.sha512,
        };
        if expected.is_none_or(|expected| digests.of(expected.algorithm).is_some()) {
            return Ok(digests);
        }
    }
    let settled = stamp.is_settled();
    let digests = hash(path, expected, cx.events).await?;
    if settled {
        let known = Known {
            path: shown,
            stamp: stamp.clone(),
            sha256: digests.sha256.clone(),
            sha512: digests.sha512.clone(),
        };
        let text = serde_json::to_vec(&known).doing(|| format!("writing {}", note.display()))?;
        write_atomically(&note, &text)?;
    }
    Ok(digests)
}
