//! Layers on a node: templates that are as far as a step of some recipe. They tell by their tags what they are, so that every
//! computer that builds on the node finds them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::backend::proxmox::machine::{Label, Listed};
use crate::backend::proxmox::{LayerNote, LayerTags, Proxmox};
use crate::error::Result;
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
pub struct Layer {
    pub vmid: u32,
    key: String,
    /// The step that it comes after.
    pub name: String,
    pub steps: usize,
    /// What steps have recorded up to it.
    pub recorded: BTreeMap<String, String>,
    pub expires: Option<Timestamp>,
}

/// The layer on a node that has most of the plan's steps behind it, but at most so many. Nothing is changed by looking.
pub async fn deepest(
    server: &Proxmox,
    plan: &Plan,
    keys: &Keys,
    most: usize,
) -> Result<Option<Layer>> {
    let listed = server.machines().await;
    let listed = listed.map_err(|failure| failure.during("looking for layers"))?;
    for key in wanted(plan, keys, most) {
        let tag = LayerTags::key(&key.key);
        let same = |listed: &&Listed| listed.is_template && listed.has(&tag);
        for listed in listed.iter().filter(same) {
            if let Some(layer) = usable(server, key, listed.vmid).await? {
                return Ok(Some(layer));
            }
        }
    }
    Ok(None)
}

/// A layer, if it is what its tag says, and fresh.
async fn usable(server: &Proxmox, key: &Key, vmid: u32) -> Result<Option<Layer>> {
    let note = server.layer_note(vmid).await;
    let note = note.map_err(|failure| failure.during(format!("using the layer {vmid}")))?;
    let Some(note) = note.filter(|note| note.key == key.key) else {
        return Ok(None);
    };
    if note.expires.is_some_and(|end| end <= Timestamp::now()) {
        return Ok(None);
    }
    Ok(Some(Layer {
        vmid,
        key: note.key,
        name: key.name.clone(),
        steps: key.steps,
        recorded: note.recorded,
        expires: note.expires,
    }))
}

/// How many steps of a layer a build may take over; `None` for none at all.
fn most(caching: &Caching) -> Option<usize> {
    match caching {
        Caching::Use => Some(usize::MAX),
        Caching::From(steps) => Some(*steps),
        Caching::Renew | Caching::Off => None,
    }
}

/// The keys of the layers that a build may go on from, that with most steps first.
fn wanted<'k>(plan: &Plan, keys: &'k Keys, most: usize) -> Vec<&'k Key> {
    let allowed = |key: &&Key| {
        let mut done = plan.steps.iter().take(key.steps);
        key.steps > 0 && key.steps <= most && !done.any(lacks_download)
    };
    keys.chain.iter().rev().filter(allowed).collect()
}

/// The tags of the same, each with its steps: a node that has one is worth going to.
pub(super) fn tags(plan: &Plan, caching: &Caching, keys: &Keys) -> Vec<(String, usize)> {
    let wanted = most(caching).map(|most| wanted(plan, keys, most));
    let wanted = wanted.into_iter().flatten();
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

    /// The layer that has most of the steps behind it, which is marked as used.
    pub async fn deepest(&self) -> Result<Option<Layer>> {
        let Some(most) = most(self.bench.options.caching) else {
            return Ok(None);
        };
        let found = deepest(self.server, self.bench.plan, self.keys, most).await?;
        if let Some(layer) = &found {
            let tags = LayerTags::used(&layer.key, Timestamp::now());
            self.server.retag(layer.vmid, &tags).await?;
        }
        Ok(found)
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
        let note = LayerNote {
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
            description: note.write()?,
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
            Err(error) => self
                .bench
                .run
                .events
                .warn(format!("layers: {}", error.with_hint())),
        }
    }
}
