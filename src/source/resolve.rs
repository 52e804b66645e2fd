//! From what the recipe says to URLs, an expected digest, and how that digest came to be trusted.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::address::Address;
use super::cache::Cache;
use super::checksums::look_up;
use super::digest::{Algorithm, Digest};
use super::memory::{Memory, recall, remember};
use super::ubuntu::Anchors;
use super::{
    Context, Signature, Spec, Verified, Verify, built, debian, nixos, signature, ubuntu, version,
};
use crate::error::{Context as _, Error, Kind, Result};

/// The largest checksum list, signature or key that is read, in bytes.
const MAX_LIST: usize = 8 << 20;

/// What a source stands for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// URL (without credentials) or path of the image.
    pub origin: String,
    /// The digest that the image must have; `None` only for a local file without any expectation.
    pub expected: Option<Digest>,
    /// How `expected` came to be trusted.
    pub verified: Verified,
    pub(super) place: Place,
}

/// Where the bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// At each of these, in the order of preference.
    Urls(Vec<Address>),
    /// In the cache or out of reach.
    Cache,
    /// On this machine.
    File(PathBuf),
    /// To be built: a flake's output, and the image's path in it.
    Flake(String, Option<String>),
    /// On a target, and nowhere else.
    Target,
}

/// Finds out what `spec` stands for. Only small documents are fetched: indexes, checksum lists, signatures. With
/// `offline` the last answer is used.
///
/// Errors: a fault of the recipe ([`Kind::Usage`]); a signature or list that does not vouch for the image
/// ([`Kind::Verification`]); no server that answers.
pub async fn resolve(spec: &Spec, cx: &Context<'_>) -> Result<Resolved> {
    resolve_with(spec, cx, &Anchors::default()).await
}

/// As [`resolve`], with the keys of distributions from elsewhere than the system's folders.
pub(super) async fn resolve_with(
    spec: &Spec,
    cx: &Context<'_>,
    anchors: &Anchors,
) -> Result<Resolved> {
    if let Spec::File { path, .. } = spec {
        check_file(path)?;
    }
    if !asks_network(spec) {
        return ask(spec, cx, anchors).await;
    }
    let cache = Cache::new(cx.dirs);
    if cx.offline {
        let memory = recall(&cache, spec)?;
        return Ok(Resolved {
            place: match spec {
                Spec::File { path, .. } => Place::File(path.clone()),
                _ => Place::Cache,
            },
            origin: memory.origin,
            expected: Some(memory.expected),
            verified: memory.verified,
        });
    }
    let resolved = ask(spec, cx, anchors).await?;
    if let Some(expected) = resolved.expected.clone() {
        let memory = Memory {
            origin: resolved.origin.clone(),
            expected,
            verified: resolved.verified.clone(),
        };
        remember(&cache, spec, &memory)?;
    }
    Ok(resolved)
}

async fn ask(spec: &Spec, cx: &Context<'_>, anchors: &Anchors) -> Result<Resolved> {
    match spec {
        Spec::File { path, verify } => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let (expected, verified) = match verify {
                Some(verify) => {
                    let (digest, verified) = expectation(verify, &name, cx).await?;
                    (Some(digest), verified)
                }
                None => (None, Verified::Unverified),
            };
            Ok(Resolved {
                origin: path.display().to_string(),
                expected,
                verified,
                place: Place::File(path.clone()),
            })
        }
        Spec::Nixos { flake, file } => Ok(Resolved {
            origin: nixos::shown(flake),
            expected: None,
            verified: Verified::Unverified,
            place: Place::Flake(flake.clone(), file.clone()),
        }),
        Spec::Built { path } => {
            let (newest, expected, verified) = built::expectation(path)?;
            Ok(Resolved {
                origin: newest.display().to_string(),
                expected: Some(expected),
                verified,
                place: Place::File(newest),
            })
        }
        Spec::Version { reference } => version::resolve(reference, cx),
        Spec::Template { template } => Ok(Resolved {
            origin: template.to_string(),
            expected: None,
            verified: Verified::Unverified,
            place: Place::Target,
        }),
        Spec::Url {
            url,
            mirrors,
            verify,
        } => {
            let urls = std::iter::once(url).chain(mirrors);
            let urls = urls
                .map(|url| Address::parse(url))
                .collect::<Result<Vec<_>>>()?;
            let name = urls.first().map(Address::file_name).unwrap_or_default();
            let (digest, verified) = expectation(verify, &name, cx).await?;
            Ok(Resolved::at(urls, digest, verified))
        }
        Spec::Ubuntu { release, mirrors } => ubuntu::resolve(release, mirrors, cx, anchors).await,
        Spec::Debian { release, mirrors } => debian::resolve(release, mirrors, cx).await,
    }
}

impl Resolved {
    /// An image that another recipe builds, whether it is there yet or not.
    pub fn built(path: &Path) -> Self {
        let (newest, expected, verified) = match built::expectation(path) {
            Ok((newest, expected, verified)) => (newest, Some(expected), verified),
            Err(_) => (path.to_owned(), None, Verified::Unverified),
        };
        Resolved {
            origin: newest.display().to_string(),
            expected,
            verified,
            place: Place::File(newest),
        }
    }

    /// Where it is on this machine, if it is there.
    pub fn file(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) => Some(path),
            _ => None,
        }
    }

    /// An image at any of these URLs; the first one names it.
    pub(super) fn at(urls: Vec<Address>, expected: Digest, verified: Verified) -> Self {
        Resolved {
            origin: urls.first().map(Address::to_string).unwrap_or_default(),
            expected: Some(expected),
            verified,
            place: Place::Urls(urls),
        }
    }
}

fn asks_network(spec: &Spec) -> bool {
    match spec {
        Spec::Ubuntu { .. } | Spec::Debian { .. } => true,
        Spec::Url { verify, .. }
        | Spec::File {
            verify: Some(verify),
            ..
        } => match verify {
            Verify::Sha256(_) => false,
            Verify::Checksums { list, signature } => {
                is_url(list) || signature.as_ref().is_some_and(|sig| is_url(&sig.location))
            }
        },
        Spec::File { verify: None, .. }
        | Spec::Built { .. }
        | Spec::Version { .. }
        | Spec::Template { .. }
        | Spec::Nixos { .. } => false,
    }
}

fn check_file(path: &Path) -> Result<()> {
    let failed = |cause: String| {
        Error::new(format!("using the image {}", path.display()))
            .kind(Kind::Usage)
            .cause(cause)
    };
    let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() {
        return Err(failed("it is not a regular file".into()));
    }
    std::fs::File::open(path)
        .map(drop)
        .map_err(|error| failed(error.to_string()))
}

/// The digest that `verify` demands of the file called `name`.
async fn expectation(verify: &Verify, name: &str, cx: &Context<'_>) -> Result<(Digest, Verified)> {
    match verify {
        Verify::Sha256(hex) => {
            let digest = Digest::new(Algorithm::Sha256, hex).ok_or_else(|| {
                Error::new(format!("reading the sha256 of {name}"))
                    .kind(Kind::Usage)
                    .cause("it is not made of 64 hexadecimal digits")
            })?;
            Ok((digest, Verified::Digest))
        }
        Verify::Checksums { list, signature } => {
            let location = Location::parse(list)?;
            let text = location.read(signature.is_some(), cx).await?;
            let verified = match signature {
                Some(signature) => {
                    let fingerprint = check_signature(&text, &location, signature, cx).await?;
                    Verified::Signature {
                        list: location.shown(),
                        fingerprint,
                    }
                }
                None => Verified::Checksums {
                    list: location.shown(),
                },
            };
            let text = String::from_utf8_lossy(&text);
            Ok((look_up(&text, name, &location.shown())?, verified))
        }
    }
}

async fn check_signature(
    list: &[u8],
    location: &Location,
    signature: &Signature,
    cx: &Context<'_>,
) -> Result<String> {
    let at = Location::parse(&signature.location)?;
    let bytes = at.read(true, cx).await?;
    let key = Location::Path(signature.key.clone()).read(true, cx).await?;
    prove(list, &location.shown(), &bytes, &key, None)
}

/// Checks a signature over a list called `shown`; returns the signer's fingerprint. See [`signature::verify`].
pub(super) fn prove(
    list: &[u8],
    shown: &str,
    signature: &[u8],
    keyring: &[u8],
    only: Option<&str>,
) -> Result<String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    signature::verify(list, signature, keyring, only, now.as_secs()).map_err(|reason| {
        Error::new(format!("verifying the signature of {shown}"))
            .kind(Kind::Verification)
            .cause(reason)
            .hint("only the given key is trusted; check that it is the publisher's current one")
    })
}

/// A document at a URL or on this machine.
#[derive(Debug)]
enum Location {
    Url(Address),
    Path(PathBuf),
}

fn is_url(text: &str) -> bool {
    text.contains("://")
}

impl Location {
    fn parse(text: &str) -> Result<Self> {
        match is_url(text) {
            true => Address::parse(text).map(Location::Url),
            false => Ok(Location::Path(text.into())),
        }
    }

    fn shown(&self) -> String {
        match self {
            Location::Url(address) => address.to_string(),
            Location::Path(path) => path.display().to_string(),
        }
    }

    /// The content. `proven` says that something else vouches for it, so that it may come over plain HTTP.
    async fn read(&self, proven: bool, cx: &Context<'_>) -> Result<Vec<u8>> {
        match self {
            Location::Url(address) => document(address, MAX_LIST, proven, cx).await,
            Location::Path(path) => {
                std::fs::read(path).doing(|| format!("reading {}", path.display()))
            }
        }
    }
}

/// Fetches a small document. Unless it is `proven` by something else it must come over TLS (or from this machine), by
/// every redirect: else whoever is on the way decides what it says.
pub(super) async fn document(
    address: &Address,
    limit: usize,
    proven: bool,
    cx: &Context<'_>,
) -> Result<Vec<u8>> {
    let exposed = |address: &Address| {
        Error::new(format!("fetching {address}"))
            .kind(Kind::Usage)
            .cause("nothing would protect it on its way: it is not signed, and plain http can be changed by anybody")
            .hint("use https, pin `sha256`, or give `signature` and `key`")
    };
    if !proven && !address.is_private() {
        return Err(exposed(address));
    }
    let document = cx.http.document(address, limit).await.map_err(|failure| {
        let error = Error::new(format!("fetching {address}")).cause(failure.text());
        match failure.is_missing() {
            true => {
                error.hint("check the URL; a mirror may be outdated or in the middle of an update")
            }
            false => error,
        }
    })?;
    if !proven && !document.from.is_private() {
        return Err(exposed(&document.from));
    }
    Ok(document.bytes)
}
