//! The build, in order.

mod attest;
mod bench;
mod definition;
mod inventory;
mod local;
pub mod node;
mod place;
mod public;
mod repository;
mod uploads;
mod version;

use std::path::PathBuf;
use std::time::Instant;

use secrecy::ExposeSecret;

use crate::backend::proxmox::Cluster;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Base, Keys, Plan, Step};
use crate::provision::{Guest, Secrets};
use crate::record::{self, TemplateFile};
use crate::run::{Events, Run};
use crate::seal::{self, Evidence};
use crate::seed::{self, Identity};
use crate::signing::Signing;
use crate::source::{self, Basis};
use crate::ssh::{self, Login};
use crate::store::registry::Reserved;
use crate::store::{KeyedHash, Registry, outputs};
use bench::Bench;
pub use local::base as local_base;
use place::{Begun, Judged, Machine, Place, Sealing};
use uploads::Uploads;
use version::lacks_download;
pub use version::up_to_date;

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
    /// Where it is built; on this machine if nowhere else.
    pub cluster: Option<&'o Cluster>,
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
    /// The template that it is on a target, if that is what was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateFile>,
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
    refuse(plan).map_err(|error| Failure { error, login: None })?;
    let mut login = None;
    let done = match options.cluster {
        None => local::build(plan, options, run, &mut login).await,
        Some(cluster) => node::build(cluster, plan, options, run, &mut login).await,
    };
    done.map_err(|error| Failure { error, login })
}

/// Refuses what cannot be built where the plan is for.
pub fn refuse(plan: &Plan) -> Result<()> {
    match &plan.target {
        None => local::refuse(plan),
        Some(target) => node::refuse(plan, target),
    }
}

/// What a build begins with.
enum Beginning {
    /// There is nothing to do.
    UpToDate(Artifact),
    /// This version is to be made.
    Version(Registry, Reserved),
}

/// Finds out whether there is something to do, and reserves a version for it. `is_there` tells whether an image that a build
/// would make again is where it should be.
async fn reserve(
    (plan, keys): (&Plan, &Keys),
    base: &Basis,
    options: &Options<'_>,
    run: &Run,
    is_there: impl AsyncFnOnce(&Artifact) -> Result<bool>,
) -> Result<Beginning> {
    let mut registry = Registry::open(&run.dirs)?;
    registry.refuse_revoked(&base.path, &base.digest.hex)?;
    if *options.caching == Caching::Use
        && let Some(artifact) = up_to_date(plan, keys, &run.dirs, &registry)?
        && is_there(&artifact).await?
    {
        return Ok(Beginning::UpToDate(artifact));
    }
    // A build that fails must not leave the older image as what is wanted.
    outputs::forget(&run.dirs, &plan.output.path)?;
    let version = version::reserve(plan, base, run, &mut registry)?;
    Ok(Beginning::Version(registry, version))
}

/// A build that came to its end.
struct Done {
    artifact: Artifact,
    /// When it should be built again by itself.
    expires: Option<jiff::Timestamp>,
    /// Whether everything was what it was when the plan was made.
    as_planned: bool,
}

/// Remembers what an image was made of, so that it is not made again.
fn remember(run: &Run, keys: &Keys, done: &Done) {
    let Some(key) = keys.image.clone().filter(|_| done.as_planned) else {
        return;
    };
    let artifact = &done.artifact;
    let facts = outputs::Facts {
        key,
        build: run.id.clone(),
        expires: done.expires,
        sha256: artifact.sha256.clone(),
        size: artifact.size,
    };
    let built = outputs::Built::new(facts, &artifact.path, &artifact.record);
    let remembered = built.and_then(|built| outputs::remember(&run.dirs, &artifact.link, &built));
    if let Err(error) = remembered {
        run.events.warn(error.to_string());
    }
}

/// The build itself, wherever it is done.
async fn build_image<'b, P: Place<'b>>(
    place: &mut P,
    bench: &Bench<'b>,
    base: &Basis,
    login: &mut Option<Login>,
) -> Result<Done> {
    let (plan, run) = (bench.plan, bench.run);
    let mut begun = place.begin(login).await?;
    let mut uploads = Uploads::default();
    let provisioned = provision(place, bench, &mut uploads, &mut begun, login).await;
    finish(bench, &mut begun, (provisioned, &mut uploads)).await?;
    uploads.look_at_tests(plan)?;
    let steps = uploads.steps(plan);
    let tools = run.phase("tools", place.tools()).await?;
    let definition = definition::of(bench, base, &tools, &steps);
    let sealing = sealing(plan, &begun.identity)?;
    let seal = seal_step(&attest::release(bench, &definition)?, &sealing.plan);
    place.before_seal(&mut begun).await?;
    let Begun {
        mut machine,
        mut guest,
        ..
    } = begun;
    run.phase("seal", machine.during(guest.apply(&seal)))
        .await?;
    let versions = std::mem::take(&mut guest.recorded);
    drop(guest);
    // From here on nobody can log in.
    *login = None;
    let sealed = place.seal_off(machine, &sealing).await?;
    let tested = test(place, bench, &sealed, &mut uploads, login);
    let judged = place.judge(&sealed, &sealing, tested).await?;
    let Judged {
        audit,
        by,
        inventory,
        made,
        disk,
    } = judged;
    let results = record::Results {
        version: &bench.version,
        started: bench.started,
        base,
        versions,
        audit: Some((by, audit)),
        sha256: &made.sha256,
        size: made.size,
        tools: &tools,
    };
    let sign = attest::attest(bench, definition, results, &inventory, disk);
    let beside = run.phase("sign", sign).await?;
    let publish = place.publish(sealed, &made, beside);
    let artifact = run.phase("publish", publish).await?;
    Ok(Done {
        artifact,
        expires: place.expires(),
        as_planned: uploads.as_planned(),
    })
}

type SshGuest<'g> = Guest<'g, ssh::SshSession>;

/// Does the steps that are left.
async fn provision<'b, P: Place<'b>>(
    place: &mut P,
    bench: &Bench<'b>,
    uploads: &mut Uploads,
    begun: &mut Begun<'b, P::Machine>,
    login: &mut Option<Login>,
) -> Result<()> {
    let (plan, run) = (bench.plan, bench.run);
    for (at, step) in plan.steps.iter().enumerate().skip(begun.steps) {
        let began = Instant::now();
        let content = uploads.before(at, step)?;
        let work = begun.machine.during(begun.guest.apply(step));
        run.phase(&step.name, work).await?;
        if !uploads.after(at, step, content)? {
            place.not_as_planned(step)?;
        }
        let keep = place.keep(at + 1, began.elapsed(), begun, login);
        run.unless_interrupted(keep).await?;
    }
    Ok(())
}

/// Runs the tests in a clone of the sealed image.
async fn test<'b, P: Place<'b>>(
    place: &P,
    bench: &Bench<'b>,
    sealed: &P::Sealed,
    uploads: &mut Uploads,
    login: &mut Option<Login>,
) -> Result<()> {
    let (plan, run) = (bench.plan, bench.run);
    if plan.tests.is_empty() {
        return Ok(());
    }
    let (mut machine, mut guest) = place.boot_clone(sealed, login).await?;
    for (at, test) in plan.all_steps().enumerate() {
        if test.role == crate::plan::Role::Step {
            continue;
        }
        let phase = format!("test {}", test.name);
        let content = uploads.before(at, test)?;
        let tested = machine.during(guest.apply(test));
        run.phase(&phase, tested).await?;
        uploads.after(at, test, content)?;
    }
    *login = None;
    drop(guest);
    place.destroy(machine).await
}

fn interrupted<T>(result: &Result<T>) -> bool {
    let kind = result.as_ref().err().map(Error::get_kind);
    matches!(kind, Some(Kind::Interrupted | Kind::Terminated))
}

/// What the build depends on, step by step. Without a key for them, or without their values, secrets are not known.
pub fn keys(
    plan: &Plan,
    base: &Base,
    secrets: &Secrets,
    hash: Option<&KeyedHash>,
    breakpoints: bool,
) -> Keys {
    let secret = |name: &str| {
        let value = secrets.get(name)?;
        Some(hash?.of(name, value.expose_secret()))
    };
    Keys::new(plan, base, secret, breakpoints)
}

/// The keys of a build that has its secrets.
fn own_keys(plan: &Plan, base: &Base, options: &Options<'_>, run: &Run) -> Result<Keys> {
    let hash = match options.secrets.is_empty() {
        true => None,
        false => Some(KeyedHash::open_or_create(&run.dirs)?),
    };
    let (secrets, stops) = (options.secrets, options.breakpoints);
    Ok(keys(plan, base, secrets, hash.as_ref(), stops))
}

/// Does the steps that come last whatever happens, but for an interruption: then the machine is about to go. What failed
/// first is what is told; what fails after that is a warning.
async fn finish<M: Machine>(
    bench: &Bench<'_>,
    begun: &mut Begun<'_, M>,
    (mut so_far, uploads): (Result<()>, &mut Uploads),
) -> Result<()> {
    let (plan, run) = (bench.plan, bench.run);
    let (machine, guest) = (&mut begun.machine, &mut begun.guest);
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

/// What is done in the guest last, in one go: it is told which image it is, and made nobody's.
fn seal_step(release: &str, sealing: &seal::Plan) -> Step {
    let seal = seal::script(sealing);
    Step::own(
        "seal",
        format!("#!/bin/sh\nset -e\n{release}set +e\n{seal}"),
    )
}

/// What sealing removes, and what must not be found afterwards.
fn sealing(plan: &Plan, identity: &Identity) -> Result<Sealing> {
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
    Ok(Sealing {
        plan: sealing,
        evidence,
    })
}

/// An image that holds something of its build, or that nobody could look into, is not shipped.
fn judged(report: seal::Report, events: &Events) -> Result<seal::Report> {
    for unread in &report.unread {
        let (what, place) = (&unread.kind, &unread.partition);
        events.warn(format!("the audit could not look into {place} ({what})"));
    }
    let error = Error::new("auditing the sealed image");
    if report.root.is_none() {
        return Err(error
            .cause("it has no root file system that can be read offline")
            .hint("ext2, ext3 and ext4 can be; see the warnings above for what was found"));
    }
    if report.findings.is_empty() {
        return Ok(report);
    }
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    Err(error
        .cause("it still holds what should be gone")
        .detail("what was found", findings.join("\n"))
        .hint("what is meant to stay goes into `[seal] keep`"))
}
