//! The file that stands for a template on a server: where it is, and what its disk is.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Kind, Result};
use crate::text::hex;

/// The largest such file that is read, in bytes.
const MAX: u64 = 64 << 10;

/// A template on a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TemplateFile {
    /// The version of this format.
    pub schema: u32,
    /// What the project calls the server.
    pub target: String,
    pub endpoint: String,
    pub node: String,
    /// Where its disk is.
    pub storage: String,
    pub vmid: u32,
    /// What it is called there.
    pub name: String,
    /// The build that made it.
    pub build: String,
    /// sha256 of the disk's content as a guest sees it.
    pub disk: String,
    /// Bytes of that.
    pub size: u64,
    /// Its copies on other nodes, in storages of the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<Replica>,
}

/// A copy of a template on another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Replica {
    pub node: String,
    pub vmid: u32,
}

/// One of the templates that are a version: the one that was made, or a copy of that on another node.
#[derive(Debug, Clone, Copy)]
pub struct Place<'f> {
    pub node: &'f str,
    pub vmid: u32,
    /// What is written down of all of them.
    pub file: &'f TemplateFile,
}

impl Place<'_> {
    /// Whether it is a copy.
    pub fn is_replica(&self) -> bool {
        self.node != self.file.node
    }
}

impl TemplateFile {
    /// What a file of this kind is called at its end.
    pub const EXTENSION: &str = "template";

    /// This format.
    pub const SCHEMA: u32 = 1;

    /// Whether a file is one, by its name.
    pub fn is(path: &Path) -> bool {
        path.extension()
            .is_some_and(|extension| extension == Self::EXTENSION)
    }

    /// All that it is, the template that was made first.
    pub fn places(&self) -> impl DoubleEndedIterator<Item = Place<'_>> {
        let copies = self.replicas.iter();
        let copies = copies.map(|copy| (copy.node.as_str(), copy.vmid));
        let all = std::iter::once((self.node.as_str(), self.vmid)).chain(copies);
        all.map(|(node, vmid)| Place {
            node,
            vmid,
            file: self,
        })
    }

    /// Reads one.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &content(path)?)
    }

    /// Reads one that must have this sha256.
    ///
    /// Errors: it has another ([`Kind::Verification`]).
    pub fn read_exactly(path: &Path, sha256: &str) -> Result<Self> {
        let text = content(path)?;
        let found = hex(&Sha256::digest(&text));
        match found == sha256 {
            true => Self::parse(path, &text),
            false => Err(Error::new(format!("verifying {}", path.display()))
                .kind(Kind::Verification)
                .cause(format!("sha256:{sha256} was expected, but it has {found}"))
                .hint("it was changed since it was built: build that image again")),
        }
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self> {
        let doing = || format!("reading {}", path.display());
        let file: TemplateFile = serde_json::from_slice(text).doing(doing)?;
        match file.schema {
            Self::SCHEMA => Ok(file),
            newer => Err(Error::new(doing()).kind(Kind::Usage).cause(format!(
                "a newer imgbuild has written it: its schema is {newer}"
            ))),
        }
    }
}

/// The bytes of such a file.
fn content(path: &Path) -> Result<Vec<u8>> {
    let doing = || format!("reading {}", path.display());
    match std::fs::metadata(path).doing(doing)?.len() > MAX {
        true => Err(Error::new(doing()).cause("it is far too large")),
        false => std::fs::read(path).doing(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_changed_is_not_the_one_that_was_built() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web-1.template");
        let file = TemplateFile {
            schema: TemplateFile::SCHEMA,
            target: "lab".into(),
            endpoint: "https://pve.example.org:8006/".into(),
            node: "pve".into(),
            storage: "local".into(),
            vmid: 9000,
            name: "web-1".into(),
            build: "20261125-142800-0a0b".into(),
            disk: "0".repeat(64),
            size: 1,
            replicas: vec![],
        };
        let text = serde_json::to_vec(&file).unwrap();
        std::fs::write(&path, &text).unwrap();
        let sha256 = hex(&Sha256::digest(&text));
        assert_eq!(TemplateFile::read_exactly(&path, &sha256).unwrap(), file);
        std::fs::write(&path, [&text[..], b"\n"].concat()).unwrap();
        let error = TemplateFile::read_exactly(&path, &sha256).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Verification);
    }
}
