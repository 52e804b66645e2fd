//! Making room: the layer that was not used for the longest time goes first, and nothing that is in use or that another
//! layer is an overlay of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Layer, Layers, MANIFEST};
use crate::error::{Context, Result};
use crate::store::{Lock, write_atomically};

/// How many bytes layers may take if nobody says otherwise.
pub const DEFAULT_LIMIT: u64 = 20 << 30;

/// Begins the name of a folder that is being removed.
const REMOVED: &str = ".removed-";

/// What was removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    pub layers: usize,
    /// Bytes.
    pub size: u64,
}

impl Layers {
    /// How many bytes layers may take.
    pub fn limit(&self) -> Result<u64> {
        let path = self.limit_file();
        match std::fs::read_to_string(&path) {
            Ok(text) => text
                .trim()
                .parse()
                .doing(|| format!("reading {}", path.display()))
                .map_err(|error| error.hint("`imgbuild cache limit SIZE` writes it anew")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(DEFAULT_LIMIT),
            Err(error) => Err(error).doing(|| format!("reading {}", path.display())),
        }
    }

    /// Sets how many bytes layers may take.
    pub fn set_limit(&self, limit: u64) -> Result<()> {
        write_atomically(&self.limit_file(), format!("{limit}\n").as_bytes())
    }

    fn limit_file(&self) -> PathBuf {
        self.folder.join(".limit")
    }

    /// Removes layers, the one that was used least recently first, until what is left takes at most `limit` bytes.
    pub fn evict(&self, limit: u64) -> Result<Evicted> {
        let all: u64 = self.list()?.values().map(|layer| layer.manifest.size).sum();
        self.remove_while(|_, removed| all.saturating_sub(removed.size) > limit)
    }

    /// Removes the layers that `which` chooses, with those that are overlays of them.
    pub fn prune(&self, which: impl Fn(&Layer) -> bool) -> Result<Evicted> {
        let layers = self.list()?;
        let chosen = |layer: &&Layer| match super::chain(&layers, layer) {
            Ok(chain) => chain.into_iter().any(&which),
            // What is an overlay of nothing is of no use.
            Err(_) => true,
        };
        let chosen = layers.values().filter(chosen);
        let chosen: BTreeSet<&str> = chosen.map(|layer| layer.id.as_str()).collect();
        self.remove_while(|layer, _| chosen.contains(layer.id.as_str()))
    }

    /// Removes the layers that `which` chooses, but none that another one is an overlay of that stays.
    pub fn prune_unused(&self, which: impl Fn(&Layer) -> bool) -> Result<Evicted> {
        self.remove_while(|layer, _| which(layer))
    }

    /// Removes one layer after the other for as long as there is one that is wanted gone.
    fn remove_while(&self, wanted: impl Fn(&Layer, &Evicted) -> bool) -> Result<Evicted> {
        self.sweep()?;
        let mut layers = self.list()?;
        let mut removed = Evicted::default();
        loop {
            let parents = parents(&layers);
            let free = |layer: &&Layer| !parents.contains(layer.id.as_str());
            let next = layers
                .values()
                .filter(free)
                .filter(|layer| wanted(layer, &removed))
                .min_by_key(|layer| layer.used);
            let Some(next) = next.map(|layer| layer.id.clone()) else {
                return Ok(removed);
            };
            // One in use is looked at no more, but what it is an overlay of must stay, too.
            let size = layers[&next].manifest.size;
            if self.remove(&next)? {
                layers.remove(&next);
                removed.layers += 1;
                removed.size += size;
            } else {
                let kept = layers.remove(&next).into_iter();
                for ancestor in kept.filter_map(|layer| layer.manifest.parent) {
                    drop_with_ancestors(&mut layers, ancestor);
                }
            }
        }
    }

    /// Removes a layer, unless it is in use. Renamed first, so that it is gone whole or not at all.
    fn remove(&self, id: &str) -> Result<bool> {
        let folder = self.folder.join(id);
        let Some(_owned) = Lock::try_acquire_existing(&folder.join(MANIFEST))? else {
            return Ok(false);
        };
        // A build that used it a moment ago may have put one on top.
        if parents(&self.list()?).contains(id) {
            return Ok(false);
        }
        let doing = || format!("removing {}", folder.display());
        let aside = self.folder.join(format!("{REMOVED}{id}"));
        std::fs::rename(&folder, &aside).doing(doing)?;
        remove_folder(&aside)?;
        Ok(true)
    }

    /// Finishes what was begun by somebody who did not come to its end.
    pub fn sweep(&self) -> Result<()> {
        let doing = || format!("reading {}", self.folder.display());
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.doing(doing)?,
        };
        for entry in entries {
            let entry = entry.doing(doing)?;
            if entry.file_name().to_string_lossy().starts_with(REMOVED) {
                remove_folder(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Removes a folder; somebody else may be at it, too.
fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.doing(|| format!("removing {}", path.display())),
    }
}

/// The layers that others are overlays of.
fn parents(layers: &BTreeMap<String, Layer>) -> BTreeSet<String> {
    let parents = layers
        .values()
        .filter_map(|layer| layer.manifest.parent.clone());
    parents.collect()
}

fn drop_with_ancestors(layers: &mut BTreeMap<String, Layer>, id: String) {
    let mut next = Some(id);
    while let Some(layer) = next.and_then(|id| layers.remove(&id)) {
        next = layer.manifest.parent;
    }
}
