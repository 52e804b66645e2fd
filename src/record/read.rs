//! What is read of a record again: by the registry when it is rebuilt, and when two versions are compared.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use crate::error::{Context, Error, Result};

/// The largest record that is read, in bytes. One is about 10 KiB.
const MAX_RECORD: u64 = 16 << 20;

/// The parts of a record that are read again. Records of older imgbuilds lack some.
#[derive(Debug, Clone, Deserialize)]
pub struct Known {
    pub image: Image,
    pub build: Build,
    pub source: Source,
    #[serde(default)]
    pub vars: BTreeMap<String, serde_json::Value>,
    pub steps: Vec<Step>,
    pub artifact: Artifact,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Image {
    pub name: String,
    /// The target that it is on, if it is on one.
    #[serde(default)]
    pub target: Option<String>,
    pub version: Option<u32>,
    pub label: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Build {
    pub id: String,
    pub started: Timestamp,
    pub finished: Timestamp,
}

/// The base image.
#[derive(Debug, Clone, Deserialize)]
pub struct Source {
    pub origin: String,
    #[serde(default)]
    sha256: String,
    #[serde(default)]
    sha512: String,
    #[serde(default)]
    identity: String,
    pub version: Option<String>,
}

impl Image {
    /// What the registry calls it.
    pub fn registered(&self) -> String {
        crate::store::registry::name(&self.name, self.target.as_deref())
    }
}

impl Source {
    /// Its digest, by whichever algorithm; of a template of which only its server knows, that of what it said.
    pub fn digest(&self) -> &str {
        let all = [&self.sha256, &self.sha512, &self.identity];
        all.into_iter()
            .find(|hex| !hex.is_empty())
            .map_or("", String::as_str)
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    pub name: String,
    pub sha256: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Artifact {
    pub format: String,
    pub size: u64,
    pub sha256: String,
}

/// Reads the record at `path`.
pub fn read(path: &Path) -> Result<Known> {
    let doing = || format!("reading the build record {}", path.display());
    if std::fs::metadata(path).doing(doing)?.len() > MAX_RECORD {
        return Err(Error::new(doing()).cause("it is far too large"));
    }
    let text = std::fs::read(path).doing(doing)?;
    serde_json::from_slice(&text).doing(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_known_by_its_content_or_by_what_its_server_said() {
        for name in ["sha256", "sha512", "identity"] {
            let text = format!("{{\"origin\": \"o\", \"{name}\": \"0a\", \"version\": null}}");
            let source: Source = serde_json::from_str(&text).unwrap();
            assert_eq!(source.digest(), "0a", "{name}");
        }
    }
}
