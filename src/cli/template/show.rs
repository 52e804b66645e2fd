//! `imgbuild template show`.

use std::fmt::Write as _;

use serde_json::json;

use super::{names, value};
use crate::error::Result;
use crate::record;
use crate::store::Registry;
use crate::store::registry::Reference;
use crate::ui::{Screen, bytes};

pub fn run(registry: &Registry, reference: &Reference, screen: Screen) -> Result<()> {
    let version = registry.find(reference)?;
    let children = registry.built_on(&version)?;
    let newer = registry.newer_parent(&version)?;
    let mut text = String::new();
    let mut line = |what: &str, said: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{what:<9} {said}");
    };
    line("version", &version.name());
    if let Some(label) = &version.label {
        line("label", label);
    }
    if let Some(revoked) = &version.revoked {
        let at = revoked.at.strftime("%Y-%m-%d %H:%M:%S UTC");
        line("REVOKED", &format!("{at}: {}", revoked.reason));
    }
    if !version.channels.is_empty() {
        line("channels", &version.channels.join(", "));
    }
    let gone = if version.is_there() { "" } else { " (gone)" };
    line("image", &format!("{}{gone}", version.path.display()));
    let record = record::path(&version.path);
    line("record", &record.display().to_string());
    line("size", &bytes(version.size));
    line("sha256", &version.sha256);
    let at = version.created.strftime("%Y-%m-%d %H:%M:%S UTC");
    line("built", &format!("{at}, build {}", version.build));
    if let Some(parent) = &version.parent {
        let asked = version.asked.as_ref().filter(|asked| *asked != parent);
        let asked = asked.map_or(String::new(), |asked| format!(" (as {asked})"));
        line("on", &format!("{parent}{asked}"));
    }
    if let Some(newer) = &newer {
        let channels = newer.channels.join(", ");
        line(
            "outdated",
            &format!("{} is promoted to {channels}; build again", newer.name()),
        );
    }
    if !children.is_empty() {
        line("beneath", &names(&children));
    }
    let children = children.iter().map(|child| child.name());
    let mut shown = value(&version);
    shown["record"] = json!(record);
    shown["children"] = children.collect();
    shown["outdated"] = json!(newer.map(|newer| newer.name()));
    screen.result(&text, &json!({"event": "result", "version": shown}));
    Ok(())
}
