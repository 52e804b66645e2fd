//! `imgbuild template list`.

use serde_json::json;

use super::{disk_size, values};
use crate::error::Result;
use crate::store::Registry;
use crate::store::registry::{State, Version};
use crate::ui::{Screen, ago, bytes};

pub fn run(registry: &Registry, image: Option<&str>, screen: Screen) -> Result<()> {
    let versions = registry.list(image)?;
    screen.result_of(
        || text(&versions),
        || json!({"event": "result", "versions": values(&versions)}),
    );
    Ok(())
}

fn text(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "no version was built yet\n".to_owned();
    }
    let label = |version: &Version| version.label.clone().unwrap_or_default();
    let widths = (width(versions, Version::name), width(versions, label));
    let lines = versions.iter().map(|version| line(version, widths));
    lines.collect()
}

fn width(versions: &[Version], of: impl Fn(&Version) -> String) -> usize {
    let widths = versions.iter().map(|version| of(version).chars().count());
    widths.max().unwrap_or(0)
}

fn line(version: &Version, (name, label): (usize, usize)) -> String {
    let mut about = vec![];
    match version.state {
        State::Building => about.push("being built".to_owned()),
        State::Removing => about.push("being removed".to_owned()),
        State::Ready if !version.is_there() => about.push("gone".to_owned()),
        State::Ready => {}
    }
    if !version.channels.is_empty() {
        about.push(version.channels.join(" "));
    }
    about.extend(version.parent.as_ref().map(|parent| format!("on {parent}")));
    let revoked = version.revoked.as_ref();
    about.extend(revoked.map(|revoked| format!("revoked: {}", revoked.reason)));
    let text = format!(
        "{:name$}  {:label$}{}{:>10}  {:>8} ago  {}",
        version.name(),
        version.label.as_deref().unwrap_or_default(),
        if label > 0 { "  " } else { "" },
        bytes(disk_size(version)),
        ago(version.created.into()),
        about.join(", ")
    );
    format!("{}\n", text.trim_end())
}
