//! Ubuntu's cloud images, found through the simplestreams index of the releases tree.
//!
//! The index itself comes unsigned over TLS. Where the machine has Ubuntu's keyring (Debian and Ubuntu package
//! `ubuntu-keyring`), the signed `SHA256SUMS` beside the image has to agree with it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::address::Address;
use super::checksums::look_up;
use super::digest::{Algorithm, Digest};
use super::resolve::{Resolved, document, prove};
use super::{ARCH, Context, Verified};
use crate::error::{Context as _, Error, Kind, Result};

/// Ubuntu's own tree.
const ROOT: &str = "https://cloud-images.ubuntu.com/releases";

/// The index of released images under a root.
const INDEX: &str = "streams/v1/com.ubuntu.cloud:released:download.json";

/// The item of a version that is the disk, a qcow2 file.
const ITEM: &str = "disk1.img";

/// The largest index that is read; Ubuntu's has a few MiB.
const MAX_INDEX: usize = 64 << 20;

/// The largest list or signature that is read.
const MAX_LIST: usize = 1 << 20;

/// Which of Ubuntu's keys are trusted, and where they are found.
#[derive(Debug, Clone)]
pub(super) struct Anchors {
    /// Keyrings; the first that exists and has the key counts.
    pub keyrings: Vec<PathBuf>,
    /// The key that signs `SHA256SUMS`: "UEC Image Automatic Signing Key", as of package `ubuntu-keyring` 2023.11.28.
    pub fingerprint: String,
}

impl Default for Anchors {
    fn default() -> Self {
        Anchors {
            keyrings: vec![
                "/usr/share/keyrings/ubuntu-cloudimage-keyring.gpg".into(),
                "/usr/share/keyrings/ubuntu-archive-keyring.gpg".into(),
            ],
            fingerprint: "D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81".into(),
        }
    }
}

#[derive(Deserialize)]
struct Index {
    products: BTreeMap<String, Product>,
}

#[derive(Deserialize)]
struct Product {
    #[serde(default)]
    arch: String,
    #[serde(default)]
    release: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    aliases: String,
    #[serde(default)]
    versions: BTreeMap<String, Version>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    items: BTreeMap<String, Item>,
}

#[derive(Deserialize)]
struct Item {
    path: String,
    /// Not every kind of item has one.
    #[serde(default)]
    sha256: String,
}

/// Finds the newest image of a release, by version (`24.04`), codename (`noble`) or alias (`lts`).
pub(super) async fn resolve(
    release: &str,
    mirrors: &[String],
    cx: &Context<'_>,
    anchors: &Anchors,
) -> Result<Resolved> {
    let shown = format!("Ubuntu {release}");
    let keyring = keyring(anchors);
    from_first_root(
        mirrors,
        ROOT,
        &shown,
        async |root: &Address| at_root(release, root, keyring.as_deref(), cx, anchors).await,
        cx,
    )
    .await
}

/// Asks roots in turn for the path of an image below the root, its digest, and how that is trusted. The URLs are those
/// of the root that answered, then of all others: the digest holds wherever the bytes come from.
pub(super) async fn from_first_root(
    mirrors: &[String],
    own: &str,
    shown: &str,
    ask: impl AsyncFn(&Address) -> Result<(String, Digest, Verified)>,
    cx: &Context<'_>,
) -> Result<Resolved> {
    let roots = match mirrors {
        [] => vec![Address::parse(own)?],
        _ => mirrors
            .iter()
            .map(|root| Address::parse(root))
            .collect::<Result<_>>()?,
    };
    let mut errors = Vec::new();
    for (answering, root) in roots.iter().enumerate() {
        match ask(root).await {
            Ok((path, digest, verified)) => {
                let others = roots
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != answering);
                let all = std::iter::once(root).chain(others.map(|(_, root)| root));
                let urls = all.map(|root| root.under(&path)).collect::<Result<_>>()?;
                return Ok(Resolved::at(urls, digest, verified));
            }
            Err(error) if roots.len() == 1 => return Err(error),
            Err(error) => {
                cx.events.warn(format!("{root}: {error}"));
                errors.push((root, error));
            }
        }
    }
    let lines: Vec<_> = errors
        .iter()
        .map(|(root, error)| format!("{root}: {error}"))
        .collect();
    // A mirror that lies is worse than one that is down.
    let kinds = errors.iter().map(|(_, error)| error.get_kind());
    let kind = kinds.max_by_key(|kind| *kind == Kind::Verification);
    Err(Error::new(format!("looking up {shown}"))
        .kind(kind.unwrap_or(Kind::Operation))
        .cause(format!("none of {} mirrors answered well", roots.len()))
        .detail("what each of them answered", lines.join("\n")))
}

async fn at_root(
    release: &str,
    root: &Address,
    keyring: Option<&[u8]>,
    cx: &Context<'_>,
    anchors: &Anchors,
) -> Result<(String, Digest, Verified)> {
    let index = root.under(INDEX)?;
    let text = document(&index, MAX_INDEX, keyring.is_some(), cx).await?;
    let (path, digest) = newest(&text, release, &index.to_string())?;
    let url = root.under(&path)?;
    let verified = match keyring {
        Some(keyring) => {
            let list = url.beside("SHA256SUMS")?;
            let sums = document(&list, MAX_LIST, true, cx).await?;
            let signature = url.beside("SHA256SUMS.gpg")?;
            let signature = document(&signature, MAX_LIST, true, cx).await?;
            let (list, only) = (list.to_string(), Some(anchors.fingerprint.as_str()));
            let fingerprint = prove(&sums, &list, &signature, keyring, only)?;
            let signed = look_up(&String::from_utf8_lossy(&sums), &url.file_name(), &list)?;
            if signed != digest {
                return Err(Error::new(format!("verifying {url}"))
                    .kind(Kind::Verification)
                    .cause(format!(
                        "the index says {digest}, the signed list says {signed}"
                    ))
                    .hint("the mirror may be in the middle of an update: try again later"));
            }
            Verified::Signature { list, fingerprint }
        }
        None => Verified::Checksums {
            list: index.to_string(),
        },
    };
    if cx.http.lacks(&url).await {
        return Err(Error::new(format!("looking up Ubuntu {release}"))
            .cause(format!("the index names {url}, which is not there"))
            .hint("the mirror is outdated or in the middle of an update: try again later, or set other `mirrors`"));
    }
    Ok((path, digest, verified))
}

/// Path and digest of the newest image of a release by an index, which errors call `shown`.
fn newest(index: &[u8], release: &str, shown: &str) -> Result<(String, Digest)> {
    let index: Index = serde_json::from_slice(index).doing(|| format!("reading {shown}"))?;
    let wanted = release.trim().to_lowercase();
    let servers = || {
        let all = index.products.iter();
        let ours = all.filter(|(name, product)| name.contains(":server:") && product.arch == ARCH);
        ours.map(|(_, product)| product)
    };
    let product = servers().find(|product| {
        let mut aliases = product.aliases.split(',').map(str::trim);
        product.version == wanted
            || product.release == wanted
            || aliases.any(|alias| alias == wanted)
    });
    let failed =
        |cause: &str| Error::new(format!("looking up Ubuntu {release} in {shown}")).cause(cause);
    let product = product.ok_or_else(|| {
        let mut names: Vec<_> = servers()
            .map(|product| format!("{} ({})", product.version, product.release))
            .collect();
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.truncate(6);
        failed("there is no such release")
            .kind(Kind::Usage)
            .hint(format!("there are {}", names.join(", ")))
    })?;
    let disks = product.versions.iter();
    let disks = disks.filter_map(|(serial, version)| Some((serial, version.items.get(ITEM)?)));
    let (_, item) = disks
        .max_by_key(|(serial, _)| order(serial))
        .ok_or_else(|| failed("the release has no disk image"))?;
    let digest = Digest::new(Algorithm::Sha256, &item.sha256)
        .ok_or_else(|| failed("the index gives no proper sha256"))?;
    // The path becomes a part of URLs, and must not lead out of the tree.
    let plain = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+~".contains(c);
        !part.is_empty() && part.chars().all(allowed) && !part.starts_with('.')
    };
    match item.path.split('/').all(plain) {
        true => Ok((item.path.clone(), digest)),
        false => Err(failed("the index gives no proper path")),
    }
}

/// Serials are dates with an optional counter: `20240423`, `20240423.1`.
fn order(serial: &str) -> Vec<u64> {
    serial
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}

fn keyring(anchors: &Anchors) -> Option<Vec<u8>> {
    let rings = anchors
        .keyrings
        .iter()
        .filter_map(|path| std::fs::read(path).ok());
    rings
        .into_iter()
        .find(|ring| super::signature::holds(ring, &anchors.fingerprint))
}
