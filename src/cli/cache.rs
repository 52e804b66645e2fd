//! `imgbuild cache`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::recipe::Size;
use crate::store::Dirs;
use crate::store::layers::{Evicted, Layer, Layers};
use crate::ui::{Screen, ago, bytes};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the layers, those of one chain beneath each other
    List,
    /// Show what a layer is made of
    Show {
        /// The layer's id, or its beginning
        id: String,
    },
    /// Remove layers that no build is using
    Prune {
        /// Only those that were not used for so many days
        #[arg(long, value_name = "DAYS", default_value_t = 0)]
        unused_for: u32,
    },
    /// Show or set how much room layers may take
    Limit {
        /// What is over it goes at the end of each build
        size: Option<Size>,
    },
}

pub fn run(arguments: &Arguments, screen: Screen) -> Result<()> {
    let layers = Layers::new(&Dirs::from_env()?);
    match &arguments.action {
        Action::List => list(&layers, screen),
        Action::Show { id } => show(&layers, id, screen),
        Action::Prune { unused_for } => {
            let least = DAY * *unused_for;
            let old = |layer: &Layer| layer.used.elapsed().is_ok_and(|unused| unused >= least);
            told(layers.prune_unused(old)?, screen)
        }
        Action::Limit { size: None } => {
            let limit = layers.limit()?;
            let value = json!({"event": "result", "limit": limit});
            screen.result(&format!("{}\n", bytes(limit)), &value);
            Ok(())
        }
        Action::Limit { size: Some(size) } => {
            layers.set_limit(size.0)?;
            told(layers.evict(size.0)?, screen)
        }
    }
}

fn told(removed: Evicted, screen: Screen) -> Result<()> {
    let Evicted { layers, size } = removed;
    let text = format!("removed {layers} layers ({})\n", bytes(size));
    screen.result(
        &text,
        &json!({"event": "result", "removed": layers, "size": size}),
    );
    Ok(())
}

fn list(layers: &Layers, screen: Screen) -> Result<()> {
    let mut all: Vec<Layer> = layers.list()?.into_values().collect();
    all.sort_by(|a, b| {
        let place = |layer: &Layer| (layer.manifest.root.clone(), layer.manifest.created);
        place(a).cmp(&place(b))
    });
    let mut text = String::new();
    for layer in &all {
        text.push_str(&line(layer));
    }
    let sum: u64 = all.iter().map(|layer| layer.manifest.size).sum();
    text.push_str(&format!(
        "{} layers, {} of {}\n",
        all.len(),
        bytes(sum),
        bytes(layers.limit()?)
    ));
    let list: Vec<Value> = all.iter().map(value).collect();
    screen.result(&text, &json!({"event": "result", "layers": list}));
    Ok(())
}

fn line(layer: &Layer) -> String {
    let manifest = &layer.manifest;
    let memory = if manifest.memory.is_some() {
        "memory"
    } else {
        ""
    };
    format!(
        "{}  {:>10}  {memory:6}  used {} ago  {}: {}\n",
        layer.id,
        bytes(manifest.size),
        ago(layer.used),
        manifest.image,
        manifest.name
    )
}

fn value(layer: &Layer) -> Value {
    let manifest = &layer.manifest;
    json!({
        "id": layer.id, "parent": manifest.parent, "image": manifest.image, "step": manifest.name,
        "key": manifest.key, "created": manifest.created, "size": manifest.size,
        "memory": manifest.memory.as_ref().map(|memory| memory.size), "took": manifest.took,
        "base": manifest.base, "inputs": manifest.inputs, "recorded": manifest.recorded,
    })
}

fn show(layers: &Layers, id: &str, screen: Screen) -> Result<()> {
    let all = layers.list()?;
    let mut found = all.values().filter(|layer| layer.id.starts_with(id));
    let error = || Error::new(format!("showing the layer {id}")).kind(Kind::Usage);
    let layer = match (found.next(), found.next()) {
        (Some(layer), None) => layer,
        (None, _) => {
            return Err(error()
                .cause("there is none")
                .hint("`imgbuild cache list` shows them"));
        }
        (Some(one), Some(_)) if one.id == id => one,
        (Some(_), Some(_)) => {
            return Err(error()
                .cause("several ids begin so")
                .hint("give more of it"));
        }
    };
    let manifest = &layer.manifest;
    let mut text = String::new();
    let mut say = |name: &str, value: &str| text.push_str(&format!("{name:<9} {value}\n"));
    say("layer", &layer.id);
    say("after", &format!("{} of {}", manifest.name, manifest.image));
    say(
        "parent",
        manifest.parent.as_deref().unwrap_or(&manifest.base),
    );
    say(
        "made",
        &format!("{} in {:.1} s", manifest.created, manifest.took),
    );
    say("size", &bytes(manifest.size));
    let memory = manifest.memory.as_ref();
    say(
        "memory",
        &memory.map_or("not saved".into(), |memory| bytes(memory.size)),
    );
    say("key", &manifest.key);
    for (name, input) in &manifest.inputs {
        say("input", &format!("{name}: {input}"));
    }
    for (name, version) in &manifest.recorded {
        say("recorded", &format!("{name}: {version}"));
    }
    screen.result(&text, &json!({"event": "result", "layer": value(layer)}));
    Ok(())
}
