//! `imgbuild template prune` and `rm`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{disk_size, server, value, values};
use crate::cli::several;
use crate::error::{Error, Result};
use crate::store::Registry;
use crate::store::registry::{Pruned, Reference, Use, Version};
use crate::ui::{Screen, bytes};

pub async fn prune(
    registry: &mut Registry,
    image: Option<&str>,
    keep: usize,
    dry_run: bool,
    screen: Screen,
) -> Result<()> {
    let mut pruned = registry.prunable(image, keep)?;
    let chosen = pruned.removed.iter();
    // Those of templates are in files that are removed.
    let sizes: Sizes = chosen
        .map(|chosen| (chosen.name(), disk_size(chosen)))
        .collect();
    if !dry_run {
        server::remove_all(&mut pruned, screen).await;
        pruned = registry.remove_all(pruned)?;
    }
    tell_unseen(&pruned.unseen, screen);
    for (_, error) in &pruned.left {
        screen.error(None, error);
    }
    screen.result_of(
        || text(&pruned, &sizes, dry_run),
        || {
            let needed = pruned.needed.iter().map(|(version, uses)| {
                let mut shown = value(version);
                shown["needed-by"] = uses.iter().map(needed_by).collect();
                shown
            });
            json!({
                "event": "result", "dry-run": dry_run, "size": total(&pruned, &sizes),
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

/// The bytes of versions, by name.
type Sizes = BTreeMap<String, u64>;

fn size(version: &Version, sizes: &Sizes) -> u64 {
    sizes.get(&version.name()).copied().unwrap_or(version.size)
}

fn total(pruned: &Pruned, sizes: &Sizes) -> u64 {
    let removed = pruned.removed.iter();
    removed.map(|version| size(version, sizes)).sum()
}

fn text(pruned: &Pruned, sizes: &Sizes, dry_run: bool) -> String {
    let mut text = String::new();
    let done = if dry_run { "would remove" } else { "removed" };
    for version in &pruned.removed {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{done} {} ({})",
            version.name(),
            bytes(size(version, sizes))
        );
    }
    for (version, uses) in &pruned.needed {
        let uses: Vec<String> = uses.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "kept {}: {}", version.name(), uses.join("; "));
    }
    let (count, size) = (pruned.removed.len(), bytes(total(pruned, sizes)));
    let _ = writeln!(text, "{done} {count} versions ({size})");
    text
}

fn needed_by(needed: &Use) -> Value {
    match needed {
        Use::Channel(name) => json!({"channel": name}),
        Use::Version(name) => json!({"version": name}),
        Use::Open(who) => json!({"open-in": who}),
        Use::Machine(name) | Use::Clone(name) => json!({"machine": name}),
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

pub async fn rm(registry: &mut Registry, reference: &Reference, screen: Screen) -> Result<()> {
    let version = registry.removable(reference)?;
    let size = disk_size(&version);
    server::remove(&version, screen).await?;
    // The one whose template is gone, whatever is the newest by now.
    let (version, unseen) = registry.remove(&version.reference())?;
    tell_unseen(&unseen, screen);
    let text = format!("removed {} ({})\n", version.name(), bytes(size));
    screen.result(
        &text,
        &json!({"event": "result", "removed": value(&version)}),
    );
    Ok(())
}
