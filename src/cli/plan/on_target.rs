//! `imgbuild plan --target`: what a build on a server would do. The server is only asked.

use super::Outlook;
use crate::backend::proxmox::Proxmox;
use crate::cli::recipes::Online;
use crate::cli::{secrets, template};
use crate::error::Result;
use crate::pipeline::{self, Caching, node};
use crate::plan::{self, Keys, OnTarget, Plan};
use crate::source::{self, Digest, Resolved, Spec};
use crate::store::{KeyedHash, Registry};

/// What the server has of a build, and the outlook; none as long as the base image's digest is not known. The node that is
/// looked at is the one that the build would go to.
pub async fn look(
    server: &Proxmox,
    plan: &Plan,
    resolved: &Resolved,
    online: &Online<'_>,
) -> Result<(Option<Outlook>, OnTarget)> {
    node::refuse(plan)?;
    let target = &server.target.name;
    let doing = || format!("looking at {target}");
    let survey = server.survey().await;
    let survey = survey.map_err(|failure| failure.during(doing()))?;
    let digest = digest(plan, resolved, online).await?;
    let keys = match &digest {
        Some(digest) => Some(keys(plan, digest, online).await?),
        None => None,
    };
    let wish = node::wish(plan, &Caching::Use, keys.as_ref());
    let events = online.context()?.events;
    let chosen = server.chosen(&wish, |text| events.note(text)).await?;
    let images = chosen.images().await;
    let images = images.map_err(|failure| failure.during(doing()))?;
    let base = digest.as_ref().map(|digest| chosen.volume_of(digest));
    let registry = Registry::open_existing(online.dirs)?;
    let newest = match &registry {
        Some(registry) => {
            template::server::newest(server, registry, &plan.registered(), &survey).await?
        }
        None => None,
    };
    let (version, drift) = newest.unzip();
    let outlook = match &keys {
        Some(keys) => Some(outlook(&chosen, (plan, keys), registry.as_ref(), online).await?),
        None => None,
    };
    let there = OnTarget {
        name: target.clone(),
        node: server.target.is_auto.then(|| chosen.target.node.clone()),
        has_base: images
            .iter()
            .any(|image| Some(&image.volume) == base.as_ref()),
        base,
        version,
        drift: drift.unwrap_or_default(),
    };
    Ok((outlook, there))
}

/// What the base image is known by; none if it has to be fetched for that.
async fn digest(plan: &Plan, resolved: &Resolved, online: &Online<'_>) -> Result<Option<Digest>> {
    // Asking nix means building.
    if resolved.expected.is_some() || matches!(plan.source, Spec::Nixos { .. }) {
        return Ok(resolved.expected.clone());
    }
    let cx = source::Context {
        offline: true,
        ..online.context()?
    };
    let image = source::fetch(resolved, &cx).await.ok();
    Ok(image.map(|image| image.basis().digest))
}

/// The keys of the layers that the build makes.
async fn keys(plan: &Plan, digest: &Digest, online: &Online<'_>) -> Result<Keys> {
    let secrets = secrets::at_hand(plan, online.context()?.events).await;
    let hash = KeyedHash::open(online.dirs)?;
    let of_base = node::base(plan, digest);
    Ok(pipeline::keys(
        plan,
        &of_base,
        &secrets,
        hash.as_ref(),
        true,
    ))
}

async fn outlook(
    server: &Proxmox,
    (plan, keys): (&Plan, &Keys),
    registry: Option<&Registry>,
    online: &Online<'_>,
) -> Result<Outlook> {
    let built = match registry {
        Some(registry) => pipeline::up_to_date(plan, keys, online.dirs, registry)?,
        None => None,
    };
    let up_to_date = match built.and_then(|built| built.template) {
        Some(template) => node::is_there(server, &template).await?,
        None => false,
    };
    let layer = node::deepest(server, plan, keys, usize::MAX).await?;
    let layer = layer.map(|layer| (layer.vmid, layer.steps));
    Ok((up_to_date, plan::states_after(plan, keys, layer)))
}
