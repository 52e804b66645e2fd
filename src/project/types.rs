//! The tables of `imgbuild.toml` as they are written. Public API: a key that has shipped keeps its meaning.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::backend::proxmox::Fingerprint;
use crate::recipe::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Project {
    #[serde(default)]
    pub targets: BTreeMap<String, Spanned<Target>>,
}

/// A place that images go to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Target {
    /// What kind of place it is. There is one kind.
    #[serde(rename = "kind")]
    pub _kind: Kind,
    /// `https://HOST:8006`. If not given: what the environment says.
    pub endpoint: Option<Spanned<String>>,
    /// The node that is worked on, or `auto`: the best of the cluster, for each build.
    pub node: Spanned<String>,
    /// An API token.
    pub token: Option<Spanned<Secret>>,
    /// A user, with `password`, where there can be no token.
    pub user: Option<Spanned<String>>,
    pub password: Option<Spanned<Secret>>,
    /// The SHA-256 fingerprint of the server's certificate: the only one that is trusted.
    pub fingerprint: Option<Spanned<Fingerprint>>,
    /// A file of certificates of authorities, in PEM: the only ones that are trusted.
    pub ca: Option<Spanned<String>>,
    pub storages: Storages,
    /// The bridge that machines are connected to.
    pub bridge: Option<Spanned<String>>,
    /// The ids that machines get: `9000-9099`.
    #[serde(default, deserialize_with = "vmids")]
    pub vmid_range: Option<Spanned<RangeInclusive<u32>>>,
    /// How many layers there may be on the node; 10 if not given.
    pub layers: Option<u32>,
    /// How many builds one command has on a node at the same time; 2 if not given.
    pub builds_per_node: Option<Spanned<u32>>,
    /// The nodes that finished templates are copied to.
    #[serde(default)]
    pub replicate: Vec<Spanned<String>>,
}

/// The kinds of targets.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Proxmox,
}

/// Storages by what is kept in them: the names of Proxmox's content types.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Storages {
    /// Base images.
    pub import: Spanned<String>,
    /// The disks of machines.
    pub images: Option<Spanned<String>>,
    /// The seed volumes of machines.
    pub iso: Option<Spanned<String>>,
}

/// Where a secret's value comes from: exactly one of the keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Secret {
    pub env: Option<Spanned<String>>,
    pub file: Option<Spanned<String>>,
    pub command: Option<Spanned<String>>,
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The ids that Proxmox VE has for machines (its `pve-vmid`).
const VMIDS: RangeInclusive<u32> = 100..=999_999_999;

fn vmids<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Spanned<RangeInclusive<u32>>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Text(Spanned<Vmids>);
    Text::deserialize(from).map(|Text(text)| {
        let span = text.span();
        Some(Spanned::new(span, text.into_inner().0))
    })
}

struct Vmids(RangeInclusive<u32>);

impl<'de> Deserialize<'de> for Vmids {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = |why: fmt::Arguments| {
            de::Error::custom(format!("{why}; write for instance \"9000-9099\""))
        };
        let ends = text.split_once('-');
        let ends = ends.and_then(|(first, last)| {
            let number = |text: &str| text.trim().parse::<u32>().ok();
            Some((number(first)?, number(last)?))
        });
        let Some((first, last)) = ends else {
            return Err(wrong(format_args!("`{text}` is no range of ids")));
        };
        match first <= last && VMIDS.contains(&first) && VMIDS.contains(&last) {
            true => Ok(Vmids(first..=last)),
            false => Err(wrong(format_args!(
                "`{text}`: ids go from {} to {}, the smaller one first",
                VMIDS.start(),
                VMIDS.end()
            ))),
        }
    }
}
