//! `imgbuild image … --target NAME`: base images on a target.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::super::recipes::{Online, Selection};
use super::super::run::clean_up;
use super::super::{Global, gc, several, target};
use crate::backend::proxmox::{self, Brought, Everywhere, Proxmox, StoredImage};
use crate::error::{Error, Result};
use crate::plan::{Facts, Plan};
use crate::recipe::Recipe;
use crate::run::events::Observer;
use crate::run::{Interrupt, Run};
use crate::source;
use crate::ui::{self, Screen, bytes};

/// Brings the base images of recipes to a target, one after the other.
pub async fn pull(
    name: &str,
    paths: &[PathBuf],
    selection: &Selection,
    online: &Online<'_>,
    global: &Global,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    let server = interrupt.or(target::on_one_node(name, screen)).await?;
    gc::reap_first(online.dirs, screen, interrupt).await?;
    let observer = ui::observer(global.format(), global.verbose > 0);
    let mut errors = vec![];
    let mut wanted = 0;
    for path in paths {
        for recipe in interrupt.or(selection.load(path, online)).await? {
            // An image that is built is not pulled, nor what is there already.
            if recipe.base.is_built_or_there() {
                continue;
            }
            wanted += 1;
            let pulled = one(
                &recipe,
                &server,
                online,
                observer.clone(),
                screen,
                interrupt,
            );
            if let Err(error) = pulled.await {
                if interrupt.is_set() {
                    return Err(error.told());
                }
                errors.push(error);
            }
        }
    }
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0).told()),
        n => Err(several(&format!("{n} of {wanted} images"), &errors).told()),
    }
}

/// Brings one image. What it made on the way is removed, however it ends. What is wrong has been told.
async fn one(
    recipe: &Recipe,
    server: &Proxmox,
    online: &Online<'_>,
    observer: Arc<dyn Observer>,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    let plan = Plan::new(recipe, &Facts::default());
    let tell = |error: &Error| screen.error(Some(&plan.name), error);
    let run = Run::start(&plan.name, online.dirs, interrupt, observer).inspect_err(tell)?;
    server.mask_login(&run.events);
    let brought = bring(&plan, server, online, &run).await;
    let brought = brought.map_err(|error| run.events.without_secrets(error));
    // The cause first: cleaning up may take its time.
    if let Err(error) = &brought {
        tell(error);
        run.events.log_only(&error.to_string());
    }
    let cleaned = clean_up(&run).await.inspect_err(tell);
    let brought = brought?;
    cleaned?;
    let Brought { image, how } = brought;
    let text = format!("{}  {}\n", image.digest, image.volume);
    let value = json!({
        "event": "result", "target": server.target.name, "digest": image.digest, "volume": image.volume,
        "size": image.size, "how": how,
    });
    screen.result(&text, &value);
    Ok(())
}

async fn bring(plan: &Plan, server: &Proxmox, online: &Online<'_>, run: &Run) -> Result<Brought> {
    let cx = source::Context {
        events: &run.events,
        ..online.context()?
    };
    let resolving = source::resolve(&plan.source, &cx);
    let resolved = run.phase("resolve", resolving).await?;
    let identified = proxmox::identify(&resolved, &cx, run).await?;
    proxmox::import(server, &resolved, identified, &cx, run).await
}

/// Lists the base images on a target.
pub async fn list(name: &str, screen: Screen) -> Result<()> {
    let mut text = String::new();
    let mut all = vec![];
    let everywhere = target::on_all_nodes(name, screen).await?;
    for server in with_images(&everywhere).await? {
        for image in images(server).await? {
            let StoredImage {
                digest,
                size,
                volume,
            } = &image;
            let node = &server.target.node;
            let on = match server.target.is_auto {
                true => format!("  on {node}"),
                false => String::new(),
            };
            text.push_str(&format!("{digest}  {:>10}  {volume}{on}\n", bytes(*size)));
            all.push(json!({"volume": volume, "digest": digest, "size": size, "node": node}));
        }
    }
    if text.is_empty() {
        text = format!("no base images on {name}\n");
    }
    let value = json!({"event": "result", "target": name, "images": all});
    screen.result(&text, &value);
    Ok(())
}

/// The nodes on which images are to be looked for.
async fn with_images(everywhere: &Everywhere) -> Result<Vec<&Proxmox>> {
    let seeing = everywhere.seeing(|target| Some(&target.import)).await;
    seeing.map_err(|failure| failure.during(format!("listing the images on {}", everywhere.name)))
}

async fn images(server: &Proxmox) -> Result<Vec<StoredImage>> {
    let name = &server.target.name;
    let images = server.images().await;
    images.map_err(|failure| failure.during(format!("listing the images on {name}")))
}

/// Removes a base image from a target, from each of its nodes.
pub async fn remove(name: &str, digest: &str, screen: Screen) -> Result<()> {
    let everywhere = target::on_all_nodes(name, screen).await?;
    let servers = with_images(&everywhere).await?;
    let (image, servers) = proxmox::image_of(&servers, digest).await?;
    for server in servers {
        server.remove_image(&image).await?;
    }
    let text = format!("removed {} ({})\n", image.volume, bytes(image.size));
    let value = json!({"event": "result", "target": name, "removed": image});
    screen.result(&text, &value);
    Ok(())
}
