//! Which steps a build takes over from layers, and why it does the others again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Break, Inputs, Key, Keys, Plan};
use crate::text::span;

/// What is known of a layer that could be used.
#[derive(Debug, Clone)]
pub struct Known {
    pub key: String,
    pub parent_key: Option<String>,
    /// The step after which it was made.
    pub name: String,
    pub inputs: Inputs,
    /// Seconds since it was made.
    pub age: f64,
    /// Bytes.
    pub size: u64,
    /// Seconds that the step took.
    pub took: f64,
}

/// What becomes of the boot, or of a step, in the next build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum State {
    /// It is taken over: how old it is and what it took, in seconds, and its size in bytes.
    Cached { age: f64, size: u64, saves: f64 },
    /// It is done.
    Runs { why: String },
}

/// The states of the boot and of every step.
pub fn states(plan: &Plan, keys: &Keys, known: &[Known]) -> Vec<State> {
    let mut states = vec![];
    let mut before: Option<&Key> = None;
    let mut cut: Option<String> = None;
    for key in &keys.chain {
        let state = match &cut {
            Some(why) => State::Runs { why: why.clone() },
            None => state(key, before, known),
        };
        if matches!(state, State::Runs { .. }) {
            cut.get_or_insert_with(|| "after one that is done".into());
        }
        states.push(state);
        before = Some(key);
    }
    let first = match &keys.ends {
        None => None,
        Some(Break::Always) => Some("it is always done".into()),
        Some(Break::Breakpoint) => Some("it waits for somebody".into()),
        Some(Break::Secret(name)) => Some(format!("the secret {name} is not known here")),
    };
    let rest = (states.len()..=plan.steps.len()).enumerate();
    states.extend(rest.map(|(at, _)| State::Runs {
        why: match (at, &first) {
            (0, Some(why)) => why.clone(),
            _ => "after one that is done".into(),
        },
    }));
    states
}

fn state(key: &Key, before: Option<&Key>, known: &[Known]) -> State {
    let newest = |layers: Vec<&Known>| {
        let mut layers = layers;
        layers.sort_by(|a, b| a.age.total_cmp(&b.age));
        layers.into_iter().next().cloned()
    };
    let same: Vec<&Known> = known.iter().filter(|layer| layer.key == key.key).collect();
    let why = match (newest(same), key.max_age) {
        (Some(layer), Some(most)) if layer.age >= most.as_secs_f64() => {
            format!("it was done more than {} ago", span(most.as_secs_f64()))
        }
        (Some(layer), _) => {
            return State::Cached {
                age: layer.age,
                size: layer.size,
                saves: layer.took,
            };
        }
        (None, _) => {
            let parent = before.map(|before| &before.key);
            let siblings = known
                .iter()
                .filter(|layer| layer.parent_key.as_ref() == parent);
            let siblings: Vec<&Known> = siblings.collect();
            let named = siblings
                .iter()
                .copied()
                .filter(|layer| layer.name == key.name);
            match newest(named.collect()).or_else(|| newest(siblings)) {
                Some(layer) => difference(&layer.inputs, &key.inputs),
                None => "it was never done".into(),
            }
        }
    };
    State::Runs { why }
}

/// What is different between two steps, in a few words.
fn difference(old: &Inputs, new: &Inputs) -> String {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changes = names.into_iter().filter_map(|name| {
        let (old, new) = (old.get(name), new.get(name));
        match (old, new) {
            (old, new) if old == new => None,
            (None, _) => Some(format!("{name} is new")),
            (_, None) => Some(format!("{name} is gone")),
            (Some(old), Some(new)) if is_short(old) && is_short(new) => {
                Some(format!("{name} was {old:?}, is {new:?}"))
            }
            _ => Some(format!("{name} changed")),
        }
    });
    changes.collect::<Vec<_>>().join("; ")
}

/// Whether a value says something to people.
fn is_short(value: &str) -> bool {
    value.chars().count() <= 40
}

#[cfg(test)]
mod tests {
    use super::super::keys::Base;
    use super::super::tests::plan;
    use super::*;

    const STEPS: &str = "[[step]]\nname = 'one'\nrun = 'echo 1'\nenv = { A = '1' }\n[[step]]\nname = 'two'\nrun = 'b'";

    fn keys(plan: &Plan) -> Keys {
        let base = Base {
            digest: "b".repeat(64),
            disk: 1,
        };
        Keys::new(plan, &base, |_| None, true)
    }

    /// The layers that a build of this has left.
    fn built(text: &str) -> Vec<Known> {
        let keys = keys(&plan(text));
        let mut parent = None;
        let known = keys.chain.into_iter().map(|key| Known {
            parent_key: parent.replace(key.key.clone()),
            key: key.key,
            name: key.name,
            inputs: key.inputs,
            age: 90.0,
            size: 10,
            took: 5.0,
        });
        known.collect()
    }

    fn told(text: &str, known: &[Known]) -> Vec<String> {
        let plan = plan(text);
        let states = states(&plan, &keys(&plan), known).into_iter();
        let told = states.map(|state| match state {
            State::Cached { .. } => "cached".into(),
            State::Runs { why } => why,
        });
        told.collect()
    }

    #[test]
    fn what_was_never_built_is_told_once() {
        let after = "after one that is done";
        assert_eq!(told(STEPS, &[]), ["it was never done", after, after]);
    }

    #[test]
    fn a_miss_says_what_changed_and_what_follows_says_that_it_follows() {
        let known = built(STEPS);
        assert_eq!(told(STEPS, &known), ["cached"; 3]);
        let after = "after one that is done";
        for (what, by, why) in [
            ("echo 1", "echo one", "script changed"),
            ("A = '1'", "A = '2'", r#"environment A was "1", is "2""#),
            ("A = '1'", "", "environment A is gone"),
            ("A = '1'", "A = '1', B = '1'", "environment B is new"),
        ] {
            let changed = STEPS.replace(what, by);
            assert_eq!(told(&changed, &known), ["cached", why, after], "{by}");
        }
        let machine = format!("[machine]\ncpus = 3\n{STEPS}");
        assert_eq!(told(&machine, &known)[0], r#"cpus was "2", is "3""#);
    }

    #[test]
    fn a_step_that_is_always_done_says_so_and_an_old_one_how_old_it_may_be() {
        let always = STEPS.replace("run = 'b'", "run = 'b'\ncache = false");
        assert_eq!(told(&always, &built(STEPS))[2], "it is always done");
        let minute = STEPS.replace("run = 'b'", "run = 'b'\ncache = '1m'");
        assert_eq!(
            told(&minute, &built(STEPS))[2],
            "it was done more than 1 min ago"
        );
    }
}
