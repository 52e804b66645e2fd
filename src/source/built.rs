//! Images that imgbuild itself has built from another recipe.

use std::path::{Path, PathBuf};

use super::Verified;
use super::digest::{Algorithm, Digest};
use crate::error::{Context as _, Error, Kind, Result};
use crate::store::artifact;

/// The newest version that the link at `image` points to, and what it must be, by the build record beside it.
pub(super) fn expectation(image: &Path) -> Result<(PathBuf, Digest, Verified)> {
    let newest = artifact::current(image);
    let record = crate::record::path(&newest);
    let doing = || format!("reading the record of {}", image.display());
    let text = std::fs::read_to_string(&record)
        .doing(doing)
        .map_err(|error| {
            let hint = "build the recipe that makes it first, or both at once with `imgbuild run`";
            error.kind(Kind::Usage).hint(hint)
        })?;
    let value: serde_json::Value = serde_json::from_str(&text).doing(doing)?;
    let sha256 = value["artifact"]["sha256"].as_str().unwrap_or_default();
    let digest = Digest::new(Algorithm::Sha256, sha256)
        .ok_or_else(|| Error::new(doing()).cause(format!("{} has no digest", record.display())))?;
    let record = record.display().to_string();
    Ok((newest, digest, Verified::Record { record }))
}
