//! Base images: resolve, download, verify, keep.
//!
//! [`resolve`] asks the network which URLs and which digest a [`Spec`] stands for; [`fetch`] brings the bytes, proves
//! them, and leaves a file that a machine's disk can be an overlay of. Images are kept by the digest of what upstream
//! published, so that nothing is downloaded twice.

mod address;
mod built;
mod cache;
mod checksums;
mod debian;
mod digest;
mod document;
mod download;
mod fetch;
mod file;
mod format;
mod http;
mod inventory;
mod local;
mod memory;
mod nixos;
mod offered;
mod partial;
mod qcow2;
mod resolve;
mod signature;
mod template;
mod ubuntu;
mod unpack;
mod version;
mod vmdk;
mod work;

#[cfg(test)]
mod tests;

pub use digest::{Algorithm, Digest};
pub use document::document;
pub use fetch::fetch;
pub use file::{Fetched, file};
pub use http::{Http, Options};
pub use inventory::{Cached, CachedFile, CachedImage, FileKind, files, list, remove, sweep};
pub use offered::{Offered, offered};
pub use resolve::{Resolved, resolve};
pub use template::TemplateId;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::run::events::Events;
use crate::store::registry::Reference;
use crate::store::{Dirs, Lock, Stamp};

/// What resolving and fetching need from outside.
pub struct Context<'a> {
    /// Where images are kept.
    pub dirs: &'a Dirs,
    /// Where progress, notes and warnings go.
    pub events: &'a Events,
    /// The client for all requests.
    pub http: &'a Http,
    /// Whether the network is out of bounds: only what is kept can be used.
    pub offline: bool,
}

/// The only architecture of guests so far, as Ubuntu and Debian name it.
pub(crate) const ARCH: &str = "amd64";

/// Where a base image comes from, with everything resolved that the recipe says: paths are absolute, variables gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// An image on this machine, used in place.
    File {
        path: PathBuf,
        verify: Option<Verify>,
    },
    /// An image that another recipe has built; its build record beside it says its digest.
    Built { path: PathBuf },
    /// A version in the registry.
    Version { reference: Reference },
    /// A template on the target that is built on.
    Template { template: TemplateId },
    /// What `nix build` makes of a flake's output on this machine.
    Nixos {
        flake: String,
        /// The image's path in the output; the only image there if not given.
        file: Option<String>,
    },
    /// An image at a URL; `mirrors` are other URLs of the same file, tried in order.
    Url {
        url: String,
        mirrors: Vec<String>,
        verify: Verify,
    },
    /// An Ubuntu cloud image by version (`24.04`) or codename (`noble`), from the simplestreams index. `mirrors` are
    /// roots of trees to be used instead of Ubuntu's own, in order.
    Ubuntu {
        release: String,
        mirrors: Vec<String>,
    },
    /// A Debian cloud image (`genericcloud`, qcow2) by version (`12`) or codename (`bookworm`). `mirrors` as for Ubuntu.
    Debian {
        release: String,
        mirrors: Vec<String>,
    },
}

/// How a base image is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verify {
    /// The recipe pins the sha256, 64 lower-case hex digits.
    Sha256(String),
    /// A list in the format of `sha256sum` or `sha512sum`, at a URL or path; optionally signed.
    Checksums {
        list: String,
        signature: Option<Signature>,
    },
}

/// An OpenPGP signature over a checksum list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// URL or path of the detached signature, armoured or binary.
    pub location: String,
    /// Path of the public key (certificate), armoured or binary: the only key that is trusted.
    pub key: PathBuf,
}

/// How the digest of a base image came to be trusted; recorded with the build.
#[derive(
    Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case", tag = "by")]
pub enum Verified {
    /// The recipe pinned the digest.
    Digest,
    /// A list without a signature: trust rests on the file or on TLS.
    Checksums { list: String },
    /// A list signed by this key.
    Signature { list: String, fingerprint: String },
    /// The record that imgbuild wrote when it built the image.
    Record { record: String },
    /// The registry says what this version is.
    Registry { version: String },
    /// Built by nix from this flake: the store path stands for everything that went into it.
    Flake { flake: String, output: String },
    /// By nobody: it is a template of which only its server knows what is on its disk.
    Server {
        node: String,
        vmid: u32,
        name: String,
        /// What the server says that tells it from every other template, and from an earlier one of the same id.
        identity: BTreeMap<String, String>,
    },
    /// A local file without any expectation: its digest is recorded, nothing more.
    Unverified,
}

/// The container format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    Qcow2,
    Raw,
}

impl Format {
    /// QEMU's name of the format.
    pub fn name(self) -> &'static str {
        match self {
            Format::Qcow2 => "qcow2",
            Format::Raw => "raw",
        }
    }
}

/// A verified image that a machine's disk can be an overlay of.
#[derive(Debug, Clone)]
pub struct BaseImage {
    /// The file, never written to.
    pub path: PathBuf,
    pub format: Format,
    /// Size of the disk as a guest sees it, in bytes.
    pub virtual_size: u64,
    /// Bytes the file takes on disk.
    pub allocated: u64,
    /// sha256 of the image as it was published (before decompression or conversion), lower-case hex.
    pub sha256: String,
    /// sha256 of the file at `path`, which differs when what was published was unpacked or converted.
    pub file_sha256: String,
    /// URL or path it came from.
    pub origin: String,
    pub verified: Verified,
    /// Keeps the image from being removed while this (or a clone of it) lives; `None` for a file that is used in place.
    pub lock: Option<Arc<Lock>>,
    /// What the kernel said about a file that is used in place, when it was hashed.
    stamp: Option<Stamp>,
}

/// What is told of a base image.
#[derive(Debug, Clone)]
pub struct Basis {
    /// The file on this machine; empty if there is none.
    pub path: PathBuf,
    /// URL or path it came from.
    pub origin: String,
    /// Of the image as it was published; of a template of which only its server knows, of what that says.
    pub digest: Digest,
    pub verified: Verified,
}

impl Basis {
    /// The digest of its content, if anybody has taken that.
    pub fn content(&self) -> Option<&Digest> {
        match self.verified {
            Verified::Server { .. } => None,
            _ => Some(&self.digest),
        }
    }
}

impl BaseImage {
    /// What is told of it.
    pub fn basis(&self) -> Basis {
        Basis {
            path: self.path.clone(),
            origin: self.origin.clone(),
            digest: Digest {
                algorithm: Algorithm::Sha256,
                hex: self.sha256.clone(),
            },
            verified: self.verified.clone(),
        }
    }

    /// Fails if a file that is used in place was changed or replaced since it was hashed: an overlay on it would then be
    /// one of another disk.
    pub fn still_there(&self) -> Result<()> {
        match &self.stamp {
            Some(stamp) if Stamp::of_path(&self.path)? != *stamp => {
                Err(Error::new(format!("building on {}", self.path.display()))
                    .kind(Kind::Conflict)
                    .cause("it was changed or replaced while it was being used")
                    .hint("build again, and let nothing write to it meanwhile"))
            }
            _ => Ok(()),
        }
    }
}
