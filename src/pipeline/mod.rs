//! The build, in order.

mod attest;
mod begin;
mod choice;
mod definition;
mod import;
mod inventory;
mod public;
mod repository;
mod stack;
mod uploads;
mod version;
mod workbench;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Instant;

use secrecy::ExposeSecret;

use crate::backend::Backing;
use crate::backend::qemu::{Machine, image, memory_key};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Keys, Plan, Step};
use crate::provision::{Guest, Secrets};
use crate::record;
use crate::run::Run;
use crate::seal::{self, Evidence};
use crate::seed::{self, Identity};
use crate::signing::Signing;
use crate::source::{self, BaseImage, Format};
use crate::ssh::{self, Login};
use crate::store::{self, KeyedHash, Registry, outputs};
use begin::begin;
use stack::{Setting, Stack};
use uploads::Uploads;
pub use version::up_to_date;
use workbench::{Workbench, output_lock};

/// What a build is given besides its plan.
pub struct Options<'o> {
    /// For base images and for what steps fetch.
    pub source: &'o source::Context<'o>,
    pub secrets: &'o Secrets,
    /// Whether breakpoints stop the build.
    pub breakpoints: bool,
    pub caching: &'o Caching,
    pub signing: &'o Signing,
    /// Let machines live on when the build fails, for somebody to look at.
    pub keep_machines: bool,
}

/// What a build does with layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caching {
    /// Takes over what is unchanged, and keeps what is done.
    Use,
    /// Takes over at most so many steps, and keeps what is done.
    From(usize),
    /// Takes nothing over, and keeps what is done.
    Renew,
    /// Neither.
    Off,
}

/// A finished image under its final name.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Artifact {
    /// The number of its version.
    pub version: u32,
    /// What that is called besides.
    pub label: Option<String>,
    pub path: PathBuf,
    /// The link that points to it.
    pub link: PathBuf,
    /// Bytes of the file.
    pub size: u64,
    pub sha256: String,
    /// The build record beside it.
    pub record: PathBuf,
    /// The signed statement beside it, in clear.
    pub provenance: PathBuf,
    /// It was there already, and nothing was done.
    #[serde(rename = "up-to-date")]
    pub up_to_date: bool,
}

/// A build that failed.
pub struct Failure {
    pub error: Error,
    /// How to log in to the machine that was running, if one was.
    pub login: Option<Login>,
}

/// Builds what the plan says.
pub async fn build(plan: &Plan, options: &Options<'_>, run: &Run) -> Result<Artifact, Failure> {
    let mut login = None;
    let done = phases(plan, options, run, &mut login).await;
    done.map_err(|error| Failure { error, login })
}

async fn phases(
    plan: &Plan,
    options: &Options<'_>,
    run: &Run,
    login: &mut Option<Login>,
) -> Result<Artifact> {
    let _output = output_lock(plan, run)?;
    let started = jiff::Timestamp::now();
    let base = run.phase("source", base_image(plan, options)).await?;
    let hash = match options.secrets.is_empty() {
        true => None,
        false => Some(KeyedHash::open_or_create(&run.dirs)?),
    };
    let (secrets, stops) = (options.secrets, options.breakpoints);
    let keys = keys(plan, &base, secrets, hash.as_ref(), stops)?;
    let mut registry = Registry::open(&run.dirs)?;
    registry.refuse_revoked(&base.path, &base.sha256)?;
    if *options.caching == Caching::Use
        && let Some(artifact) = up_to_date(plan, &keys, &run.dirs, &registry)?
    {
        return Ok(artifact);
    }
    // A build that fails must not leave the older image as what is wanted.
    outputs::forget(&run.dirs, &plan.output.path)?;
    space(plan, &base, run)?;
    let version = version::reserve(plan, &base, run, &mut registry)?;
    let registry = RefCell::new(registry);
    let bench = Workbench::prepare(plan, options, run, started, (registry, version)).await?;
    let done = match plan.import {
        true => Done {
            artifact: import::image(&bench, &base).await?,
            expires: None,
            as_planned: true,
        },
        false => on_layers(&bench, &keys, &base, login).await?,
    };
    let artifact = done.artifact;
    if let Some(key) = keys.image.filter(|_| done.as_planned) {
        let facts = outputs::Facts {
            key,
            build: run.id.clone(),
            expires: done.expires,
            sha256: artifact.sha256.clone(),
            size: artifact.size,
        };
        let built = outputs::Built::new(facts, &artifact.path, &artifact.record);
        let remembered =
            built.and_then(|built| outputs::remember(&run.dirs, &artifact.link, &built));
        if let Err(error) = remembered {
            run.events.warn(error.to_string());
        }
    }
    Ok(artifact)
}

/// A build that came to its end.
struct Done {
    artifact: Artifact,
    /// When it should be built again by itself.
    expires: Option<jiff::Timestamp>,
    /// Whether everything was what it was when the plan was made.
    as_planned: bool,
}

/// Builds with the layers that are there, and leaves layers behind, however it ends.
async fn on_layers(
    bench: &Workbench<'_>,
    keys: &Keys,
    base: &BaseImage,
    login: &mut Option<Login>,
) -> Result<Done> {
    let (plan, run) = (bench.plan, bench.run);
    let backing = backing(plan, base)?;
    let mut stack = Stack::new(Setting {
        plan,
        run,
        keys,
        caching: bench.options.caching,
        base: &base.path,
        size: backing.size,
        memory_key: memory_key(&plan.machine, bench.accel).await?,
    });
    let done = build_image(bench, &mut stack, base, &backing, login).await;
    if interrupted(&done) {
        return done;
    }
    if let Err(error) = run.phase("layers", stack.finish()).await {
        run.events.warn(format!("layers: {error}"));
    }
    done
}

async fn build_image<'b>(
    bench: &Workbench<'b>,
    stack: &mut Stack<'b>,
    base: &BaseImage,
    backing: &Backing,
    login: &mut Option<Login>,
) -> Result<Done> {
    let (plan, run) = (bench.plan, bench.run);
    let begun = begin(bench, stack, backing, login).await?;
    let (mut machine, mut guest, identity) = (begun.machine, begun.guest, begun.identity);
    let mut uploads = Uploads::default();
    let left = (begun.steps, &mut uploads);
    let provisioned = provision(plan, run, left, &mut machine, &mut guest, stack).await;
    let finished = (provisioned, &mut uploads);
    finish(plan, run, &mut machine, &mut guest, finished).await?;
    uploads.look_at_tests(plan)?;
    let steps = uploads.steps(plan);
    let definition = definition::of(bench, base, &steps);
    let (sealing, evidence) = sealing(plan, &identity)?;
    let seal = seal_step(&attest::release(bench, &definition)?, &sealing);
    run.phase("seal", machine.during(guest.apply(&seal)))
        .await?;
    let versions = std::mem::take(&mut guest.recorded);
    drop(guest);
    let disk = run.phase("power off", bench.power_off(machine)).await?;
    *login = None;
    run.phase("zero free blocks", bench.zero_free_blocks(&disk))
        .await?;

    let image = run.guard(bench.unfinished_image())?;
    let flatten = image::flatten((&disk, Format::Qcow2), &image, bench.target, run);
    run.phase("convert", flatten).await?;
    base.still_there()?;
    // The image is only read from here on, so its digest is taken beside what decides whether it is good.
    let digest = run.phase(
        "digest",
        record::digest(bench.unfinished_path(), &run.events),
    );
    let judge = async {
        let audit = bench.audit(&sealing, &evidence);
        let audit = run.phase("audit", audit);
        let disk = bench.unfinished_disk();
        let list = inventory::inventory(&disk, plan);
        let inventory = run.phase("sbom", async { Ok(list.await) });
        let (audit, inventory) = futures_util::future::try_join(audit, inventory).await?;
        bench.test(backing.size, &mut uploads, login).await?;
        Ok((audit, inventory))
    };
    let ((audit, inventory), sha256) = futures_util::future::try_join(judge, digest).await?;

    let results = record::Results {
        version: &bench.version,
        started: bench.started,
        base,
        accel: bench.accel,
        versions,
        audit: Some(audit),
        sha256: &sha256,
        tools: run.phase("tools", record::Tools::ask(plan)).await?,
    };
    let sign = attest::attest(bench, definition, results, &inventory);
    let beside = run.phase("sign", sign).await?;
    let publish = async { bench.publish(image, sha256, beside) };
    let artifact = run.phase("publish", publish).await?;
    Ok(Done {
        artifact,
        expires: stack.expires,
        as_planned: uploads.as_planned(),
    })
}

type SshGuest<'g> = Guest<'g, ssh::SshSession>;

/// Does the steps that are left after the first `done`.
async fn provision(
    plan: &Plan,
    run: &Run,
    (done, uploads): (usize, &mut Uploads),
    machine: &mut Machine,
    guest: &mut SshGuest<'_>,
    stack: &mut Stack<'_>,
) -> Result<()> {
    for (at, step) in plan.steps.iter().enumerate().skip(done) {
        let began = Instant::now();
        let content = uploads.before(at, step)?;
        run.phase(&step.name, machine.during(guest.apply(step)))
            .await?;
        if !uploads.after(at, step, content)? {
            stack.not_as_planned(step)?;
        }
        let keep = stack.keep(at + 1, began.elapsed(), machine, guest);
        run.unless_interrupted(keep).await?;
    }
    Ok(())
}

fn interrupted<T>(result: &Result<T>) -> bool {
    let kind = result.as_ref().err().map(Error::get_kind);
    matches!(kind, Some(Kind::Interrupted | Kind::Terminated))
}

/// What the build depends on, step by step. Without a key for them, or without their values, secrets are not known.
pub fn keys(
    plan: &Plan,
    base: &BaseImage,
    secrets: &Secrets,
    hash: Option<&KeyedHash>,
    breakpoints: bool,
) -> Result<Keys> {
    let secret = |name: &str| {
        let value = secrets.get(name)?;
        Some(hash?.of(name, value.expose_secret()))
    };
    let base = crate::plan::Base {
        sha256: base.sha256.clone(),
        disk: backing(plan, base)?.size,
    };
    Ok(Keys::new(plan, &base, secret, breakpoints))
}

/// Does the steps that come last whatever happens, but for an interruption: then the machine is about to go. What failed
/// first is what is told; what fails after that is a warning.
async fn finish(
    plan: &Plan,
    run: &Run,
    machine: &mut Machine,
    guest: &mut SshGuest<'_>,
    (mut so_far, uploads): (Result<()>, &mut Uploads),
) -> Result<()> {
    if so_far.is_err() {
        if interrupted(&so_far) || plan.finally.is_empty() {
            return so_far;
        }
        // The step that failed may have lost the connection, or have left something half-done on it.
        let again = machine.during(guest.reconnect());
        if let Err(lost) = run.phase("reconnect", again).await {
            run.events.warn(format!("after a failure: {lost}"));
            return so_far;
        }
    }
    for (at, step) in (plan.steps.len()..).zip(&plan.finally) {
        let done = async {
            let content = uploads.before(at, step)?;
            run.phase(&step.name, machine.during(guest.apply(step)))
                .await?;
            uploads.after(at, step, content).map(drop)
        };
        match (&so_far, done.await) {
            (_, Ok(())) => {}
            (Ok(()), failed) => so_far = failed,
            (Err(_), Err(second)) => run.events.warn(format!("after a failure: {second}")),
        }
    }
    so_far
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

/// What is done in the guest last, in one go: it is told which image it is, and made nobody's.
fn seal_step(release: &str, sealing: &seal::Plan) -> Step {
    let seal = seal::script(sealing);
    Step::own(
        "seal",
        format!("#!/bin/sh\nset -e\n{release}set +e\n{seal}"),
    )
}

/// What sealing removes, and what must not be found afterwards.
fn sealing(plan: &Plan, identity: &Identity) -> Result<(seal::Plan, Evidence)> {
    let body = |key: &ssh_key::PrivateKey| {
        let line = key.public_key().to_openssh();
        let line = line.doing(|| "writing an SSH key")?;
        Ok(line.split(' ').nth(1).unwrap_or_default().to_owned())
    };
    let sealing = seal::Plan {
        builder: plan.user.clone(),
        builder_uid: seed::BUILDER_UID,
        client_key: body(&identity.client_key)?,
        keep: plan.keep.clone(),
    };
    let evidence = Evidence {
        host_key: body(&identity.host_key)?,
        instance_id: identity.instance_id.clone(),
    };
    Ok((sealing, evidence))
}
