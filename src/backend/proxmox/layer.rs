//! Layers on a node, as the node knows them: templates with tags.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Proxmox;
use super::error::Failure;
use super::machine::{Listed, OURS, stamp, time_of};
use crate::error::{Context, Result};

/// What all layers are tagged with.
const LAYER: &str = "imgbuild-layer";

/// How many digits of a key a tag has.
const DIGITS: usize = 32;

/// How many layers there may be on a node, if the project does not say.
pub const LIMIT: u32 = 10;

/// What a layer says of itself besides its tags, in its description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerNote {
    pub key: String,
    /// The image for which it was made.
    pub image: String,
    /// The step that it comes after.
    pub step: String,
    pub created: Timestamp,
    /// When the first of its steps wants to be done again.
    pub expires: Option<Timestamp>,
    /// What steps have recorded up to it.
    pub recorded: BTreeMap<String, String>,
}

/// What is around this in a description, so that people see it as it is.
const FENCE: (&str, &str) = ("```json\n", "\n```");

impl LayerNote {
    fn read(description: &str) -> Option<Self> {
        let (_, rest) = description.split_once(FENCE.0)?;
        let (text, _) = rest.split_once(FENCE.1)?;
        serde_json::from_str(text).ok()
    }

    /// The description of a layer.
    pub fn write(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).doing(|| "describing a layer")?;
        let what = "A layer of imgbuild: builds whose first steps are the same go on from it. It may be removed at any time; \
                    `imgbuild gc --target` does when nobody has used it for long.";
        Ok(format!("{what}\n\n{}{text}{}", FENCE.0, FENCE.1))
    }
}

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
            if self.remove_unused(*vmid).await? {
                evicted.push(*vmid);
            }
        }
        Ok(evicted)
    }

    /// What a layer says of itself; `None` if it is gone, or says nothing that is understood.
    pub async fn layer_note(&self, vmid: u32) -> Result<Option<LayerNote>, Failure> {
        let config = self.machine_config(vmid).await?;
        Ok(config.and_then(|config| LayerNote::read(&config.description?)))
    }
}
