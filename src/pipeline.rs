//! The build, in order.

use std::io::Write;
use std::path::PathBuf;

use crate::backend::Backing;
use crate::backend::qemu::image::{self, Target};
use crate::backend::qemu::{Machine, Start, accel};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Compression, Plan, Step};
use crate::provision::{Guest, Secrets};
use crate::record;
use crate::run::{Resource, Run};
use crate::seal::{self, Evidence};
use crate::seed::{self, Identity, Stages};
use crate::source::{self, BaseImage};
use crate::ssh::{self, Login};
use crate::store;

/// What a build is given besides its plan.
pub struct Options<'o> {
    pub http: &'o source::Http,
    pub offline: bool,
    pub secrets: &'o Secrets,
    /// Let machines live on when the build fails, for somebody to look at.
    pub keep_machines: bool,
}

/// A finished image under its final name.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Artifact {
    pub path: PathBuf,
    /// Bytes of the file.
    pub size: u64,
    pub sha256: String,
    /// The build record beside it.
    pub record: PathBuf,
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
    let started = jiff::Timestamp::now();
    let bench = Workbench::prepare(plan, options, run).await?;
    let base = run.phase("source", base_image(plan, options, run)).await?;
    let backing = backing(plan, &base)?;
    space(plan, &base, run)?;

    let identity = Identity::generate(&format!("imgbuild-{}", run.id), &plan.name)?;
    let mut machine = bench.start(Role::Build, &backing, &identity).await?;
    let mut guest = bench.enter(&mut machine, &identity, login).await?;
    let settled = machine.during(guest.settle());
    run.phase("cloud-init", settled).await?;
    for step in &plan.steps {
        run.phase(&step.name, machine.during(guest.apply(step)))
            .await?;
    }
    let (sealing, evidence) = sealing(plan, &identity)?;
    let seal = Step::own("seal", format!("#!/bin/sh\n{}", seal::script(&sealing)));
    run.phase("seal", machine.during(guest.apply(&seal)))
        .await?;
    drop(guest);
    let disk = run.phase("power off", bench.power_off(machine)).await?;
    *login = None;

    let image = run.guard(bench.unfinished_image())?;
    let flatten = image::flatten(&disk, &image, bench.target, run);
    run.phase("convert", flatten).await?;
    // The image is only read from here on, so its digest is taken beside what decides whether it is good.
    let digest = run.phase(
        "digest",
        record::digest(bench.unfinished_path(), &run.events),
    );
    let judge = async {
        let audit = bench.audit(&sealing, &evidence);
        let audit = run.phase("audit", audit).await?;
        Ok((audit, bench.test(backing.size, login).await?))
    };
    let ((audit, tests), sha256) = futures_util::future::try_join(judge, digest).await?;

    let results = record::Results {
        started,
        base: &base,
        accel: bench.accel,
        audit,
        tests,
        sha256: &sha256,
        tools: run.phase("tools", record::Tools::ask()).await?,
    };
    let record = record::Record::new(plan, run, results);
    run.phase("publish", async { bench.publish(image, record) })
        .await
}

/// What a machine is for.
#[derive(Debug, Clone, Copy)]
enum Role {
    Build,
    Test,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Build => "build",
            Role::Test => "test",
        }
    }
}

/// What every phase of one build works with.
struct Workbench<'b> {
    plan: &'b Plan,
    options: &'b Options<'b>,
    run: &'b Run,
    /// Holds the disks of this build's machines.
    folder: PathBuf,
    accel: accel::Chosen,
    target: Target,
    /// Keeps other builds from the same output.
    _output: store::Lock,
}

impl<'b> Workbench<'b> {
    /// Checks what can be checked before anything is made, and makes the build's folder.
    async fn prepare(plan: &'b Plan, options: &'b Options<'b>, run: &'b Run) -> Result<Self> {
        let output = output_lock(plan, run)?;
        let (accel, told) = accel::choose(plan.machine.accel, &accel::Host::probe())?;
        if let Some(told) = told {
            run.events.note(told);
        }
        let folder = run.dirs.work().join(&run.id);
        run.guard(Resource::Folder {
            path: folder.clone(),
        })?;
        store::create_private_folder(&folder)?;
        let zstd = match plan.output.compression {
            Compression::None => false,
            Compression::Zstd => true,
            Compression::Default => image::has_zstd(&folder).await?,
        };
        Ok(Workbench {
            plan,
            options,
            run,
            folder,
            accel,
            target: Target {
                format: plan.output.format,
                zstd,
            },
            _output: output,
        })
    }

    async fn start(&self, role: Role, backing: &Backing, identity: &Identity) -> Result<Machine> {
        let nothing = seed::Extra::default();
        // The image is tested as its user would boot it: with nothing of the build's, and with all of cloud-init.
        let (extra, stages) = match role {
            Role::Build => (&self.plan.seed, Stages::Needed),
            Role::Test => (&nothing, Stages::All),
        };
        let role = role.name();
        let seed = seed::build(identity, &self.plan.user, extra, stages)?;
        let start = Start {
            role,
            spec: &self.plan.machine,
            backing,
            seed: &seed,
            accel: self.accel,
            outlives_us: self.options.keep_machines,
        };
        let phase = format!("start {role} machine");
        self.run
            .phase(&phase, Machine::start(start, &self.folder, self.run))
            .await
    }

    /// Waits until the guest can be worked with.
    async fn enter(
        &self,
        machine: &mut Machine,
        identity: &Identity,
        login: &mut Option<Login>,
    ) -> Result<Guest<'b, ssh::SshSession>> {
        let with = Login {
            address: machine.ssh(),
            user: self.plan.user.clone(),
            private_key: identity.client_key.clone(),
            host_key: identity.host_key.public_key().clone(),
        };
        *login = Some(with.clone());
        let connect = ssh::connect(&with, self.plan.boot_timeout);
        let session = match self.run.phase("boot", machine.during(connect)).await {
            Err(error) if error.get_kind() == Kind::Operation && error.get_detail().is_none() => {
                let console = machine.console_tail();
                return Err(error.detail("last lines of the serial console", console));
            }
            session => session?,
        };
        Ok(Guest::new(
            session,
            self.plan,
            self.run,
            self.options.secrets,
        ))
    }

    async fn power_off(&self, mut machine: Machine) -> Result<PathBuf> {
        if machine.power_off(self.plan.boot_timeout).await? {
            self.run
                .events
                .warn("the guest did not power off when asked and was stopped by force");
        }
        machine.into_disk(self.run).await
    }

    /// Where the image is made, beside its final place so that it can be renamed.
    fn unfinished_path(&self) -> PathBuf {
        let path = &self.plan.output.path;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!(".{name}.{}.partial", self.run.id))
    }

    fn unfinished_image(&self) -> Resource {
        Resource::File {
            path: self.unfinished_path(),
        }
    }

    /// Looks at the disk that came out, whatever the guest said.
    async fn audit(&self, sealing: &seal::Plan, evidence: &Evidence) -> Result<seal::Report> {
        let image = self.unfinished_path();
        let report = seal::audit(&image, self.target.format, sealing, evidence).await?;
        for unread in &report.unread {
            let (what, place) = (&unread.kind, &unread.partition);
            let text = format!("the audit could not look into {place} ({what})");
            self.run.events.warn(text);
        }
        verdict(&report).map(|()| report)
    }

    /// Boots a clone of the sealed image as its user would, and runs the tests in it.
    async fn test(&self, size: u64, login: &mut Option<Login>) -> Result<Vec<record::Tested>> {
        if self.plan.tests.is_empty() {
            return Ok(vec![]);
        }
        let backing = Backing {
            path: self.unfinished_path(),
            format: self.target.format,
            size,
        };
        let identity =
            Identity::generate(&format!("imgbuild-{}-test", self.run.id), &self.plan.name)?;
        let mut machine = self.start(Role::Test, &backing, &identity).await?;
        let mut guest = self.enter(&mut machine, &identity, login).await?;
        let settled = machine.during(guest.settle());
        self.run.phase("cloud-init", settled).await?;
        for test in &self.plan.tests {
            let phase = format!("test {}", test.name);
            let tested = machine.during(guest.apply(test));
            self.run.phase(&phase, tested).await?;
        }
        *login = None;
        machine.destroy(self.run).await?;
        let tested = self.plan.tests.iter().map(record::Tested::passed);
        Ok(tested.collect())
    }

    /// Gives image and record their final names: the record first, so that there is never an image without one.
    fn publish(&self, image: Resource, record: record::Record) -> Result<Artifact> {
        let path = self.plan.output.path.clone();
        let doing = || format!("publishing {}", path.display());
        let unfinished = self.unfinished_path();
        let size = std::fs::metadata(&unfinished).doing(doing)?.len();
        let sha256 = record.artifact.sha256.clone();

        let beside = record::path(&path);
        let aside = unfinished.with_extension("record.partial");
        let guard = self.run.guard(Resource::File {
            path: aside.clone(),
        })?;
        let mut file = std::fs::File::create(&aside).doing(doing)?;
        file.write_all(&record.to_json(size)?).doing(doing)?;
        file.sync_all().doing(doing)?;
        std::fs::rename(&aside, &beside).doing(doing)?;
        self.run.release(&guard)?;
        std::fs::rename(&unfinished, &path).doing(doing)?;
        self.run.release(&image)?;
        store::sync_folder(path.parent().unwrap_or(&path)).doing(doing)?;
        Ok(Artifact {
            path,
            size,
            sha256,
            record: beside,
        })
    }
}

/// An image that holds something of its build, or that nobody could look into, is not shipped.
fn verdict(report: &seal::Report) -> Result<()> {
    let error = Error::new("auditing the sealed image");
    if report.root.is_none() {
        return Err(error
            .cause("it has no root file system that can be read offline")
            .hint("ext2, ext3 and ext4 can be; see the warnings above for what was found"));
    }
    if report.findings.is_empty() {
        return Ok(());
    }
    let findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    Err(error
        .cause("it still holds what should be gone")
        .detail("what was found", findings.join("\n"))
        .hint("what is meant to stay goes into `[seal] keep`"))
}

fn output_lock(plan: &Plan, run: &Run) -> Result<store::Lock> {
    let path = &plan.output.path;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).doing(|| format!("creating {}", folder.display()))?;
    }
    let name = crate::text::hex(path.as_os_str().as_encoded_bytes());
    let name = record::short_digest(name.as_bytes());
    let lock = run.dirs.locks().join(format!("output-{name}"));
    store::Lock::try_acquire(&lock)?.ok_or_else(|| {
        Error::new(format!("writing {}", path.display()))
            .kind(Kind::Conflict)
            .cause("another build is about to write it")
            .hint("wait for it, or give this one another `[output] path`")
    })
}

async fn base_image(plan: &Plan, options: &Options<'_>, run: &Run) -> Result<BaseImage> {
    let cx = source::Context {
        dirs: &run.dirs,
        events: &run.events,
        http: options.http,
        offline: options.offline,
    };
    let resolved = source::resolve(&plan.source, &cx).await?;
    source::fetch(&resolved, &cx).await
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
