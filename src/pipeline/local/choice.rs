//! Which layer a build goes on from, and how: restoring RAM is quick, booting a disk is slow, and doing a short step again may
//! be quicker than either.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::plan::Key;
use crate::store::layers::{self, Layer, files};

/// Seconds that restoring RAM takes, roughly; only that it is much less than a boot matters.
const RESTORE: f64 = 2.0;

/// A way to begin a build.
#[derive(Debug, Clone)]
pub struct Way {
    /// The layers that the machine's disk is an overlay of, the first one first.
    pub chain: Vec<Layer>,
    /// Whether the last one's RAM is restored; else it is booted.
    pub memory: bool,
    /// How many of the plan's steps it has behind it.
    pub steps: usize,
    /// How many more there are layers for: doing them again is quicker.
    pub again: usize,
}

/// What can be chosen from.
pub struct Choice<'c> {
    pub keys: &'c [Key],
    pub layers: &'c BTreeMap<String, Layer>,
    /// The base image's path.
    pub base: &'c Path,
    /// What saved RAM must fit.
    pub memory_key: &'c str,
    /// No more steps than these may be taken over.
    pub most: usize,
    /// Layers that did not come up.
    pub dead: &'c BTreeSet<String>,
    /// Layers whose RAM did not come up.
    pub dead_memory: &'c BTreeSet<String>,
}

impl Choice<'_> {
    /// The quickest way to the deepest layer that can be used, or to one below it from where the steps between are done again.
    pub fn best(&self) -> Option<Way> {
        let deepest = self.deepest()?;
        let steps = |layer: &Layer| {
            let key = self.keys.iter().find(|key| key.key == layer.manifest.key);
            key.map(|key| key.steps)
        };
        let boot = deepest.first()?.manifest.took;
        let mut again = 0.0;
        let mut best: Option<(f64, Way)> = None;
        for (at, layer) in deepest.iter().enumerate().rev() {
            let memory = self.has_memory(layer);
            let cost = again + if memory { RESTORE } else { boot };
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                let way = Way {
                    chain: deepest[..=at]
                        .iter()
                        .map(|layer| (*layer).clone())
                        .collect(),
                    memory,
                    steps: steps(layer)?,
                    again: deepest.len() - 1 - at,
                };
                best = Some((cost, way));
            }
            again += layer.manifest.took;
        }
        best.map(|(_, way)| way)
    }

    /// The chain that ends with the layer that has the most steps behind it; of several, the newest.
    fn deepest(&self) -> Option<Vec<&Layer>> {
        let keys = self.keys.iter().rev().filter(|key| key.steps <= self.most);
        keys.flat_map(|key| {
            let mut same: Vec<&Layer> = self
                .layers
                .values()
                .filter(|layer| layer.manifest.key == key.key)
                .collect();
            // One that was made again is as old as the first; ids sort by when they were made.
            same.sort_by_key(|layer| Reverse((layer.manifest.created, &layer.id)));
            same
        })
        .find_map(|layer| self.usable(layer))
    }

    /// The chain of a layer, if nothing in it is missing, too old, or known not to come up.
    fn usable<'l>(&'l self, layer: &'l Layer) -> Option<Vec<&'l Layer>> {
        let chain = layers::chain(self.layers, layer).ok()?;
        let good = chain.iter().all(|layer| {
            let manifest = &layer.manifest;
            let key = self.keys.iter().find(|key| key.key == manifest.key);
            let age = layer.age();
            let fresh = |key: &Key| key.max_age.is_none_or(|most| age < most.as_secs_f64());
            key.is_some_and(fresh)
                && Path::new(&manifest.base) == self.base
                && !self.dead.contains(&layer.id)
        });
        good.then_some(chain)
    }

    fn has_memory(&self, layer: &Layer) -> bool {
        let memory = layer.manifest.memory.as_ref();
        memory.is_some_and(|memory| memory.key == self.memory_key)
            && !self.dead_memory.contains(&layer.id)
            && layer.file(files::MEMORY).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Inputs;
    use crate::store::layers::{Manifest, Memory};
    use jiff::{Timestamp, ToSpan};
    use std::time::{Duration, SystemTime};

    struct Lab {
        folder: tempfile::TempDir,
        keys: Vec<Key>,
        layers: BTreeMap<String, Layer>,
        dead: BTreeSet<String>,
        dead_memory: BTreeSet<String>,
        most: usize,
    }

    impl Lab {
        /// Keys `k0` to `k3`, and a chain of layers `0` to `3` for them: a boot of 30 s, then steps that took 1 s, 100 s and
        /// 1 s. `0` and `2` have RAM.
        fn new() -> Self {
            let mut lab = Lab {
                folder: tempfile::tempdir().unwrap(),
                keys: (0..4).map(key).collect(),
                layers: BTreeMap::new(),
                dead: BTreeSet::new(),
                dead_memory: BTreeSet::new(),
                most: usize::MAX,
            };
            for (number, took) in [30.0, 1.0, 100.0, 1.0].into_iter().enumerate() {
                lab.add(&number.to_string(), number, took, number % 2 == 0);
            }
            lab
        }

        fn add(&mut self, id: &str, number: usize, took: f64, memory: bool) {
            let folder = self.folder.path().join(id);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join(files::MEMORY), "").unwrap();
            let memory = memory.then(|| Memory {
                key: "m".into(),
                sha256: String::new(),
                size: 0,
            });
            let layer = Layer {
                id: id.into(),
                folder,
                manifest: Manifest {
                    key: format!("k{number}"),
                    parent: number.checked_sub(1).map(|parent| parent.to_string()),
                    root: "0".into(),
                    base: "/base".into(),
                    image: "x".into(),
                    name: String::new(),
                    inputs: Inputs::new(),
                    parent_key: None,
                    created: Timestamp::now() - 1.hour(),
                    took,
                    recorded: BTreeMap::new(),
                    files: BTreeMap::new(),
                    memory,
                    size: 0,
                },
                used: SystemTime::now(),
            };
            self.layers.insert(id.into(), layer);
        }

        /// The chosen layer, and how it is brought up.
        fn best(&self) -> Option<(String, bool, usize)> {
            let choice = Choice {
                keys: &self.keys,
                layers: &self.layers,
                base: Path::new("/base"),
                memory_key: "m",
                most: self.most,
                dead: &self.dead,
                dead_memory: &self.dead_memory,
            };
            let way = choice.best()?;
            Some((way.chain.last()?.id.clone(), way.memory, way.steps))
        }
    }

    fn key(number: usize) -> Key {
        Key {
            name: String::new(),
            key: format!("k{number}"),
            steps: number,
            inputs: Inputs::new(),
            max_age: None,
            secret: false,
        }
    }

    fn way(id: &str, memory: bool, steps: usize) -> Option<(String, bool, usize)> {
        Some((id.into(), memory, steps))
    }

    #[test]
    fn restoring_and_a_short_step_again_beats_booting_what_is_deeper() {
        assert_eq!(Lab::new().best(), way("2", true, 2));
    }

    #[test]
    fn booting_what_is_deeper_beats_a_long_step_again() {
        let mut lab = Lab::new();
        lab.dead_memory.insert("2".into());
        assert_eq!(lab.best(), way("3", false, 3));
    }

    #[test]
    fn a_layer_that_does_not_come_up_takes_what_lies_on_it_along() {
        let mut lab = Lab::new();
        lab.dead.insert("2".into());
        assert_eq!(lab.best(), way("0", true, 0), "step 1 is short");
        lab.dead.insert("0".into());
        assert_eq!(lab.best(), None);
    }

    #[test]
    fn steps_that_are_to_be_done_are_not_taken_over() {
        let mut lab = Lab::new();
        lab.most = 1;
        assert_eq!(lab.best(), way("0", true, 0));
    }

    #[test]
    fn a_layer_of_another_base_or_key_or_with_a_gap_below_it_is_not_used() {
        let mut lab = Lab::new();
        lab.keys[2].key = "other".into();
        assert_eq!(lab.best(), way("0", true, 0));
        let mut lab = Lab::new();
        lab.layers.remove("1");
        assert_eq!(lab.best(), way("0", true, 0));
        let mut lab = Lab::new();
        lab.layers.get_mut("0").unwrap().manifest.base = "/moved".into();
        assert_eq!(lab.best(), None);
    }

    #[test]
    fn what_has_expired_is_done_again_and_so_is_what_follows() {
        let mut lab = Lab::new();
        lab.keys[2].max_age = Some(Duration::from_secs(30 * 60));
        assert_eq!(lab.best(), way("0", true, 0));
        lab.keys[2].max_age = Some(Duration::from_secs(2 * 60 * 60));
        assert_eq!(lab.best(), way("2", true, 2));
    }

    #[test]
    fn of_two_layers_for_one_key_the_newer_one_is_used() {
        let mut lab = Lab::new();
        lab.add("2-new", 2, 100.0, true);
        lab.layers.remove("3");
        assert_eq!(lab.best(), way("2-new", true, 2), "made again");
        lab.layers.get_mut("2").unwrap().manifest.created = Timestamp::now();
        assert_eq!(lab.best(), way("2", true, 2), "done again");
    }

    #[test]
    fn memory_of_another_machine_or_without_its_file_is_not_restored() {
        let lab = Lab::new();
        for id in ["0", "2"] {
            std::fs::remove_file(lab.layers[id].file(files::MEMORY)).unwrap();
        }
        assert_eq!(lab.best(), way("3", false, 3));
        let mut lab = Lab::new();
        for layer in lab.layers.values_mut() {
            if let Some(memory) = &mut layer.manifest.memory {
                memory.key = "another QEMU".into();
            }
        }
        assert_eq!(lab.best(), way("3", false, 3));
    }
}
