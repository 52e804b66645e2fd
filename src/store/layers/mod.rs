//! Layers: machines as they were after a step, `layers/ID/{layer.json, disk.qcow2, …}`.
//!
//! A layer is an overlay of its parent's disk. It is there when its `layer.json` is, which is written last and never
//! changed; before that, its folder is a draft that the journal of its build knows. Whoever uses a layer shares the lock on
//! that file; whoever removes one must own it, and removes no layer that another one is an overlay of. So a lock on the last
//! layer of a chain keeps the chain.

mod evict;
mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use evict::{DEFAULT_LIMIT, Evicted};
use jiff::Timestamp;
pub use manifest::{Fact, Manifest, Memory};

use crate::error::{Context, Error, Result};
use crate::store::{Dirs, Lock, create_private_folder, sync_folder};

/// The file that makes a folder a layer.
pub const MANIFEST: &str = "layer.json";

/// The layers of this user.
#[derive(Debug, Clone)]
pub struct Layers {
    folder: PathBuf,
}

/// One layer.
#[derive(Debug, Clone)]
pub struct Layer {
    pub id: String,
    pub folder: PathBuf,
    pub manifest: Manifest,
    /// When it was used last.
    pub used: SystemTime,
}

/// The folder of a layer that is not there yet.
#[derive(Debug, Clone)]
pub struct Draft {
    pub id: String,
    pub folder: PathBuf,
}

/// A layer that cannot go away while this lives.
#[derive(Debug)]
pub struct Held {
    pub id: String,
    _lock: Lock,
}

/// The names of the files in a layer's folder.
pub mod files {
    pub const DISK: &str = "disk.qcow2";
    pub const VARIABLES: &str = "variables.fd";
    pub const MEMORY: &str = "memory.zst";
    /// In the first layer of a chain.
    pub const SEED: &str = "seed.img";
    /// In the first layer of a chain.
    pub const IDENTITY: &str = "identity.json";
}

impl Layers {
    pub fn new(dirs: &Dirs) -> Self {
        Layers {
            folder: dirs.layers(),
        }
    }

    /// Where a layer with this id will be.
    pub fn draft(&self, id: String) -> Draft {
        Draft {
            folder: self.folder.join(&id),
            id,
        }
    }

    /// All layers, by id. One whose facts cannot be read is none.
    pub fn list(&self) -> Result<BTreeMap<String, Layer>> {
        let doing = || format!("reading {}", self.folder.display());
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(BTreeMap::new());
            }
            entries => entries.doing(doing)?,
        };
        let mut layers = BTreeMap::new();
        for entry in entries {
            let folder = entry.doing(doing)?.path();
            let id = folder.file_name().unwrap_or_default().to_string_lossy();
            if id.starts_with('.') {
                continue;
            }
            if let Some(layer) = Layer::read(&folder, &id) {
                layers.insert(id.into_owned(), layer);
            }
        }
        Ok(layers)
    }

    /// Keeps a layer from going away; `None` if it is gone or about to.
    pub fn hold(&self, id: &str) -> Result<Option<Held>> {
        let lock = Lock::try_share_existing(&self.folder.join(id).join(MANIFEST))?;
        Ok(lock.map(|lock| Held {
            id: id.to_owned(),
            _lock: lock,
        }))
    }

    /// Makes a layer of a draft whose files are complete. It is held from the first moment.
    pub fn publish(&self, draft: &Draft, manifest: &Manifest) -> Result<Held> {
        let doing = || format!("keeping the layer {}", draft.id);
        let aside = draft.folder.join(".layer.json.partial");
        let mut file = File::create_new(&aside).doing(doing)?;
        let text = serde_json::to_vec_pretty(manifest).doing(doing)?;
        file.write_all(&text).doing(doing)?;
        file.sync_all().doing(doing)?;
        let lock = Lock::share_new(file)?;
        std::fs::rename(&aside, draft.folder.join(MANIFEST)).doing(doing)?;
        sync_folder(&draft.folder).doing(doing)?;
        sync_folder(&self.folder).doing(doing)?;
        Ok(Held {
            id: draft.id.clone(),
            _lock: lock,
        })
    }
}

impl Layer {
    fn read(folder: &Path, id: &str) -> Option<Self> {
        let path = folder.join(MANIFEST);
        let text = std::fs::read(&path).ok()?;
        Some(Layer {
            id: id.to_owned(),
            folder: folder.to_owned(),
            manifest: serde_json::from_slice(&text).ok()?,
            used: std::fs::metadata(&path)
                .and_then(|file| file.modified())
                .ok()?,
        })
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// How long ago it was made, in seconds. One from the future, since the clock was set back, is as old as can be.
    pub fn age(&self) -> f64 {
        let age = Timestamp::now().duration_since(self.manifest.created);
        match age.is_negative() {
            true => f64::INFINITY,
            false => age.as_secs_f64(),
        }
    }

    /// Fails if one of its files is not what it was. The memory is checked when it is read.
    pub fn check(&self) -> Result<()> {
        let mut files = self.manifest.files.iter();
        files.try_for_each(|(name, fact)| fact.check(&self.file(name)))
    }

    /// Remembers that it is being used.
    pub fn touch(&self) -> Result<()> {
        let doing = || format!("using the layer {}", self.id);
        let file = File::options().write(true).open(self.folder.join(MANIFEST));
        let file = file.doing(doing)?;
        file.set_modified(SystemTime::now()).doing(doing)
    }
}

impl Draft {
    /// Makes the folder, which only this user can look into: it will hold disks and keys.
    pub fn create(&self) -> Result<()> {
        create_private_folder(&self.folder)
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Takes the facts of all its files but the memory, and makes them durable; also the bytes that all of them take.
    pub fn facts(&self) -> Result<(BTreeMap<String, Fact>, u64)> {
        let doing = || format!("keeping the layer {}", self.id);
        let mut facts = BTreeMap::new();
        let mut size = 0;
        for entry in std::fs::read_dir(&self.folder).doing(doing)? {
            let entry = entry.doing(doing)?;
            // `blocks` counts 512 bytes, whatever the file system's own block size.
            size += entry.metadata().doing(doing)?.blocks() * 512;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != files::MEMORY {
                facts.insert(name, Fact::of(&entry.path())?);
            }
        }
        Ok((facts, size))
    }
}

/// A layer and all that it is an overlay of, the first one first; an error if one is missing.
pub fn chain<'l>(layers: &'l BTreeMap<String, Layer>, last: &'l Layer) -> Result<Vec<&'l Layer>> {
    let mut chain = vec![last];
    let mut seen = BTreeSet::from([&last.id]);
    let mut at = last;
    while let Some(parent) = &at.manifest.parent {
        let found = layers.get(parent).filter(|_| seen.insert(parent));
        at = found.ok_or_else(|| {
            Error::new(format!("using the layer {}", last.id))
                .cause(format!("it needs the layer {parent}, which is gone"))
        })?;
        chain.push(at);
    }
    chain.reverse();
    Ok(chain)
}

#[cfg(test)]
mod tests;
