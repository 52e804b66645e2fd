//! `imgbuild template prune` and `rm`.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{value, values};
use crate::cli::several;
use crate::error::{Error, Result};
use crate::store::Registry;
use crate::store::registry::{Pruned, Reference, Use};
use crate::ui::{Screen, bytes};

pub fn prune(
    registry: &mut Registry,
    image: Option<&str>,
    keep: usize,
    dry_run: bool,
    screen: Screen,
) -> Result<()> {
    let pruned = registry.prune(image, keep, dry_run)?;
    tell_unseen(&pruned.unseen, screen);
    for (_, error) in &pruned.left {
        screen.error(None, error);
    }
    screen.result_of(
        || text(&pruned, dry_run),
        || {
            let needed = pruned.needed.iter().map(|(version, uses)| {
                let mut shown = value(version);
                shown["needed-by"] = uses.iter().map(needed_by).collect();
                shown
            });
            json!({
                "event": "result", "dry-run": dry_run, "size": size(&pruned),
                "removed": values(&pruned.removed), "needed": needed.collect::<Value>(),
                "left": pruned.left.iter().map(|(version, _)| value(version)).collect::<Value>(),
            })
        },
    );
    let (left, chosen) = (pruned.left.len(), pruned.removed.len() + pruned.left.len());
    let errors: Vec<Error> = pruned.left.into_iter().map(|(_, error)| error).collect();
    match left {
        0 => Ok(()),
        _ => Err(several(&format!("removing {left} of {chosen} versions"), &errors).told()),
    }
}

fn size(pruned: &Pruned) -> u64 {
    pruned.removed.iter().map(|version| version.size).sum()
}

fn text(pruned: &Pruned, dry_run: bool) -> String {
    let mut text = String::new();
    let done = if dry_run { "would remove" } else { "removed" };
    for version in &pruned.removed {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{done} {} ({})", version.name(), bytes(version.size));
    }
    for (version, uses) in &pruned.needed {
        let uses: Vec<String> = uses.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "kept {}: {}", version.name(), uses.join("; "));
    }
    let (count, size) = (pruned.removed.len(), bytes(size(pruned)));
    let _ = writeln!(text, "{done} {count} versions ({size})");
    text
}

fn needed_by(needed: &Use) -> Value {
    match needed {
        Use::Channel(name) => json!({"channel": name}),
        Use::Version(name) => json!({"version": name}),
        Use::Open(who) => json!({"open-in": who}),
        Use::Machine(name) => json!({"machine": name}),
    }
}

/// Tells which machines may use what was removed, for all that is known.
fn tell_unseen(unseen: &[String], screen: Screen) {
    for what in unseen {
        screen.note(&format!(
            "which images libvirt's machines use is not all known: {what}"
        ));
    }
}

pub fn rm(registry: &mut Registry, reference: &Reference, screen: Screen) -> Result<()> {
    let (version, unseen) = registry.remove(reference)?;
    tell_unseen(&unseen, screen);
    let text = format!("removed {} ({})\n", version.name(), bytes(version.size));
    screen.result(
        &text,
        &json!({"event": "result", "removed": value(&version)}),
    );
    Ok(())
}
