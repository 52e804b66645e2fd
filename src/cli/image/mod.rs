//! `imgbuild image`.

mod target;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::Global;
use super::recipes::{Online, Selection};
use crate::error::Result;
use crate::plan::{Facts, Plan};
use crate::run::Interrupt;
use crate::source::{self, Cached, CachedFile, CachedImage, FileKind};
use crate::store::Dirs;
use crate::ui::{Screen, bytes};

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
        selection: Selection,
        #[command(flatten)]
        place: Place,
    },
    /// List what is in the cache: base images, files that steps fetched, documents of [data]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Remove an image, a file or a document from the cache
    Rm {
        /// The digest, or its beginning
        digest: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the images are.
#[derive(Debug, Args)]
struct Place {
    /// Base images on a target of imgbuild.toml, instead of the cache
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

pub async fn run(
    arguments: Arguments,
    global: &Global,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    let dirs = Dirs::from_env()?;
    match arguments.action {
        Action::Pull {
            recipes,
            selection,
            place,
        } => {
            let online = Online::new("image pull", &dirs, &selection, global);
            if let Some(name) = place.target {
                return target::pull(
                    &name, &recipes, &selection, &online, global, screen, interrupt,
                )
                .await;
            }
            for path in &recipes {
                interrupt
                    .or(pull(path, &selection, &online, screen))
                    .await?;
            }
            Ok(())
        }
        Action::List { place } => match place.target {
            Some(name) => interrupt.or(target::list(&name, screen)).await,
            None => list(&dirs, screen),
        },
        Action::Rm { digest, place } => {
            if let Some(name) = place.target {
                return interrupt.or(target::remove(&name, &digest, screen)).await;
            }
            let removed = source::remove(&dirs, &digest)?;
            let (digest, allocated, value) = match &removed {
                Cached::Image(image) => (image.sha256.clone(), image.allocated, value(image)),
                Cached::File(file) => (file.digest.to_string(), file.allocated, file_value(file)),
            };
            let text = format!("removed {digest} ({})\n", bytes(allocated));
            screen.result(&text, &json!({"event": "result", "removed": value}));
            Ok(())
        }
    }
}

async fn pull(
    path: &Path,
    selection: &Selection,
    online: &Online<'_>,
    screen: Screen,
) -> Result<()> {
    for recipe in selection.load(path, online).await? {
        // An image that is built is not pulled.
        if recipe.base.is_built_or_there() {
            continue;
        }
        let plan = Plan::new(&recipe, &Facts::default());
        let cx = online.context()?;
        let resolved = source::resolve(&plan.source, &cx).await?;
        let image = source::fetch(&resolved, &cx).await?;
        let text = format!("{}  {}\n", image.sha256, image.path.display());
        let value = json!({
            "event": "result", "sha256": image.sha256, "path": image.path,
            "verified": image.verified,
        });
        screen.result(&text, &value);
    }
    Ok(())
}

fn list(dirs: &Dirs, screen: Screen) -> Result<()> {
    let images = source::list(dirs)?;
    let mut text = String::new();
    for image in &images {
        text.push_str(&line(image));
    }
    let files = source::files(dirs)?;
    for file in &files {
        text.push_str(&file_line(file));
    }
    if text.is_empty() {
        text.push_str("nothing is cached\n");
    }
    let of_kind = |kind: FileKind| -> Vec<_> {
        let files = files.iter().filter(|file| file.kind == kind);
        files.map(file_value).collect()
    };
    let list: Vec<_> = images.iter().map(value).collect();
    let value = json!({
        "event": "result", "images": list,
        "files": of_kind(FileKind::Fetched), "documents": of_kind(FileKind::Document),
    });
    screen.result(&text, &value);
    Ok(())
}

fn file_value(file: &CachedFile) -> serde_json::Value {
    json!({
        "digest": file.digest.to_string(), "origin": file.origin, "allocated": file.allocated,
    })
}

fn file_line(file: &CachedFile) -> String {
    let kind = match file.kind {
        FileKind::Fetched => "file",
        FileKind::Document => "data",
    };
    let origin = file.origin.as_deref().unwrap_or("");
    let line = format!(
        "{}  {:>10}  {kind:>5}  {origin}",
        &file.digest.hex[..12],
        bytes(file.allocated),
    );
    format!("{}\n", line.trim_end())
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
