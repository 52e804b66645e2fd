//! What was built last, by output: whether a build would make what is there already.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Context, Result};
use crate::store::{Dirs, Stamp, write_atomically};
use crate::text::hex;

/// An image that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// What it depends on.
    pub key: String,
    /// The folder that it lies in, if that is text.
    #[serde(default)]
    folder: Option<String>,
    /// The build that made it.
    pub build: String,
    pub created: Timestamp,
    /// When one of its steps wants to be done again, if one does.
    pub expires: Option<Timestamp>,
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    stamps: [Stamp; 2],
}

impl Built {
    /// Describes the image at `image`, with the record beside it at `record`.
    pub fn new(facts: Facts, image: &Path, record: &Path) -> Result<Self> {
        let folder = image.parent().and_then(Path::to_str);
        Ok(Built {
            key: facts.key,
            folder: folder.map(str::to_owned),
            build: facts.build,
            created: Timestamp::now(),
            expires: facts.expires,
            sha256: facts.sha256,
            size: facts.size,
            stamps: [Stamp::of_path(image)?, Stamp::of_path(record)?],
        })
    }
}

/// What a build knows of the image that it made.
pub struct Facts {
    pub key: String,
    pub build: String,
    pub expires: Option<Timestamp>,
    pub sha256: String,
    pub size: u64,
}

/// Remembers what is at `image` now.
pub fn remember(dirs: &Dirs, image: &Path, built: &Built) -> Result<()> {
    let text = serde_json::to_vec_pretty(built).doing(|| "remembering what was built")?;
    write_atomically(&place(dirs, image), &text)
}

/// Forgets what was built at `image`: something else is wanted there.
pub fn forget(dirs: &Dirs, image: &Path) -> Result<()> {
    let path = place(dirs, image);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What was built at `image`, if image and record are still what they were and nothing has expired.
pub fn recall(dirs: &Dirs, image: &Path, record: &Path) -> Option<Built> {
    let text = std::fs::read(place(dirs, image)).ok()?;
    let built: Built = serde_json::from_slice(&text).ok()?;
    let now = [Stamp::of_path(image).ok()?, Stamp::of_path(record).ok()?];
    let fresh = built.expires.is_none_or(|end| end > Timestamp::now());
    (built.stamps == now && fresh).then_some(built)
}

/// The folders where something was built.
pub fn folders(dirs: &Dirs) -> Result<BTreeSet<PathBuf>> {
    let place = dirs.outputs();
    let doing = || format!("reading {}", place.display());
    let entries = match std::fs::read_dir(&place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.doing(doing)?,
    };
    let mut folders = BTreeSet::new();
    for entry in entries {
        // What cannot be read counts as nothing here, as it does when a build looks whether it is up to date.
        let text = std::fs::read(entry.doing(doing)?.path()).unwrap_or_default();
        let built: Option<Built> = serde_json::from_slice(&text).ok();
        folders.extend(built.and_then(|built| built.folder).map(PathBuf::from));
    }
    Ok(folders)
}

fn place(dirs: &Dirs, image: &Path) -> PathBuf {
    let name = hex(&Sha256::digest(image.as_os_str().as_encoded_bytes()));
    dirs.outputs().join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_was_changed_removed_or_has_expired_is_not_what_was_built() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        let (image, record) = (home.path().join("i"), home.path().join("r"));
        let remembered = |expires: Option<Timestamp>| {
            std::fs::write(&image, "image").unwrap();
            std::fs::write(&record, "record").unwrap();
            let facts = Facts {
                key: "k".into(),
                build: "b".into(),
                expires,
                sha256: "s".into(),
                size: 5,
            };
            let built = Built::new(facts, &image, &record).unwrap();
            remember(&dirs, &image, &built).unwrap();
            built
        };
        let built = remembered(None);
        assert_eq!(recall(&dirs, &image, &record), Some(built));
        std::fs::write(&image, "other").unwrap();
        assert_eq!(recall(&dirs, &image, &record), None);
        remembered(None);
        std::fs::remove_file(&record).unwrap();
        assert_eq!(recall(&dirs, &image, &record), None);
        remembered(Some(Timestamp::now()));
        assert_eq!(recall(&dirs, &image, &record), None);
        remembered(Some(Timestamp::MAX));
        assert!(recall(&dirs, &image, &record).is_some());
    }
}
