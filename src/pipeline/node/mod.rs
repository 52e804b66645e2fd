//! Builds on a Proxmox VE node: the image becomes a template there, and only what is said of it is here.

mod boot;
mod label;
mod layers;

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use futures_util::future::try_join;
use sha2::{Digest, Sha256};

use super::bench::{Bench, Made, Role, output_lock};
use super::inventory::inventory;
use super::place::{self, Begun, Judged, Place, Sealing};
use super::{
    Artifact, Beginning, Caching, Options, SshGuest, attest, build_image, judged, own_keys,
    remember, reserve,
};
use crate::backend::proxmox::machine::{Copy, Label, Machine, Origin, Template};
use crate::backend::proxmox::{self, Cluster, Proxmox, REPLICA, StoredImage, Wish};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Base, Keys, Plan, Step};
use crate::provenance::sbom::Inventory;
use crate::record::{Replica, TemplateFile, Tools};
use crate::run::Run;
use crate::seal;
use crate::source::{self, Spec};
use crate::ssh::Login;
use crate::text::hex;
use layers::Layers;
pub use layers::{Layer, deepest};

/// Builds what the plan says.
pub(super) async fn build(
    cluster: &Cluster,
    plan: &Plan,
    options: &Options<'_>,
    run: &Run,
    login: &mut Option<Login>,
) -> Result<Artifact> {
    refuse(plan)?;
    let _output = output_lock(plan, run)?;
    let started = jiff::Timestamp::now();
    let resolving = source::resolve(&plan.source, options.source);
    let resolved = run.phase("resolve", resolving).await?;
    let identified = proxmox::identify(&resolved, options.source, run).await?;
    let basis = identified.basis.clone();
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
    let wish = wish(plan, options.caching, Some(&keys));
    let tell = |text: &str| run.events.note(text);
    let seat = run.phase("node", cluster.seat(&wish, tell)).await?;
    let server = &seat.server;
    // Before anything is made that a node which cannot have a copy would undo.
    let others = run
        .unless_interrupted(server.for_replicas(&wish, tell))
        .await?;
    let brought = proxmox::import(server, &resolved, identified, options.source, run).await?;
    let mut node = Node {
        server,
        others: &others,
        replicas: RefCell::default(),
        bench: &bench,
        image: brought.image,
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

/// What a build wants of a node; its layers only if their keys are known.
pub fn wish(plan: &Plan, caching: &Caching, keys: Option<&Keys>) -> Wish {
    let layers = keys.map(|keys| layers::tags(plan, caching, keys));
    Wish {
        layers: layers.unwrap_or_default(),
        memory: plan.machine.memory,
        images: plan.proxmox.hardware.storage.clone(),
        bridge: plan.proxmox.hardware.bridge.clone(),
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
pub fn base(plan: &Plan, digest: &source::Digest) -> Base {
    Base {
        digest: digest.hex.clone(),
        // That of the image, where the recipe says none.
        disk: plan.disk.as_ref().map_or(0, |(size, _)| *size),
    }
}

/// Refuses what cannot be built on a target.
pub fn refuse(plan: &Plan) -> Result<()> {
    let error = Error::new(format!("building {} on a target", plan.name)).kind(Kind::Usage);
    if plan.import {
        return Err(error
            .cause("its image is taken as it is, without a machine")
            .hint("`imgbuild image pull --target` brings an image to a target as it is"));
    }
    match plan.source {
        Spec::Built { .. } | Spec::Version { .. } => Err(error
            .cause("it is built on an image of yours that is on this machine, not on the target")
            .hint("put the steps of both into one recipe: layers keep what did not change")),
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

/// A machine that is worked in.
struct Working<'b> {
    machine: Machine<'b>,
    /// Whether its disk is an overlay on a layer's.
    is_on_layer: bool,
}

impl place::Machine for Working<'_> {
    async fn during<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        work.await
    }
}

impl<'b> Node<'b> {
    /// Powers a machine off, and takes its seed away.
    async fn power_off(&self, machine: &mut Machine<'b>) -> Result<()> {
        let (run, patience) = (self.bench.run, self.bench.plan.boot_timeout);
        let off = run.phase("power off", machine.power_off(patience));
        if off.await? {
            run.events
                .warn("the guest did not power off when asked and was stopped by force");
        }
        run.phase("remove seed", machine.drop_seed()).await
    }
}

/// A sealed template, which the journal has.
struct Sealed<'b> {
    template: Template<'b>,
}

impl<'b> Place<'b> for Node<'b> {
    type Machine = Working<'b>;
    type Sealed = Sealed<'b>;

    async fn begin(&mut self, login: &mut Option<Login>) -> Result<Begun<'b, Working<'b>>> {
        let began = Instant::now();
        let run = self.bench.run;
        let layer = run.phase("look for layers", self.layers.deepest()).await?;
        let origin = match &layer {
            Some(layer) => {
                run.events.note(format!("going on after `{}`", layer.name));
                Origin::Layer(layer.vmid)
            }
            None => Origin::Image(&self.image),
        };
        let (machine, mut guest, identity) = self.boot(Role::Build, origin, login).await?;
        self.boot = began.elapsed();
        let is_on_layer = layer.is_some();
        let mut steps = 0;
        if let Some(layer) = layer {
            guest.recorded = layer.recorded;
            steps = layer.steps;
            self.expires = layer.expires;
        }
        Ok(Begun {
            machine: Working {
                machine,
                is_on_layer,
            },
            guest,
            identity,
            steps,
        })
    }

    async fn keep(
        &mut self,
        steps: usize,
        took: Duration,
        begun: &mut Begun<'b, Working<'b>>,
        login: &mut Option<Login>,
    ) -> Result<()> {
        self.expires = self
            .layers
            .expiry(steps)
            .into_iter()
            .chain(self.expires)
            .min();
        if !self.layers.is_wanted(steps, took, self.boot) {
            return Ok(());
        }
        let began = Instant::now();
        begun.guest.sync().await?;
        let label = self
            .layers
            .label(steps, &begun.guest.recorded, self.expires)?;
        let Some(label) = label else {
            return Ok(());
        };
        // This machine becomes the layer, and another one goes on.
        let machine = &mut begun.machine.machine;
        self.power_off(machine).await?;
        let make = machine.make_layer(&label);
        let vmid = self.bench.run.phase("make layer", make).await?;
        let origin = Origin::Layer(vmid);
        let recorded = std::mem::take(&mut begun.guest.recorded);
        let (machine, mut guest, identity) = self.boot(Role::Build, origin, login).await?;
        guest.recorded = recorded;
        begun.machine = Working {
            machine,
            is_on_layer: true,
        };
        begun.guest = guest;
        begun.identity = identity;
        self.boot = began.elapsed();
        Ok(())
    }

    fn not_as_planned(&mut self, step: &Step) -> Result<()> {
        self.bench.run.events.warn(format!(
            "no more layers are made in this build: step `{}` uploads what was made anew by a `local` step",
            step.name
        ));
        self.layers.stop();
        Ok(())
    }

    async fn seal_off(&mut self, working: Working<'b>) -> Result<Sealed<'b>> {
        let (bench, run) = (self.bench, self.bench.run);
        let hardware = &bench.plan.proxmox.hardware;
        let mut machine = working.machine;
        self.power_off(&mut machine).await?;
        if working.is_on_layer {
            // Layers come and go; an image stays.
            run.phase("copy disk", machine.stand_alone(hardware))
                .await?;
        }
        let convert = machine.into_template(hardware, bench.final_path());
        let template = run.phase("make template", convert).await?;
        Ok(Sealed { template })
    }

    async fn judge(
        &self,
        sealed: &Sealed<'b>,
        sealing: &Sealing,
        tested: impl Future<Output = Result<()>>,
    ) -> Result<Judged> {
        let look = self.look(sealed, sealing);
        // Two machines that have one address by the recipe cannot be there at the same time.
        let (audit, inventory, disk) = match boot::known(self.bench.plan).is_empty() {
            true => try_join(look, tested).await?.0,
            false => {
                let found = look.await?;
                tested.await?;
                found
            }
        };
        self.replicate(sealed).await?;
        let template = self.described(sealed, disk);
        let made = self.write(&template)?;
        Ok(Judged {
            audit,
            inventory,
            made,
            disk: Some((template.name, template.disk)),
        })
    }

    async fn boot_clone(
        &self,
        sealed: &Sealed<'b>,
        login: &mut Option<Login>,
    ) -> Result<(Working<'b>, SshGuest<'b>)> {
        let origin = Origin::Template(sealed.template.vmid);
        let (machine, guest, _) = self.boot(Role::Test, origin, login).await?;
        let machine = Working {
            machine,
            is_on_layer: true,
        };
        Ok((machine, guest))
    }

    async fn destroy(&self, working: Working<'b>) -> Result<()> {
        working.machine.remove().await
    }

    async fn tools(&self) -> Result<Tools> {
        let version = self.server.version().await;
        let version = version.map_err(|failure| failure.during("asking for the server's version"));
        Ok(Tools::of_server(version?))
    }

    async fn publish(
        &self,
        sealed: Sealed<'b>,
        made: &Made,
        beside: attest::Beside,
    ) -> Result<Artifact> {
        let template = TemplateFile::read(&self.bench.unfinished_path())?;
        let label = label::label(self.bench, &template, &self.image, &beside);
        let replicas = self.replicas.take();
        let of_replicas = Label {
            tags: label
                .tags
                .iter()
                .cloned()
                .chain([REPLICA.to_owned()])
                .collect(),
            ..label.clone()
        };
        for replica in &replicas {
            replica.label(&of_replicas).await?;
        }
        sealed.template.label(&label).await?;
        let artifact = self.bench.publish(made, beside)?;
        for template in replicas.into_iter().chain([sealed.template]) {
            template.released()?;
        }
        Ok(Artifact {
            template: Some(template),
            ..artifact
        })
    }

    fn expires(&self) -> Option<jiff::Timestamp> {
        self.expires
    }
}

/// The content of a sealed disk, as a guest sees it.
struct Disk {
    sha256: String,
    /// Bytes.
    size: u64,
}

impl<'b> Node<'b> {
    /// Has a look at the sealed disk, in a helper guest: the system on it has no say in that.
    async fn look(
        &self,
        sealed: &Sealed<'b>,
        sealing: &Sealing,
    ) -> Result<(seal::Report, Inventory, Disk)> {
        let (run, plan) = (self.bench.run, self.bench.plan);
        let helper = self.helper(sealed.template.vmid).await?;
        let reading = helper.read(async |disk| {
            let audit = async {
                let report = seal::audit(disk, &sealing.plan, &sealing.evidence).await?;
                judged(report, &run.events)
            };
            let list = async { Ok(inventory(disk, plan).await) };
            try_join(run.phase("audit", audit), run.phase("sbom", list)).await
        });
        let digest = run.phase("digest", helper.sha256());
        let ((audit, inventory), sha256) = try_join(reading, digest).await?;
        let size = helper.size();
        run.phase("remove helper", helper.remove()).await?;
        Ok((audit, inventory, Disk { sha256, size }))
    }

    /// Copies the template to the other nodes that want it.
    async fn replicate(&self, sealed: &Sealed<'b>) -> Result<()> {
        for server in self.others {
            let phase = format!("copy to {}", server.target.node);
            let copying = sealed
                .template
                .copy_to(server, &self.bench.plan.proxmox.hardware);
            let copy = self.bench.run.phase(&phase, copying).await?;
            self.replicas.borrow_mut().push(copy);
        }
        Ok(())
    }

    /// What is said of the template where it is not.
    fn described(&self, sealed: &Sealed<'b>, disk: Disk) -> TemplateFile {
        let (target, plan) = (&self.server.target, self.bench.plan);
        let storage = plan.proxmox.hardware.storage.as_ref();
        let storage = storage.or(target.images.as_ref());
        let replicas = self.replicas.borrow();
        let replicas = replicas.iter().map(|copy| Replica {
            node: copy.node().to_owned(),
            vmid: copy.vmid,
        });
        TemplateFile {
            schema: TemplateFile::SCHEMA,
            target: target.name.clone(),
            endpoint: target.endpoint.to_string(),
            node: target.node.clone(),
            storage: storage.cloned().unwrap_or_default(),
            vmid: sealed.template.vmid,
            name: format!("{}-{}", plan.name, self.bench.version.number),
            build: self.bench.run.id.clone(),
            disk: disk.sha256,
            size: disk.size,
            replicas: replicas.collect(),
        }
    }

    /// Writes the file that stands for the template, under another name than it will have.
    fn write(&self, template: &TemplateFile) -> Result<Made> {
        let resource = self.bench.run.guard(self.bench.unfinished_image())?;
        let path = self.bench.unfinished_path();
        let doing = || format!("writing {}", path.display());
        let content = crate::provenance::json(template)?;
        let mut file = std::fs::File::create(&path).doing(doing)?;
        std::io::Write::write_all(&mut file, &content).doing(doing)?;
        file.sync_all().doing(doing)?;
        Ok(Made {
            resource,
            sha256: hex(&Sha256::digest(&content)),
            size: content.len() as u64,
        })
    }
}
