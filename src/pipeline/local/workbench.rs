//! What the phases of a build on this machine work with: its folder, its machines, the unfinished image.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::backend::Backing;
use crate::backend::qemu::image::{self, Target};
use crate::backend::qemu::{Machine, Saved, Start, accel};
use crate::disk::{self, Origin};
use crate::error::{Kind, Result};
use crate::pipeline::SshGuest;
use crate::pipeline::bench::{Bench, Role};
use crate::pipeline::judged;
use crate::plan::Compression;
use crate::record::Tools;
use crate::run::Resource;
use crate::seal::{self, Evidence};
use crate::seed::{Announce, Identity};
use crate::ssh::{self, Login};
use crate::store;

/// How often a machine may be started whose QEMU crashes before the guest can be worked in.
const STARTS: usize = 3;

/// What a machine starts with.
pub(super) struct Boot<'s> {
    pub role: Role,
    pub backing: &'s Backing,
    /// Where its own disk is made.
    pub disk: &'s Path,
    pub seed: &'s [u8],
    pub variables: Option<&'s Path>,
    pub memory: Option<(&'s Path, &'s Saved)>,
}

/// What the phases of a build on this machine work with.
pub(super) struct Workbench<'b> {
    pub bench: &'b Bench<'b>,
    /// Holds the disks of this build's machines.
    folder: PathBuf,
    pub accel: accel::Chosen,
    pub target: Target,
}

impl<'b> Workbench<'b> {
    /// Checks what can be checked before anything is made, and makes the build's folder.
    pub async fn prepare(bench: &'b Bench<'b>) -> Result<Self> {
        let (plan, run) = (bench.plan, bench.run);
        let (accel, told) = accel::choose(plan.machine.accel, &accel::Host::probe())?;
        if let Some(told) = told.filter(|_| !plan.import) {
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
            Compression::Default => run.unless_interrupted(image::has_zstd(&folder)).await?,
        };
        Ok(Workbench {
            bench,
            folder,
            accel,
            target: Target {
                format: plan.output.format,
                zstd,
            },
        })
    }

    /// Brings a machine up, and once more if QEMU crashes or the guest's kernel hangs meanwhile. When QEMU emulates several CPUs
    /// it crashes now and then while firmware or kernel move the devices' memory (its issue 1921, still in 10.0).
    pub async fn boot<T>(&self, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        for _ in 1..STARTS {
            match attempt().await {
                Err(error) if error.get_kind() == Kind::Crash => {
                    let text = format!("{error}: the machine is started again");
                    self.bench.run.events.warn(text);
                }
                done => return done,
            }
        }
        attempt().await
    }

    pub async fn start(&self, boot: Boot<'_>) -> Result<Machine> {
        let role = boot.role.name();
        let start = Start {
            role,
            spec: &self.bench.plan.machine,
            backing: boot.backing,
            disk: boot.disk,
            seed: boot.seed,
            variables: boot.variables,
            memory: boot.memory,
            accel: self.accel,
            outlives_us: self.bench.options.keep_machines,
        };
        let phase = match boot.memory {
            None => format!("start {role} machine"),
            Some(_) => "restore memory".into(),
        };
        self.bench
            .run
            .phase(&phase, Machine::start(start, &self.folder, self.bench.run))
            .await
    }

    /// Waits until the guest can be worked with, for as long as the recipe says if no other time is given.
    pub async fn enter(
        &self,
        machine: &mut Machine,
        identity: &Identity,
        patience: Option<Duration>,
        login: &mut Option<Login>,
    ) -> Result<SshGuest<'b>> {
        let with = Login {
            address: machine.ssh(),
            user: self.bench.plan.user.clone(),
            private_key: identity.client_key.clone(),
            host_key: identity.host_key.public_key().clone(),
        };
        *login = Some(with.clone());
        let connect = ssh::connect(&with, patience.unwrap_or(self.bench.plan.boot_timeout));
        let session = match patience {
            Some(_) => {
                self.bench
                    .run
                    .phase("log in", machine.during(connect))
                    .await
            }
            None => {
                self.bench
                    .run
                    .phase("boot", machine.during_boot(connect))
                    .await
            }
        };
        let session = match session {
            Err(error) if error.get_kind() == Kind::Operation && error.get_detail().is_none() => {
                let console = machine.console_tail();
                return Err(error.detail("last lines of the serial console", console));
            }
            session => session?,
        };
        Ok(self.bench.guest(session, with))
    }

    /// The programs that make the image.
    pub async fn tools(&self) -> Result<Tools> {
        Tools::ask(self.bench.plan, self.accel).await
    }

    pub async fn power_off(&self, mut machine: Machine) -> Result<PathBuf> {
        if machine.power_off(self.bench.plan.boot_timeout).await? {
            self.bench
                .run
                .events
                .warn("the guest did not power off when asked and was stopped by force");
        }
        machine.into_disk(self.bench.run).await
    }

    /// Overwrites what deleted files have left on the disk.
    pub async fn zero_free_blocks(&self, disk: &Path) -> Result<()> {
        let free = disk::free_blocks(disk).await?;
        for left in &free.left {
            let text = format!(
                "content of deleted files may be left in {}: {}",
                left.partition, left.why
            );
            self.bench.run.events.warn(text);
        }
        image::zero(disk, &free.ranges).await
    }

    /// The unfinished image as something to read.
    pub fn unfinished_disk(&self) -> Origin {
        Origin::File {
            path: self.bench.unfinished_path(),
            format: self.target.format,
        }
    }

    /// Looks at the disk that came out, whatever the guest said.
    pub async fn audit(&self, sealing: &seal::Plan, evidence: &Evidence) -> Result<seal::Report> {
        let report = seal::audit(&self.unfinished_disk(), sealing, evidence).await?;
        judged(report, &self.bench.run.events)
    }

    /// Boots a clone of the sealed image as its user would.
    pub async fn boot_clone(
        &self,
        size: u64,
        login: &mut Option<Login>,
    ) -> Result<(Machine, SshGuest<'b>)> {
        let backing = Backing {
            path: self.bench.unfinished_path(),
            format: self.target.format,
            size,
        };
        let identity = Identity::generate(
            &format!("imgbuild-{}-test", self.bench.run.id),
            &self.bench.plan.name,
        )?;
        let boot = Boot {
            role: Role::Test,
            backing: &backing,
            disk: &self.folder.join("test.qcow2"),
            seed: &self.bench.seed(Role::Test, &identity, Announce::Not)?,
            variables: None,
            memory: None,
        };
        let mut machine = self.start(boot).await?;
        let mut guest = self.enter(&mut machine, &identity, None, login).await?;
        let settled = machine.during(guest.settle());
        self.bench.run.phase("cloud-init", settled).await?;
        Ok((machine, guest))
    }
}
