//! What is different between two versions: by their records, their lists of packages, and their disks.

mod files;
mod packages;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

pub use files::{FileChanges, files};
pub use packages::packages;

use crate::record::Known;

/// What became of things that have names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    pub added: BTreeMap<String, String>,
    pub removed: BTreeMap<String, String>,
    /// From what to what.
    pub changed: BTreeMap<String, (String, String)>,
}

impl Changes {
    pub fn between(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Self {
        let only = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
            let only = one.iter().filter(|(name, _)| !other.contains_key(*name));
            only.map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        };
        let changed = old.iter().filter_map(|(name, old)| {
            let new = new.get(name).filter(|new| *new != old)?;
            Some((name.clone(), (old.clone(), new.clone())))
        });
        Changes {
            added: only(new, old),
            removed: only(old, new),
            changed: changed.collect(),
        }
    }
}

/// What is different between two records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Records {
    /// The base images, if they are different.
    pub base: Option<(Base, Base)>,
    /// Variables, as JSON.
    pub vars: Changes,
    /// Steps, by the digests of what they do.
    pub steps: Changes,
    /// Bytes of the images.
    pub size: (u64, u64),
}

/// A base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Base {
    pub origin: String,
    pub sha256: String,
}

/// Compares two records.
pub fn records(old: &Known, new: &Known) -> Records {
    let base = |known: &Known| Base {
        origin: match &known.source.version {
            Some(version) => version.clone(),
            None => known.source.origin.clone(),
        },
        sha256: known.source.digest().to_owned(),
    };
    let other_base = old.source.digest() != new.source.digest();
    Records {
        base: other_base.then(|| (base(old), base(new))),
        vars: Changes::between(&vars(old), &vars(new)),
        steps: Changes::between(&steps(old), &steps(new)),
        size: (old.artifact.size, new.artifact.size),
    }
}

fn vars(known: &Known) -> BTreeMap<String, String> {
    let vars = known.vars.iter();
    vars.map(|(name, value)| (name.clone(), value.to_string()))
        .collect()
}

/// Steps by their names; the second of a name is `NAME (2)`.
fn steps(known: &Known) -> BTreeMap<String, String> {
    let mut steps = BTreeMap::new();
    for step in &known.steps {
        let mut name = step.name.clone();
        let mut count = 1;
        while steps.contains_key(&name) {
            count += 1;
            name = format!("{} ({count})", step.name);
        }
        steps.insert(name, step.sha256.clone());
    }
    steps
}

/// A path for people and JSON.
fn shown(path: &[u8]) -> String {
    crate::text::printable(&String::from_utf8_lossy(path))
}

/// Where the list of packages of the image at `image` is.
pub fn package_list(image: &Path) -> std::path::PathBuf {
    crate::provenance::Files::of(image).cyclonedx
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(vars: &str, steps: &[(&str, &str)]) -> Known {
        let steps: Vec<_> = steps
            .iter()
            .map(|(name, sha256)| serde_json::json!({"name": name, "sha256": sha256}))
            .collect();
        let vars: serde_json::Value = serde_json::from_str(vars).unwrap();
        let record = serde_json::json!({
            "image": {"name": "web"},
            "build": {"id": "b", "started": "2026-11-25T08:00:00Z", "finished": "2026-11-25T08:00:01Z"},
            "source": {"origin": "o", "sha256": "s"},
            "vars": vars, "steps": steps,
            "artifact": {"format": "qcow2", "size": 10, "sha256": "a"},
        });
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn variables_and_steps_that_came_went_or_changed_are_told() {
        let old = known(
            r#"{"greeting": "Hi", "old": 1}"#,
            &[("one", "1"), ("one", "2"), ("gone", "3")],
        );
        let new = known(
            r#"{"greeting": "Hello", "new": ["a"]}"#,
            &[("one", "1"), ("one", "4"), ("new", "5")],
        );
        let found = records(&old, &new);
        assert_eq!(found.base, None);
        assert_eq!(
            found.vars.changed["greeting"],
            ("\"Hi\"".into(), "\"Hello\"".into())
        );
        assert_eq!(found.vars.added["new"], "[\"a\"]");
        assert_eq!(found.vars.removed["old"], "1");
        let changed: Vec<_> = found.steps.changed.keys().collect();
        assert_eq!(changed, ["one (2)"]);
        assert!(found.steps.added.contains_key("new") && found.steps.removed.contains_key("gone"));
        assert_eq!(records(&old, &old).vars, Changes::default());
    }
}
