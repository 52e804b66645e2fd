//! `imgbuild gc`.

use clap::Args;
use serde_json::json;

use crate::error::{Error, Result};
use crate::run::gc::{Reaped, reap};
use crate::source;
use crate::store::Dirs;
use crate::ui::{Screen, bytes};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Also remove machines that were left on purpose (--on-error keep)
    #[arg(long)]
    kept: bool,
}

/// Removes what dead builds left.
pub async fn run(arguments: &Arguments, screen: Screen) -> Result<()> {
    let dirs = Dirs::from_env()?;
    let reaped = reap(&dirs, arguments.kept).await?;
    let swept = source::sweep(&dirs)?;
    if swept > 0 {
        screen.note(&format!("removed {} of unfinished downloads", bytes(swept)));
    }
    let names = |resources: Vec<String>| serde_json::Value::from(resources);
    let removed = reaped.iter().flat_map(|build| &build.removed);
    let remaining = reaped.iter().flat_map(|build| &build.remaining);
    let value = json!({
        "event": "result",
        "removed": names(removed.map(ToString::to_string).collect()),
        "remaining": names(remaining.map(|(resource, _)| resource.to_string()).collect()),
        "kept": names(reaped.iter().filter(|build| !build.kept.is_empty()).map(|build| build.id.clone()).collect()),
        "swept-bytes": swept,
    });
    let text = match reaped.is_empty() && swept == 0 {
        true => "nothing was left behind\n",
        false => "",
    };
    screen.result(text, &value);
    tell(&reaped, screen)
}

/// Reports what was found; what could not be removed is an error.
pub fn tell(reaped: &[Reaped], screen: Screen) -> Result<()> {
    let mut remaining = vec![];
    for build in reaped {
        for resource in &build.removed {
            screen.note(&format!("removed {resource}, left by build {}", build.id));
        }
        if !build.kept.is_empty() {
            screen.note(&format!(
                "build {} was kept on purpose; `imgbuild gc --kept` removes it",
                build.id
            ));
        }
        for (resource, error) in &build.remaining {
            screen.note(&format!("{resource}, left by build {}: {error}", build.id));
            remaining.push(resource.to_string());
        }
    }
    match remaining.is_empty() {
        true => Ok(()),
        false => Err(Error::new("removing what dead builds left")
            .cause(format!("these remain: {}", remaining.join(", ")))),
    }
}
