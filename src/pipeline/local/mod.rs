//! Builds on this machine: disks are overlays here, and the image is a file.

mod begin;
mod choice;
mod import;
mod stack;
mod workbench;

use std::path::Path;
use std::time::Duration;

use futures_util::future::try_join;

use super::bench::{Bench, Made, output_lock};
use super::inventory::inventory;
use super::place::{self, Begun, Judged, Place, Sealing};
use super::{
    Artifact, Beginning, Done, Options, SshGuest, attest, build_image, interrupted, own_keys,
    remember, reserve,
};
use crate::backend::Backing;
use crate::backend::qemu::{self, image, memory_key};
use crate::error::{Error, Kind, Result};
use crate::plan::{Base, Keys, Plan, Step};
use crate::provenance::statement::Reading;
use crate::record;
use crate::run::{Resource, Run};
use crate::source::{self, BaseImage, Format, Spec};
use crate::ssh::Login;
use crate::store;
use crate::store::registry::on_target;
use stack::{Setting, Stack};
use workbench::Workbench;

/// Builds what the plan says.
pub(super) async fn build(
    plan: &Plan,
    options: &Options<'_>,
    run: &Run,
    login: &mut Option<Login>,
) -> Result<Artifact> {
    let _output = output_lock(plan, run)?;
    let started = jiff::Timestamp::now();
    let image = run.phase("source", base_image(plan, options)).await?;
    let keys = own_keys(plan, &base(plan, &image)?, options, run)?;
    let basis = image.basis();
    let is_there = async |_: &Artifact| Ok(true);
    let reserved = async {
        space(plan, &image, run)?;
        reserve((plan, &keys), &basis, options, run, is_there).await
    };
    let (registry, version) = match reserved.await? {
        Beginning::UpToDate(artifact) => return Ok(artifact),
        Beginning::Version(registry, version) => (registry, version),
    };
    let bench = Bench::prepare(plan, options, run, started, (registry, version)).await?;
    let bench = &bench;
    let bench = &Workbench::prepare(bench).await?;
    let done = match plan.import {
        true => Done {
            artifact: import::image(bench, &image).await?,
            expires: None,
            as_planned: true,
        },
        false => on_layers(bench, &keys, &image, login).await?,
    };
    remember(run, &keys, &done);
    Ok(done.artifact)
}

/// Refuses what cannot be built on this machine.
pub(super) fn refuse(plan: &Plan) -> Result<()> {
    let (what, target) = match &plan.source {
        Spec::Template { template } => (format!("the template {template}"), "NAME"),
        Spec::Version { reference } => match on_target(&reference.image) {
            Some((target, _)) => (reference.to_string(), target),
            None => return Ok(()),
        },
        _ => return Ok(()),
    };
    Err(Error::new(format!("building {}", plan.name))
        .kind(Kind::Usage)
        .cause(format!("{what} is on a target, not on this machine"))
        .hint(format!("build it there: --target {target}"))
        .faults(plan.fault(&plan.source_span, "only on a target")))
}

/// Builds with the layers that are there, and leaves layers behind, however it ends.
async fn on_layers(
    bench: &Workbench<'_>,
    keys: &Keys,
    base: &BaseImage,
    login: &mut Option<Login>,
) -> Result<Done> {
    let (plan, run) = (bench.bench.plan, bench.bench.run);
    let backing = backing(plan, base)?;
    let memory_key = run.unless_interrupted(memory_key(&plan.machine, bench.accel));
    let stack = Stack::new(Setting {
        plan,
        run,
        keys,
        caching: bench.bench.options.caching,
        base: &base.path,
        size: backing.size,
        memory_key: memory_key.await?,
    });
    let mut local = Local {
        bench,
        stack,
        base,
        backing,
    };
    let done = build_image(&mut local, bench.bench, &base.basis(), login).await;
    if interrupted(&done) {
        return done;
    }
    if let Err(error) = run.phase("layers", local.stack.finish()).await {
        run.events.warn(format!("layers: {error}"));
    }
    done
}

/// This machine.
struct Local<'b> {
    bench: &'b Workbench<'b>,
    stack: Stack<'b>,
    base: &'b BaseImage,
    backing: Backing,
}

impl place::Machine for qemu::Machine {
    async fn during<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        qemu::Machine::during(self, work).await
    }
}

impl<'b> Place<'b> for Local<'b> {
    type Machine = qemu::Machine;
    /// The unfinished image, as the journal has it.
    type Sealed = Resource;

    async fn begin(&mut self, login: &mut Option<Login>) -> Result<Begun<'b, qemu::Machine>> {
        begin::begin(self.bench, &mut self.stack, &self.backing, login).await
    }

    async fn keep(
        &mut self,
        steps: usize,
        took: Duration,
        begun: &mut Begun<'b, qemu::Machine>,
        _: &mut Option<Login>,
    ) -> Result<()> {
        let (machine, guest) = (&mut begun.machine, &mut begun.guest);
        self.stack.keep(steps, took, machine, guest).await
    }

    fn not_as_planned(&mut self, step: &Step) -> Result<()> {
        self.stack.not_as_planned(step)
    }

    async fn seal_off(&mut self, machine: qemu::Machine, _: &Sealing) -> Result<Resource> {
        let (bench, run) = (self.bench, self.bench.bench.run);
        let disk = run.phase("power off", bench.power_off(machine)).await?;
        run.phase("zero free blocks", bench.zero_free_blocks(&disk))
            .await?;
        let image = run.guard(bench.bench.unfinished_image())?;
        let flatten = image::flatten((&disk, Format::Qcow2), &image, bench.target, run);
        run.phase("convert", flatten).await?;
        self.base.still_there()?;
        Ok(image)
    }

    async fn judge(
        &self,
        image: &Resource,
        sealing: &Sealing,
        tested: impl Future<Output = Result<()>>,
    ) -> Result<Judged> {
        let (bench, run) = (self.bench, self.bench.bench.run);
        let path = bench.bench.unfinished_path();
        // The image is only read from here on, so its digest is taken beside what decides whether it is good.
        let digest = run.phase("digest", record::digest(path.clone(), &run.events));
        let look = async {
            let audit = bench.audit(&sealing.plan, &sealing.evidence);
            let audit = run.phase("audit", audit);
            let disk = bench.unfinished_disk();
            let list = inventory(&disk, bench.bench.plan);
            let inventory = run.phase("sbom", async { Ok(list.await) });
            let found = try_join(audit, inventory).await?;
            tested.await?;
            Ok(found)
        };
        let ((audit, inventory), sha256) = try_join(look, digest).await?;
        let made = made(image.clone(), &path, sha256)?;
        Ok(Judged {
            audit,
            by: Reading::Host,
            inventory,
            made,
            disk: None,
        })
    }

    async fn boot_clone(
        &self,
        _: &Resource,
        login: &mut Option<Login>,
    ) -> Result<(qemu::Machine, SshGuest<'b>)> {
        let bench = self.bench;
        let size = self.backing.size;
        bench
            .boot(async || bench.boot_clone(size, login).await)
            .await
    }

    async fn destroy(&self, machine: qemu::Machine) -> Result<()> {
        let run = self.bench.bench.run;
        run.unless_interrupted(machine.destroy(run)).await
    }

    async fn tools(&self) -> Result<attest::Tools> {
        self.bench.tools().await
    }

    async fn publish(&self, _: Resource, made: &Made, beside: attest::Beside) -> Result<Artifact> {
        self.bench.bench.publish(made, beside)
    }

    fn expires(&self) -> Option<jiff::Timestamp> {
        self.stack.expires
    }
}

/// The unfinished image at `path`.
fn made(resource: Resource, path: &Path, sha256: String) -> Result<Made> {
    use crate::error::Context;
    let about = std::fs::metadata(path).doing(|| format!("reading {}", path.display()))?;
    Ok(Made {
        resource,
        sha256,
        size: about.len(),
    })
}

/// What the keys of a plan say of its base image.
pub fn base(plan: &Plan, image: &BaseImage) -> Result<Base> {
    Ok(Base {
        digest: image.sha256.clone(),
        disk: backing(plan, image)?.size,
    })
}

async fn base_image(plan: &Plan, options: &Options<'_>) -> Result<BaseImage> {
    let resolved = source::resolve(&plan.source, options.source).await?;
    source::fetch(&resolved, options.source).await
}

fn backing(plan: &Plan, base: &BaseImage) -> Result<Backing> {
    let size = match &plan.disk {
        None => base.virtual_size,
        Some((size, _)) if *size >= base.virtual_size => *size,
        Some((size, span)) => {
            let (size, least) = (
                indicatif::BinaryBytes(*size),
                indicatif::BinaryBytes(base.virtual_size),
            );
            return Err(Error::new("making the machine's disk")
                .kind(Kind::Usage)
                .cause(format!(
                    "the base image needs {least}, the recipe asks for {size}"
                ))
                .hint("a disk can grow, not shrink: raise `[machine] disk` or leave it out")
                .faults(plan.fault(span, "smaller than the base image")));
        }
    };
    Ok(Backing {
        path: base.path.clone(),
        format: base.format,
        size,
    })
}

/// How much a build usually adds to its base, at least; what it really needs nobody knows before.
const GROWTH: u64 = 1 << 30;

/// Refuses to begin what will most likely fill the disk.
fn space(plan: &Plan, base: &BaseImage, run: &Run) -> Result<()> {
    let work = (run.dirs.work(), GROWTH);
    let output = (
        plan.output
            .path
            .parent()
            .unwrap_or(&plan.output.path)
            .to_owned(),
        base.allocated + GROWTH / 2,
    );
    store::space::require(&[work, output])
}
