//! `imgbuild plan --target`: what a build on a server would do. The server is only asked.

use super::Outlook;
use crate::backend::proxmox::{Proxmox, StoredImage, Wish};
use crate::cli::recipes::Online;
use crate::cli::{secrets, template};
use crate::error::{Kind, Result};
use crate::pipeline::node::{self, SourceTemplate};
use crate::pipeline::{self, Caching};
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
    let target = &server.target.name;
    let survey = server.survey().await;
    let survey = survey.map_err(|failure| failure.during(format!("looking at {target}")))?;
    let template = template(server, plan, resolved, online).await?;
    let digest = match &template {
        Some(template) => Some(template.basis.digest.clone()),
        None => digest(plan, resolved, online).await?,
    };
    let keys = match &digest {
        Some(digest) => Some(keys(plan, digest, online).await?),
        None => None,
    };
    let wish = Wish {
        nodes: match &template {
            Some(template) => Some(template.nodes(server).await?),
            None => None,
        },
        ..node::wish(plan, &Caching::Use, keys.as_ref())
    };
    let events = online.context()?.events;
    let chosen = server.chosen(&wish, |text| events.note(text)).await?;
    let (base, has_base) = match &template {
        Some(template) => (Some(template.volume(&chosen).await?.volume), true),
        None => image(&chosen, digest.as_ref()).await?,
    };
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
        has_base,
        base,
        version,
        drift: drift.unwrap_or_default(),
    };
    Ok((outlook, there))
}

/// The template that the build begins from; none for an image, or for one that is not built yet.
async fn template(
    server: &Proxmox,
    plan: &Plan,
    resolved: &Resolved,
    online: &Online<'_>,
) -> Result<Option<SourceTemplate>> {
    let is_built = matches!(plan.source, Spec::Built { .. });
    if is_built && resolved.expected.is_none() {
        return Ok(None);
    }
    let found = SourceTemplate::find(server, &plan.source, resolved, online.dirs).await?;
    let template = match found {
        Some(template) if is_built => template,
        found => return Ok(found),
    };
    match template.nodes(server).await {
        Ok(_) => Ok(Some(template)),
        // One that is gone is built again first.
        Err(error) if error.get_kind() == Kind::Conflict => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the image of this digest is called on the build's node, if that is known, and whether it is there.
async fn image(chosen: &Proxmox, digest: Option<&Digest>) -> Result<(Option<String>, bool)> {
    let images = chosen.images().await;
    let images =
        images.map_err(|failure| failure.during(format!("looking at {}", chosen.target.name)))?;
    let base = digest.map(|digest| chosen.volume_of(digest));
    let is_it = |image: &StoredImage| Some(&image.volume) == base.as_ref();
    let is_there = images.iter().any(is_it);
    Ok((base, is_there))
}

/// What the base image is known by; none if it has to be fetched or built for that.
async fn digest(plan: &Plan, resolved: &Resolved, online: &Online<'_>) -> Result<Option<Digest>> {
    // Asking nix means building.
    if matches!(plan.source, Spec::Nixos { .. } | Spec::Built { .. }) {
        return Ok(None);
    }
    if resolved.expected.is_some() {
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
