//! What the network said last, so that a build that worked online works offline as well.

use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::digest::{Digest, sha256};
use super::{Spec, Verified, Verify};
use crate::error::{Context as _, Error, Result};
use crate::store::write_atomically;

/// An answer. URLs are not in it: they may carry credentials, and offline nobody asks them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Memory {
    pub origin: String,
    pub expected: Digest,
    pub verified: Verified,
}

const KIND: &str = "resolved";

/// Remembers the answer to `spec`, replacing an older one.
pub(super) fn remember(cache: &Cache, spec: &Spec, memory: &Memory) -> Result<()> {
    let text =
        serde_json::to_vec_pretty(memory).doing(|| "remembering what a source stands for")?;
    write_atomically(&cache.note(KIND, &id(spec)?), &text)
}

/// The last answer to `spec`.
pub(super) fn recall(cache: &Cache, spec: &Spec) -> Result<Memory> {
    let text = std::fs::read(cache.note(KIND, &id(spec)?)).ok();
    text.and_then(|text| serde_json::from_slice(&text).ok())
        .ok_or_else(|| {
            Error::new(format!("looking up {}", shown(spec)))
                .cause("it was never looked up on this machine, and the network is off limits")
                .hint("run without --offline, or `imgbuild image pull` while there is a network")
        })
}

/// A name for a source: all that the recipe says of it, and the trusted key itself, since another key under the same
/// path is another source.
fn id(spec: &Spec) -> Result<String> {
    let mut text = format!("{spec:?}").into_bytes();
    let (Spec::Url { verify, .. }
    | Spec::File {
        verify: Some(verify),
        ..
    }) = spec
    else {
        return Ok(sha256(&text));
    };
    if let Verify::Checksums {
        signature: Some(signature),
        ..
    } = verify
    {
        let key = std::fs::read(&signature.key);
        text.extend(key.doing(|| format!("reading the key {}", signature.key.display()))?);
    }
    Ok(sha256(&text))
}

fn shown(spec: &Spec) -> String {
    match spec {
        Spec::File { path, .. } | Spec::Built { path } => path.display().to_string(),
        Spec::Url { url, .. } => super::address::Address::parse(url)
            .map_or_else(|_| "a URL".into(), |url| url.to_string()),
        Spec::Version { reference } => reference.to_string(),
        Spec::Template { template } => template.to_string(),
        Spec::Nixos { flake, .. } => flake.clone(),
        Spec::Ubuntu { release, .. } => format!("Ubuntu {release}"),
        Spec::Debian { release, .. } => format!("Debian {release}"),
    }
}
