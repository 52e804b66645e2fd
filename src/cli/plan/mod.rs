//! `imgbuild plan`.

mod on_target;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::recipes::{Graph, Online, Selection};
use super::{Global, secrets, target};
use crate::backend::proxmox::Proxmox;
use crate::error::{Context, Error, Kind, Result};
use crate::pipeline;
use crate::plan::{self, Known, OnTarget, Plan, Printed, State};
use crate::run::Interrupt;
use crate::source::{self, Spec};
use crate::store::layers::{self, Layer, Layers};
use crate::store::{Dirs, KeyedHash, Registry};
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Recipes to look at
    #[arg(required = true)]
    recipes: Vec<PathBuf>,
    /// Exit with code 4 when a run would do work
    #[arg(long)]
    detailed_exit_code: bool,
    /// As a build on this target of imgbuild.toml; nothing is changed there
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    #[command(flatten)]
    selection: Selection,
}

/// Prints what `run` would do, resolved, and does none of it.
pub async fn run(
    arguments: &Arguments,
    global: &Global,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    let dirs = Dirs::from_env()?;
    let online = Online::new("plan", &dirs, &arguments.selection, global);
    let pending = interrupt.or(print(arguments, &online, screen)).await?;
    match arguments.detailed_exit_code && pending {
        true => Err(Error::new("planning").kind(Kind::Pending).told()),
        false => Ok(()),
    }
}

/// Returns whether there is anything to build.
async fn print(arguments: &Arguments, online: &Online<'_>, screen: Screen) -> Result<bool> {
    let mut graph = Graph::on(arguments.target.as_deref());
    for path in &arguments.recipes {
        graph.add(path, &arguments.selection, online).await?;
    }
    if graph.nodes.is_empty() {
        return Err(Error::new("choosing what to plan")
            .kind(Kind::Usage)
            .cause("no image is left after --only and --except"));
    }
    let server = match &arguments.target {
        Some(name) => Some(target::connect(name).await?),
        None => None,
    };
    let mut pending = false;
    for (index, node) in graph.nodes.iter().enumerate() {
        pipeline::refuse(&node.plan)?;
        let resolved = match &node.plan.source {
            // It may not be there yet, which is no reason not to plan.
            Spec::Built { path } => source::Resolved::built(path),
            spec => source::resolve(spec, &online.context()?).await?,
        };
        let (outlook, on_target) = look(server.as_ref(), &node.plan, &resolved, online).await?;
        pending |= !outlook.as_ref().is_some_and(|(up_to_date, _)| *up_to_date);
        let printed = Printed::new(&node.plan, &resolved, outlook, on_target);
        let value = serde_json::to_value(&printed).doing(|| "printing the plan")?;
        let blank = if index == 0 { "" } else { "\n" };
        let text = format!("{blank}{}", printed.to_text());
        screen.result(&text, &json!({"event": "result", "plan": value}));
    }
    Ok(pending)
}

/// Whether there is nothing to do, and what becomes of the boot and of each step.
type Outlook = (bool, Vec<State>);

/// What is known of a build where it is done.
async fn look(
    server: Option<&Proxmox>,
    plan: &Plan,
    resolved: &source::Resolved,
    online: &Online<'_>,
) -> Result<(Option<Outlook>, Option<OnTarget>)> {
    match server {
        None => Ok((outlook(plan, resolved, online).await?, None)),
        Some(server) => {
            let (outlook, there) = on_target::look(server, plan, resolved, online).await?;
            Ok((outlook, Some(there)))
        }
    }
}

/// The outlook on this machine; none if the base image is not on it.
async fn outlook(
    plan: &Plan,
    resolved: &source::Resolved,
    online: &Online<'_>,
) -> Result<Option<Outlook>> {
    // Asking nix means building.
    if matches!(plan.source, Spec::Nixos { .. }) {
        return Ok(None);
    }
    let cx = source::Context {
        offline: true,
        ..online.context()?
    };
    let Ok(base) = source::fetch(resolved, &cx).await else {
        return Ok(None);
    };
    let secrets = secrets::at_hand(plan, cx.events).await;
    let hash = KeyedHash::open(online.dirs)?;
    let of_base = pipeline::local_base(plan, &base)?;
    let keys = pipeline::keys(plan, &of_base, &secrets, hash.as_ref(), true);
    let layers = Layers::new(online.dirs).list()?;
    // One that lies on something that is too old counts for what it was made of, not as one that can be used.
    let fresh = |layer: &Layer| {
        let key = keys.chain.iter().find(|key| key.key == layer.manifest.key);
        let most = key.and_then(|key| key.max_age);
        most.is_none_or(|most| layer.age() < most.as_secs_f64())
    };
    let usable = layers.values().filter(|layer| {
        let below = layers::chain(&layers, layer).map(|mut chain| {
            chain.pop();
            chain.into_iter().all(fresh)
        });
        Path::new(&layer.manifest.base) == base.path && below.is_ok_and(|fresh| fresh)
    });
    let known = usable.map(|layer| {
        let manifest = &layer.manifest;
        Known {
            key: manifest.key.clone(),
            parent_key: manifest.parent_key.clone(),
            name: manifest.name.clone(),
            inputs: manifest.inputs.clone(),
            age: layer.age(),
            size: manifest.size,
            took: manifest.took,
        }
    });
    let known: Vec<Known> = known.collect();
    let up_to_date = match Registry::open_existing(online.dirs)? {
        None => false,
        Some(registry) => pipeline::up_to_date(plan, &keys, online.dirs, &registry)?.is_some(),
    };
    let states = match plan.import {
        true => vec![],
        false => plan::states(plan, &keys, &known),
    };
    Ok(Some((up_to_date, states)))
}
