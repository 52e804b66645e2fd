//! Layers on a node, as the node knows them: templates with tags.

use jiff::Timestamp;

use super::Proxmox;
use super::error::Failure;
use super::machine::{Listed, OURS, stamp, time_of};
use crate::error::Result;

/// What all layers are tagged with.
const LAYER: &str = "imgbuild-layer";

/// How many digits of a key a tag has.
const DIGITS: usize = 32;

/// How many layers there may be on a node, if the project does not say.
pub const LIMIT: u32 = 10;

/// The tags and names of layers.
pub struct LayerTags;

impl LayerTags {
    /// The tag that tells what a layer is made of.
    pub fn key(key: &str) -> String {
        format!("{OURS}-key-{}", &key[..DIGITS.min(key.len())])
    }

    /// The name of a layer.
    pub fn name(key: &str) -> String {
        format!("{LAYER}-{}", &key[..12.min(key.len())])
    }

    /// All tags of a layer that was used at some time.
    pub fn used(key: &str, at: Timestamp) -> Vec<String> {
        vec![
            OURS.to_owned(),
            LAYER.to_owned(),
            LayerTags::key(key),
            format!("{OURS}-used-{}", stamp(at)),
        ]
    }

    /// When a layer was used last; `None` for what is none.
    pub fn last_use(machine: &Listed) -> Option<Timestamp> {
        if !machine.is_template || !machine.has(LAYER) {
            return None;
        }
        let mut uses = machine.tags.iter();
        uses.find_map(|tag| time_of(tag.strip_prefix("imgbuild-used-")?))
    }
}

impl Proxmox {
    /// The layers on the node, that of the latest use first.
    pub async fn layers(&self) -> Result<Vec<(u32, Timestamp)>, Failure> {
        let all = self.machines().await?;
        let layers = all.iter().filter_map(|machine| {
            let used = LayerTags::last_use(machine)?;
            Some((machine.vmid, used))
        });
        let mut layers: Vec<_> = layers.collect();
        layers.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
        Ok(layers)
    }

    /// Removes those layers that were not used for longest, but for as many as there may be. Returns which. One that others
    /// are made of cannot be removed, and stays.
    pub async fn evict_layers(&self) -> Result<Vec<u32>> {
        let layers = self.layers().await;
        let layers = layers.map_err(|failure| failure.during("looking for layers"))?;
        let most = self.target.layers as usize;
        let mut evicted = vec![];
        for (vmid, _) in layers.iter().skip(most) {
            if self.remove_layer(*vmid).await? {
                evicted.push(*vmid);
            }
        }
        Ok(evicted)
    }

    /// Removes the layers that nobody has used since some time. Returns which.
    pub async fn remove_layers_before(&self, time: Timestamp) -> Result<Vec<u32>> {
        let layers = self.layers().await;
        let layers = layers.map_err(|failure| failure.during("looking for layers"))?;
        let mut removed = vec![];
        for (vmid, _) in layers.iter().filter(|(_, used)| *used < time) {
            if self.remove_layer(*vmid).await? {
                removed.push(*vmid);
            }
        }
        Ok(removed)
    }
}
