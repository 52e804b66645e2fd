//! Builds on a Proxmox VE node: the image becomes a template there, and only what is said of it is here.

mod boot;
mod label;
mod layers;
mod look;
mod phases;
mod source;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::bench::{Bench, output_lock};
use super::{Artifact, Beginning, Caching, Options, build_image, own_keys, remember, reserve};
use crate::backend::proxmox::machine::{Copy, Template};
use crate::backend::proxmox::{Cluster, Proxmox, StoredImage, Wish};
use crate::error::{Error, Kind, Result};
use crate::plan::{Base, Keys, Plan};
use crate::record::TemplateFile;
use crate::run::Run;
use crate::source::{Digest, Spec};
use crate::ssh::Login;
use crate::store::registry::on_target;
use layers::Layers;
pub use layers::{Layer, deepest};
use source::Source;
pub use source::Template as SourceTemplate;

/// Builds what the plan says.
pub(super) async fn build(
    cluster: &Cluster,
    plan: &Plan,
    options: &Options<'_>,
    run: &Run,
    login: &mut Option<Login>,
) -> Result<Artifact> {
    let _output = output_lock(plan, run)?;
    let started = jiff::Timestamp::now();
    let source = Source::find(cluster.server(), plan, options.source, run).await?;
    let basis = source.basis.clone();
    let of_base = base(plan, &basis.digest);
    let keys = own_keys(plan, &of_base, options, run)?;
    let is_there = async |artifact: &Artifact| match &artifact.template {
        Some(template) => {
            let server = cluster.server();
            run.unless_interrupted(is_there(server, template)).await
        }
        None => Ok(false),
    };
    let reserved = reserve((plan, &keys), &basis, options, run, is_there).await?;
    let (registry, version) = match reserved {
        Beginning::UpToDate(artifact) => {
            copy(cluster.server(), plan, &artifact, run).await?;
            return Ok(artifact);
        }
        Beginning::Version(registry, version) => (registry, version),
    };
    let bench = Bench::prepare(plan, options, run, started, (registry, version)).await?;
    let wish = Wish {
        nodes: run
            .unless_interrupted(source.nodes(cluster.server()))
            .await?,
        ..wish(plan, options.caching, Some(&keys))
    };
    let tell = |text: &str| run.events.note(text);
    let seat = run.phase("node", cluster.seat(&wish, tell)).await?;
    let server = &seat.server;
    // Before anything is made that a node which cannot have a copy would undo.
    let others = run
        .unless_interrupted(server.for_replicas(&wish, tell))
        .await?;
    let image = source.bring(server, options.source, run).await?;
    let mut node = Node {
        server,
        others: &others,
        replicas: RefCell::default(),
        bench: &bench,
        image,
        layers: Layers::new(server, &bench, &keys),
        machines: Cell::new(0),
        boot: Duration::ZERO,
        expires: None,
    };
    let done = build_image(&mut node, &bench, &basis, login).await?;
    node.layers.evict().await;
    remember(run, &keys, &done);
    copy(server, plan, &done.artifact, run).await?;
    Ok(done.artifact)
}

/// What a build wants of a node, wherever it begins from; its layers only if their keys are known.
pub fn wish(plan: &Plan, caching: &Caching, keys: Option<&Keys>) -> Wish {
    let layers = keys.map(|keys| layers::tags(plan, caching, keys));
    Wish {
        layers: layers.unwrap_or_default(),
        memory: plan.machine.memory,
        images: plan.proxmox.hardware.storage.clone(),
        bridge: plan.proxmox.hardware.bridge.clone(),
        extras: Some(plan.proxmox.hardware.template.clone()),
        nodes: None,
    }
}

/// Puts a copy of a version under the id that the recipe keeps for that, unless it is there.
async fn copy(server: &Proxmox, plan: &Plan, artifact: &Artifact, run: &Run) -> Result<()> {
    let (Some(vmid), Some(template)) = (plan.proxmox.vmid, &artifact.template) else {
        return Ok(());
    };
    // The copy is where the version is.
    let server = &server.on(&template.node);
    if run
        .unless_interrupted(server.has_copy(vmid, &template.name))
        .await?
    {
        return Ok(());
    }
    let copy = Copy {
        vmid,
        image: &plan.name,
        source: template.vmid,
        tags: label::tags(
            plan,
            &template.build,
            artifact.version,
            artifact.label.as_deref(),
        ),
        hardware: &plan.proxmox.hardware,
    };
    run.unless_interrupted(server.replace_copy(&copy, &run.id, run))
        .await
}

/// What keys of layers depend on besides the plan.
pub fn base(plan: &Plan, digest: &Digest) -> Base {
    Base {
        digest: digest.hex.clone(),
        // That of the image, where the recipe says none.
        disk: plan.disk.as_ref().map_or(0, |(size, _)| *size),
    }
}

/// Refuses what cannot be built on a target.
pub(super) fn refuse(plan: &Plan, target: &str) -> Result<()> {
    let error = Error::new(format!("building {} on {target}", plan.name)).kind(Kind::Usage);
    if plan.import {
        return Err(error
            .cause("its image is taken as it is, without a machine")
            .hint("`imgbuild image pull --target` brings an image to a target as it is"));
    }
    let Spec::Version { reference } = &plan.source else {
        return Ok(());
    };
    match on_target(&reference.image) {
        Some((other, _)) if other != target => Err(error
            .cause(format!("{reference} is on the target {other}"))
            .hint(format!(
                "build on {other} with --target {other}, or name an image that was built on {target}"
            ))
            .faults(plan.fault(&plan.source_span, format!("not on {target}")))),
        _ => Ok(()),
    }
}

/// Whether a template that was made is still what it was, and where it was, with all its copies.
pub async fn is_there(server: &Proxmox, template: &TemplateFile) -> Result<bool> {
    let doing = || format!("looking for the template {}", template.name);
    if server.difference(template).is_some() {
        return Ok(false);
    }
    for place in template.places() {
        let config = server.on(place.node).machine_config(place.vmid).await;
        let config = config.map_err(|failure| failure.during(doing()))?;
        let same = config.is_some_and(|it| it.is_template() && it.is_of(&template.build));
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One build on a node.
struct Node<'b> {
    server: &'b Proxmox,
    /// The same on the nodes that the template is copied to.
    others: &'b [Proxmox],
    /// Its copies there, which the journal has.
    replicas: RefCell<Vec<Template<'b>>>,
    bench: &'b Bench<'b>,
    image: StoredImage,
    layers: Layers<'b>,
    /// How many machines were made.
    machines: Cell<u32>,
    /// How long it took to have the last guest.
    boot: Duration,
    expires: Option<jiff::Timestamp>,
}
