//! Layers on a node: templates that are as far as a step of some recipe. They tell by their tags what they are, so that every
//! computer that builds on the node finds them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backend::proxmox::machine::{Label, Listed};
use crate::backend::proxmox::{LayerTags, Proxmox};
use crate::error::{Context, Result};
use crate::pipeline::bench::Bench;
use crate::pipeline::{Caching, lacks_download};
use crate::plan::{Key, Keys, Plan};

/// What making a layer costs must be less than this part of the work that it may save.
const WORTH: f64 = 0.5;

/// The longest description that Proxmox VE takes, in characters.
const DESCRIPTION: usize = 8192;

/// The layers that one build may use and make.
pub(super) struct Layers<'b> {
    server: &'b Proxmox,
    bench: &'b Bench<'b>,
    keys: &'b Keys,
    /// Whether layers are made.
    writes: bool,
    /// Work that is in no layer.
    unsaved: Duration,
}

/// A layer that a build goes on from.
pub(super) struct Layer {
    pub vmid: u32,
    /// The step that it comes after.
    pub name: String,
    pub steps: usize,
    /// What steps have recorded up to it.
    pub recorded: BTreeMap<String, String>,
    pub expires: Option<Timestamp>,
}

/// What a layer says of itself besides its tags.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    key: String,
    image: String,
    step: String,
    created: Timestamp,
    /// When the first of its steps wants to be done again.
    expires: Option<Timestamp>,
    recorded: BTreeMap<String, String>,
}

/// What is around this in a description, so that people see it as it is.
const FENCE: (&str, &str) = ("```json\n", "\n```");

impl About {
    fn read(description: &str) -> Option<Self> {
        let (_, rest) = description.split_once(FENCE.0)?;
        let (text, _) = rest.split_once(FENCE.1)?;
        serde_json::from_str(text).ok()
    }

    fn write(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).doing(|| "describing a layer")?;
        let what = "A layer of imgbuild: builds whose first steps are the same go on from it. It may be removed at any time; \
                    `imgbuild gc --target` does when nobody has used it for long.";
        Ok(format!("{what}\n\n{}{text}{}", FENCE.0, FENCE.1))
    }
}

/// The keys of the layers that a build may go on from, that with most steps first.
fn wanted<'k>(plan: &Plan, caching: &Caching, keys: &'k Keys) -> Vec<&'k Key> {
    let most = match caching {
        Caching::Use => usize::MAX,
        Caching::From(steps) => *steps,
        Caching::Renew | Caching::Off => return vec![],
    };
    let allowed = |key: &&Key| {
        let mut done = plan.steps.iter().take(key.steps);
        key.steps > 0 && key.steps <= most && !done.any(lacks_download)
    };
    keys.chain.iter().rev().filter(allowed).collect()
}

/// The tags of the same, each with its steps: a node that has one is worth going to.
pub(super) fn tags(plan: &Plan, caching: &Caching, keys: &Keys) -> Vec<(String, usize)> {
    let wanted = wanted(plan, caching, keys).into_iter();
    wanted
        .map(|key| (LayerTags::key(&key.key), key.steps))
        .collect()
}

impl<'b> Layers<'b> {
    pub fn new(server: &'b Proxmox, bench: &'b Bench<'b>, keys: &'b Keys) -> Self {
        Layers {
            server,
            bench,
            keys,
            writes: *bench.options.caching != Caching::Off,
            unsaved: Duration::ZERO,
        }
    }

    /// Makes no more layers in this build.
    pub fn stop(&mut self) {
        self.writes = false;
    }

    /// The layer that has most of the steps behind it.
    pub async fn deepest(&self) -> Result<Option<Layer>> {
        let wanted = wanted(self.bench.plan, self.bench.options.caching, self.keys);
        if wanted.is_empty() {
            return Ok(None);
        }
        let listed = self.server.machines().await;
        let listed = listed.map_err(|failure| failure.during("looking for layers"))?;
        for key in wanted {
            let tag = LayerTags::key(&key.key);
            let same = |listed: &&Listed| listed.is_template && listed.has(&tag);
            for listed in listed.iter().filter(same) {
                if let Some(layer) = self.usable(key, listed).await? {
                    return Ok(Some(layer));
                }
            }
        }
        Ok(None)
    }

    /// A layer, if it is what its tag says, and fresh. Marks it as used.
    async fn usable(&self, key: &Key, listed: &Listed) -> Result<Option<Layer>> {
        let doing = || format!("using the layer {}", listed.vmid);
        let config = self.server.machine_config(listed.vmid).await;
        let config = config.map_err(|failure| failure.during(doing()))?;
        let about = config.and_then(|config| About::read(&config.description?));
        let Some(about) = about.filter(|about| about.key == key.key) else {
            return Ok(None);
        };
        if about.expires.is_some_and(|end| end <= Timestamp::now()) {
            return Ok(None);
        }
        let tags = LayerTags::used(&key.key, Timestamp::now());
        self.server.retag(listed.vmid, &tags).await?;
        Ok(Some(Layer {
            vmid: listed.vmid,
            name: key.name.clone(),
            steps: key.steps,
            recorded: about.recorded,
            expires: about.expires,
        }))
    }

    /// When the result of this step is too old.
    pub fn expiry(&self, steps: usize) -> Option<Timestamp> {
        let key = self.keys.chain.iter().find(|key| key.steps == steps)?;
        Timestamp::now().checked_add(key.max_age?).ok()
    }

    /// After a step that took so long: whether a layer pays, which costs about as much as having a guest.
    pub fn is_wanted(&mut self, steps: usize, took: Duration, boot: Duration) -> bool {
        self.unsaved += took;
        let is_last = steps >= self.bench.plan.steps.len();
        let has_key = self.keys.chain.iter().any(|key| key.steps == steps);
        self.writes && !is_last && has_key && boot < self.unsaved.mul_f64(WORTH)
    }

    /// What a layer after this step is called; `None` if it would have to say too much.
    pub fn label(
        &mut self,
        steps: usize,
        recorded: &BTreeMap<String, String>,
        expires: Option<Timestamp>,
    ) -> Result<Option<Label>> {
        self.unsaved = Duration::ZERO;
        let Some(key) = self.keys.chain.iter().rfind(|key| key.steps == steps) else {
            return Ok(None);
        };
        let now = Timestamp::now();
        let about = About {
            key: key.key.clone(),
            image: self.bench.plan.name.clone(),
            step: key.name.clone(),
            created: now,
            expires,
            recorded: recorded.clone(),
        };
        let label = Label {
            name: LayerTags::name(&key.key),
            tags: LayerTags::used(&key.key, now),
            description: about.write()?,
        };
        match label.description.chars().count() <= DESCRIPTION {
            true => Ok(Some(label)),
            false => {
                let text = format!(
                    "no layer is made after `{}`: its steps record too much",
                    key.name
                );
                self.bench.run.events.note(text);
                Ok(None)
            }
        }
    }

    /// Removes the layers that were not used for longest, but for as many as the target may have. What goes wrong with that is
    /// no reason to lose a build.
    pub async fn evict(&self) {
        if !self.writes {
            return;
        }
        let evicted = self.bench.run.phase("layers", self.server.evict_layers());
        match evicted.await {
            Ok(evicted) => {
                for vmid in evicted {
                    let text = format!("removed the layer {vmid}, which was not used for longest");
                    self.bench.run.events.note(text);
                }
            }
            Err(error) => self.bench.run.events.warn(format!("layers: {error}")),
        }
    }
}
