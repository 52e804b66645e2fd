//! What an image was made from, in the field's formats, and whether that can be believed. Nothing here reads or writes
//! anything but its arguments.

mod address;
pub mod bundle;
pub mod dsse;
pub mod policy;
mod release;
pub mod sbom;
pub mod statement;
pub mod verify;
mod version;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

pub use address::{public_address, public_origin, public_url};
pub use release::{INPUTS, RELEASE, Release};

use crate::error::{Context, Error, Kind, Result};
use crate::text::{hex, printable};
use statement::Digests;

/// The namespace of SSH signatures over a statement.
pub const SSH_NAMESPACE: &str = "imgbuild-provenance";

/// The files beside an image that say what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The in-toto statement, as it was signed.
    pub statement: PathBuf,
    /// The signed envelope: all that is needed to verify.
    pub envelope: PathBuf,
    /// The same as sigstore's bundle.
    pub bundle: PathBuf,
    pub cyclonedx: PathBuf,
    pub spdx: PathBuf,
}

impl Files {
    /// The files of the image at `image`: its name without its extension, and what they are.
    pub fn of(image: &Path) -> Self {
        let beside = |what: &str| {
            let mut name = OsString::from(image.file_stem().unwrap_or_default());
            name.push(what);
            image.with_file_name(name)
        };
        Files {
            statement: beside(".provenance.json"),
            envelope: beside(".dsse.json"),
            bundle: beside(".sigstore.json"),
            cyclonedx: beside(".sbom.cdx.json"),
            spdx: beside(".sbom.spdx.json"),
        }
    }

    /// All of them.
    pub fn all(&self) -> [&Path; 5] {
        [
            &self.statement,
            &self.envelope,
            &self.bundle,
            &self.cyclonedx,
            &self.spdx,
        ]
        .map(PathBuf::as_path)
    }
}

/// A file's name, without the folders of the machine that it is on.
pub fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Foreign text as one line that does nothing to a terminal.
pub fn one_line(text: &str) -> String {
    printable(text).replace(['\n', '\t'], " ")
}

/// Reads JSON that somebody else may have written; `doing` goes into errors.
fn from_json<T: DeserializeOwned>(text: &[u8], doing: &str) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| {
        Error::new(doing)
            .kind(Kind::Verification)
            .cause(one_line(&error.to_string()))
    })
}

/// JSON for people and programs, with a newline at its end.
pub fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).doing(|| "writing JSON")?;
    text.push(b'\n');
    Ok(text)
}

/// The digests of something whose sha256 is known.
pub fn sha256(hex: &str) -> Digests {
    Digests::from([("sha256".to_owned(), hex.to_owned())])
}

/// The digests of these bytes.
pub fn digests(bytes: &[u8]) -> Digests {
    sha256(&hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_after_the_image_without_its_extension() {
        let files = Files::of(Path::new("out/web.qcow2"));
        assert_eq!(files.statement, Path::new("out/web.provenance.json"));
        assert_eq!(files.spdx, Path::new("out/web.sbom.spdx.json"));
        let files = Files::of(Path::new("web-1.2.qcow2"));
        assert_eq!(files.envelope, Path::new("web-1.2.dsse.json"));
        let files = Files::of(Path::new("/srv/web"));
        assert_eq!(files.bundle, Path::new("/srv/web.sigstore.json"));
    }
}
