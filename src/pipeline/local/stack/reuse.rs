//! What a build takes over: the best layer that comes up, and what becomes of those that do not.

use std::collections::BTreeSet;

use super::{Below, Stack};
use crate::error::{Error, Result};
use crate::pipeline::Caching;
use crate::pipeline::lacks_download;
use crate::pipeline::local::choice::{Choice, Way};
use crate::plan::Plan;
use crate::store::layers::Layer;

impl Stack<'_> {
    /// The way to begin that is left; none if only the base image is.
    pub fn best_way(&self) -> Result<Option<Way>> {
        let most = match self.set.caching {
            Caching::Use => usize::MAX,
            Caching::From(steps) => *steps,
            Caching::Renew | Caching::Off => return Ok(None),
        };
        let layers = self.layers.list()?;
        let choice = Choice {
            keys: &self.set.keys.chain,
            layers: &layers,
            base: self.set.base,
            memory_key: &self.set.memory_key,
            most: most.min(missing_download(self.set.plan)),
            dead: &self.dead,
            dead_memory: &self.dead_memory,
        };
        Ok(choice.best())
    }

    /// Keeps the layers of a way from going away, and checks that they are what they were.
    pub fn take(&mut self, way: &Way) -> Result<()> {
        let Some(last) = way.chain.last() else {
            return Ok(());
        };
        let held = self.layers.hold(&last.id)?.ok_or_else(|| {
            Error::new(format!("using the layer {}", last.id))
                .cause("it was removed at this moment")
        })?;
        for layer in &way.chain {
            layer.check()?;
            layer.touch()?;
        }
        self.held = Some(held);
        self.below = Some(Below {
            id: last.id.clone(),
            key: last.manifest.key.clone(),
            parent_key: last.manifest.parent_key.clone(),
            root: last.manifest.root.clone(),
        });
        self.can_wake = way
            .chain
            .iter()
            .any(|layer| layer.manifest.memory.is_some());
        for layer in &way.chain {
            let created = layer.manifest.created;
            self.note_expiry(&layer.manifest.key, created);
        }
        Ok(())
    }

    /// Remembers that a way led nowhere, and says so. What is damaged goes at once.
    pub fn give_up(&mut self, way: &Way, error: &Error) {
        self.held = None;
        self.below = None;
        self.expires = None;
        let Some(last) = way.chain.last() else {
            return;
        };
        let name = &last.manifest.name;
        let events = &self.set.run.events;
        let unfit = way.chain.iter().find(|layer| layer.check().is_err());
        match unfit {
            Some(layer) => {
                events.warn(format!(
                    "the layer after `{}` is dropped: {error}",
                    layer.manifest.name
                ));
                self.dead.insert(layer.id.clone());
                self.prune(|other| other.id == layer.id);
            }
            None if way.memory => {
                events.warn(format!(
                    "the memory after `{name}` is of no use, its disk is booted: {error}"
                ));
                self.dead_memory.insert(last.id.clone());
            }
            None => {
                events.warn(format!(
                    "the layer after `{name}` does not come up: {error}"
                ));
                self.dead.insert(last.id.clone());
            }
        }
    }

    /// When a guest has come up: removes the layers that did not, since it was not this machine's fault.
    pub fn drop_dead(&self) {
        if !self.dead.is_empty() {
            self.prune(|layer| self.dead.contains(&layer.id));
        }
    }

    /// Removes what is to be done again, so that a build that fails half-way does not leave it to the next one.
    pub fn drop_unwanted(&self) {
        let from = match self.set.caching {
            Caching::Use | Caching::Off => return,
            Caching::From(steps) => *steps,
            Caching::Renew => 0,
        };
        // The boot is not one of the recipe's own: others stand on it.
        let unwanted = self.set.keys.chain.iter().filter(|key| key.steps > from);
        let unwanted: BTreeSet<&str> = unwanted.map(|key| key.key.as_str()).collect();
        self.prune(|layer| unwanted.contains(layer.manifest.key.as_str()));
    }

    /// Removes layers. One that cannot be removed is no reason to lose a build.
    fn prune(&self, which: impl Fn(&Layer) -> bool) {
        if let Err(error) = self.layers.prune(which) {
            self.set.run.events.warn(error.to_string());
        }
    }
}

/// How many steps come before one that brings a file to this machine that is not there: that one must be done again.
fn missing_download(plan: &Plan) -> usize {
    let first = plan.steps.iter().position(lacks_download);
    first.unwrap_or(usize::MAX)
}
