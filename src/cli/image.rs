//! `imgbuild image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Global, Vars};
use crate::error::Result;
use crate::plan::{Facts, Plan};
use crate::recipe;
use crate::run::{Events, Interrupt};
use crate::source::{self, CachedImage};
use crate::store::Dirs;
use crate::ui::{self, Screen, bytes};

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Download and verify the base images of recipes
    Pull {
        /// Recipes whose base images are wanted
        #[arg(required = true)]
        recipes: Vec<PathBuf>,
        #[command(flatten)]
        vars: Vars,
    },
    /// List the base images in the cache
    List,
    /// Remove a base image from the cache
    Rm {
        /// The digest, or its beginning
        digest: String,
    },
}

pub async fn run(
    arguments: Arguments,
    global: &Global,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    let dirs = Dirs::from_env()?;
    match arguments.action {
        Action::Pull { recipes, vars } => {
            for path in &recipes {
                let recipe = recipe::load(path, &vars.overrides())?;
                interrupt.or(pull(&recipe, &dirs, global, screen)).await?;
            }
            Ok(())
        }
        Action::List => list(&dirs, screen),
        Action::Rm { digest } => {
            let removed = source::remove(&dirs, &digest)?;
            let text = format!(
                "removed {} ({})\n",
                removed.sha256,
                bytes(removed.allocated)
            );
            screen.result(
                &text,
                &json!({"event": "result", "removed": value(&removed)}),
            );
            Ok(())
        }
    }
}

async fn pull(recipe: &recipe::Recipe, dirs: &Dirs, global: &Global, screen: Screen) -> Result<()> {
    let plan = Plan::new(recipe, &Facts::default());
    let events = Events::new(
        &plan.name,
        vec![ui::observer(global.format, global.verbose > 0)],
    );
    let http = source::Http::new()?;
    let cx = source::Context {
        dirs,
        events: &events,
        http: &http,
        offline: false,
    };
    let resolved = source::resolve(&plan.source, &cx).await?;
    let image = source::fetch(&resolved, &cx).await?;
    let text = format!("{}  {}\n", image.sha256, image.path.display());
    let value = json!({
        "event": "result", "sha256": image.sha256, "path": image.path, "verified": image.verified,
    });
    screen.result(&text, &value);
    Ok(())
}

fn list(dirs: &Dirs, screen: Screen) -> Result<()> {
    let images = source::list(dirs)?;
    let mut text = String::new();
    for image in &images {
        text.push_str(&line(image));
    }
    if images.is_empty() {
        text.push_str("no base image is cached\n");
    }
    let list: Vec<_> = images.iter().map(value).collect();
    screen.result(&text, &json!({"event": "result", "images": list}));
    Ok(())
}

fn value(image: &CachedImage) -> serde_json::Value {
    json!({
        "sha256": image.sha256, "origin": image.origin, "format": image.format.name(),
        "virtual-size": image.virtual_size, "allocated": image.allocated, "verified": image.verified,
    })
}

fn line(image: &CachedImage) -> String {
    format!(
        "{}  {:>10}  {:>5}  {}\n",
        &image.sha256[..12],
        bytes(image.allocated),
        image.format.name(),
        image.origin
    )
}
