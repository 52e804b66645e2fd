//! `imgbuild gc`.

use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::json;

use crate::error::{Error, Result};
use crate::run::Interrupt;
use crate::run::gc::{Reaped, prune, reap};
use crate::source;
use crate::store::{Dirs, Layers, Registry};
use crate::ui::{Screen, bytes};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Also remove machines that were left on purpose (--on-error keep)
    #[arg(long)]
    kept: bool,
    /// Remove the logs of builds that ended longer ago than this
    #[arg(long, value_name = "DAYS", default_value = "30")]
    logs_older_than: u32,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes what dead builds left.
pub async fn run(arguments: &Arguments, screen: Screen, interrupt: &Interrupt) -> Result<()> {
    let dirs = Dirs::from_env()?;
    // A server may be slow, or not there.
    let reaped = interrupt.or(reap(&dirs, arguments.kept)).await?;
    Layers::new(&dirs).sweep()?;
    let swept = source::sweep(&dirs)?;
    if swept > 0 {
        screen.note(&format!("removed {} of unfinished downloads", bytes(swept)));
    }
    let before = SystemTime::now().checked_sub(DAY * arguments.logs_older_than);
    let pruned = match before {
        Some(before) => prune(&dirs, before)?,
        None => vec![], // before time began
    };
    if !pruned.is_empty() {
        let (builds, days) = (pruned.len(), arguments.logs_older_than);
        screen.note(&format!(
            "removed the logs of {builds} builds, older than {days} days"
        ));
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
        "logs": pruned,
    });
    let text = match reaped.is_empty() && swept == 0 && pruned.is_empty() {
        true => "nothing was left behind\n",
        false => "",
    };
    screen.result(text, &value);
    tell(&reaped, screen)?;
    // Opening it brings to an end what was being built or removed.
    if let Some(registry) = Registry::open_existing(&dirs)? {
        for left in &registry.unfinished {
            screen.note(&format!("still to be done: {left}"));
        }
    }
    Ok(())
}

/// Removes what dead builds left, before something else is made.
pub async fn reap_first(dirs: &Dirs, screen: Screen, interrupt: &Interrupt) -> Result<()> {
    let reaped = interrupt.or(reap(dirs, false)).await;
    // One journal that cannot be read must not stop every build of the night.
    if let Err(error) = reaped.and_then(|reaped| tell(&reaped, screen)) {
        if interrupt.is_set() {
            return Err(error);
        }
        screen.error(None, &error);
    }
    Ok(())
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
