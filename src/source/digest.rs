//! Digests: what is expected of a file, and what it turned out to have.

use std::fmt;
use std::fs::File;
use std::io::Read;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

use super::work::Meter;
use crate::error::{Error, Result};

/// How much is read and hashed at once.
pub(super) const CHUNK: usize = 1 << 20;

/// The hash functions that are good enough to trust a file by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The name as digests are written with.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Number of hex digits of a digest.
    pub(super) fn digits(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// A digest that a file is expected to have. Shown as `sha256:HEX`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    pub algorithm: Algorithm,
    /// Lower-case hex digits, as many as the algorithm has.
    pub hex: String,
}

impl Digest {
    /// Reads hex digits of either case; their number must be that of the algorithm.
    pub fn new(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let fits = hex.len() == algorithm.digits() && hex.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| Digest {
            algorithm,
            hex: hex.to_ascii_lowercase(),
        })
    }

    /// Reads a digest as package registries write it (W3C Subresource Integrity): `sha512-` and base64. Of several, the
    /// first that is good enough.
    pub fn from_integrity(text: &str) -> Option<Self> {
        use base64::Engine as _;
        text.split_whitespace().find_map(|entry| {
            let (name, encoded) = entry.split_once('-')?;
            let all = [Algorithm::Sha512, Algorithm::Sha256];
            let algorithm = all.into_iter().find(|algorithm| algorithm.name() == name)?;
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded);
            Digest::new(algorithm, &crate::text::hex(&bytes.ok()?))
        })
    }

    /// A name for files about this digest.
    pub(super) fn key(&self) -> String {
        format!("{}-{}", self.algorithm.name(), self.hex)
    }

    /// The digest that [`Digest::key`] made this name of.
    pub(super) fn of_key(key: &str) -> Option<Self> {
        let (name, hex) = key.split_once('-')?;
        let all = [Algorithm::Sha256, Algorithm::Sha512];
        let algorithm = all.into_iter().find(|algorithm| algorithm.name() == name)?;
        Digest::new(algorithm, hex)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

/// The digests of some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digests {
    pub sha256: String,
    /// Only when it was asked for.
    pub sha512: Option<String>,
}

impl Digests {
    /// The digest of one algorithm, if it was computed.
    pub fn of(&self, algorithm: Algorithm) -> Option<&str> {
        match algorithm {
            Algorithm::Sha256 => Some(&self.sha256),
            Algorithm::Sha512 => self.sha512.as_deref(),
        }
    }

    /// Whether the bytes are those expected.
    pub fn satisfy(&self, expected: &Digest) -> bool {
        self.of(expected.algorithm) == Some(expected.hex.as_str())
    }
}

/// Computes sha256 always, because the cache is keyed by it, and sha512 where that is what upstream publishes. By ring,
/// which is here for TLS anyway: on CPUs without SHA instructions it is several times faster than portable code.
#[derive(Clone)]
pub(super) struct Hasher {
    sha256: ring::digest::Context,
    sha512: Option<ring::digest::Context>,
}

impl Hasher {
    /// A hasher that can tell whether `expected` is met.
    pub fn for_expected(expected: Option<&Digest>) -> Self {
        let by_512 = expected.is_some_and(|digest| digest.algorithm == Algorithm::Sha512);
        Hasher {
            sha256: ring::digest::Context::new(&ring::digest::SHA256),
            sha512: by_512.then(|| ring::digest::Context::new(&ring::digest::SHA512)),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }

    pub fn finish(self) -> Digests {
        Digests {
            sha256: hex(self.sha256.finish().as_ref()),
            sha512: self.sha512.map(|sha512| hex(sha512.finish().as_ref())),
        }
    }

    /// Hashes the rest of a file. `shown` names it in errors. Ends with an error when `stop` is cancelled.
    pub fn read(
        &mut self,
        mut file: &File,
        shown: &str,
        meter: &mut Meter,
        stop: &CancellationToken,
    ) -> Result<u64> {
        let mut buffer = vec![0; CHUNK];
        let mut done = 0;
        loop {
            let failed = || Error::new(format!("reading {shown}"));
            if stop.is_cancelled() {
                return Err(failed().cause("interrupted"));
            }
            match file.read(&mut buffer) {
                Ok(0) => return Ok(done),
                Ok(read) => {
                    self.update(&buffer[..read]);
                    done += read as u64;
                    meter.at(done);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed().cause(error)),
            }
        }
    }
}

/// sha256 of a few bytes, as hex.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
