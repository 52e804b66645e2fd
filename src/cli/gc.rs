//! `imgbuild gc`.

use std::time::{Duration, SystemTime};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::target;
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::machine::Found;
use crate::error::{Error, Result};
use crate::run::Interrupt;
use crate::run::gc::{Reaped, is_alive, prune, reap};
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
    /// Also remove what builds on any computer have left on a target of imgbuild.toml, and layers that nobody used for 30 days
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A layer on a target that nobody has used for this long is removed.
const UNUSED: SignedDuration = SignedDuration::from_hours(30 * 24);

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
    let found = match &arguments.target {
        Some(name) => Some(interrupt.or(on_target(name, &dirs, screen)).await?),
        None => None,
    };
    let names = |resources: Vec<String>| serde_json::Value::from(resources);
    let removed = reaped.iter().flat_map(|build| &build.removed);
    let remaining = reaped.iter().flat_map(names_of_remaining);
    let mut value = json!({
        "event": "result",
        "removed": names(removed.map(ToString::to_string).collect()),
        "remaining": names(remaining.collect()),
        "kept": names(reaped.iter().filter(|build| !build.kept.is_empty()).map(|build| build.id.clone()).collect()),
        "swept-bytes": swept,
        "logs": pruned,
    });
    if let Some(found) = &found {
        let remaining = found.remaining.iter().map(|(what, _)| what.clone());
        value["target"] = json!({
            "name": found.name, "removed": found.removed, "left-alone": found.left_alone,
            "remaining": remaining.collect::<Vec<_>>(),
        });
    }
    let nothing_there = found.as_ref().is_none_or(OnTarget::is_empty);
    let text = match reaped.is_empty() && swept == 0 && pruned.is_empty() && nothing_there {
        true => "nothing was left behind\n",
        false => "",
    };
    screen.result(text, &value);
    tell(&reaped, screen)?;
    if let Some(found) = found {
        found.verdict(screen)?;
    }
    // Opening it brings to an end what was being built or removed.
    if let Some(registry) = Registry::open_existing(&dirs)? {
        for left in &registry.unfinished {
            screen.note(&format!("still to be done: {left}"));
        }
    }
    Ok(())
}

/// What was found on a target of builds on any computer, by name.
struct OnTarget {
    name: String,
    removed: Vec<String>,
    /// Its build may not be over.
    left_alone: Vec<String>,
    /// With why it could not be removed.
    remaining: Vec<(String, Error)>,
}

impl OnTarget {
    fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.left_alone.is_empty() && self.remaining.is_empty()
    }

    /// Reports what could not be removed, which is an error.
    fn verdict(self, screen: Screen) -> Result<()> {
        for (_, error) in &self.remaining {
            screen.note(&error.with_hint());
        }
        match self.remaining.is_empty() {
            true => Ok(()),
            false => {
                let names: Vec<_> = self.remaining.into_iter().map(|(what, _)| what).collect();
                let doing = format!("removing what builds have left on {}", self.name);
                Err(Error::new(doing).cause(format!("these remain: {}", names.join(", "))))
            }
        }
    }
}

/// Removes what builds on any computer have left on a target: those that are over by what they have said themselves.
async fn on_target(name: &str, dirs: &Dirs, screen: Screen) -> Result<OnTarget> {
    let everywhere = target::on_all_nodes(name, screen).await?;
    let all = everywhere.of_builds().await;
    let all = all.map_err(|failure| {
        failure.during(format!("looking for what builds have left on {name}"))
    })?;
    let mut found = OnTarget {
        name: name.to_owned(),
        removed: vec![],
        left_alone: vec![],
        remaining: vec![],
    };
    for Found { lease, resource } in all {
        let until = lease.until.strftime("%F %R UTC");
        let what = resource.to_string();
        if !lease.is_over() || is_alive(dirs, &lease.build)? {
            screen.note(&format!(
                "{what} is left alone: its build may go on until {until}"
            ));
            found.left_alone.push(what);
            continue;
        }
        screen.note(&format!("removing {what}, whose build was over by {until}"));
        match resource.remove().await {
            Ok(()) => found.removed.push(what),
            Err(error) => found.remaining.push((what, error)),
        }
    }
    for server in &everywhere.servers {
        remove_old_layers(server, &mut found, screen).await?;
    }
    Ok(found)
}

/// Removes layers that nobody has used for long. Those that others are made of stay until these go.
async fn remove_old_layers(server: &Proxmox, found: &mut OnTarget, screen: Screen) -> Result<()> {
    let layers = server.layers().await;
    let layers = layers
        .map_err(|failure| failure.during(format!("looking for layers on {}", found.name)))?;
    let now = Timestamp::now();
    let is_old = |used: &Timestamp| now.duration_since(*used) > UNUSED;
    for (vmid, used) in layers.into_iter().filter(|(_, used)| is_old(used)) {
        let what = format!("the layer {vmid} on {}", found.name);
        let used = used.strftime("%F");
        match server.remove_unused(vmid).await {
            Ok(true) => {
                screen.note(&format!("removed {what}, which was last used on {used}"));
                found.removed.push(what);
            }
            Ok(false) => {
                screen.note(&format!("{what} is left alone: linked clones need it"));
                found.left_alone.push(what);
            }
            Err(error) => found.remaining.push((what, error)),
        }
    }
    Ok(())
}

/// Removes what dead builds left, before something else is made.
pub async fn reap_first(dirs: &Dirs, screen: Screen, interrupt: &Interrupt) -> Result<()> {
    let reaped = interrupt.or(reap(dirs, false)).await;
    // What cannot be removed must not stop every build of the night.
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
            screen.note(&format!(
                "{resource}, left by build {}: {}",
                build.id,
                error.with_hint()
            ));
        }
        if let Some(error) = &build.failed {
            screen.error(None, error);
        }
    }
    let remaining: Vec<_> = reaped.iter().flat_map(names_of_remaining).collect();
    match remaining.is_empty() {
        true => Ok(()),
        false => Err(Error::new("removing what dead builds left")
            .cause(format!("these remain: {}", remaining.join(", ")))),
    }
}

/// What of a dead build could not be removed, or may still be there.
fn names_of_remaining(build: &Reaped) -> Vec<String> {
    let known = build.remaining.iter();
    let mut names: Vec<_> = known.map(|(resource, _)| resource.to_string()).collect();
    if build.failed.is_some() {
        names.push(format!("what build {} has left", build.id));
    }
    names
}
