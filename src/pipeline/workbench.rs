//! What the phases of one build work with: its folder, its machines, the unfinished image.

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::attest::Beside;
use super::public::Public;
use super::repository::Repository;
use super::uploads::Uploads;
use super::{Artifact, Options, SshGuest};
use crate::backend::Backing;
use crate::backend::qemu::image::{self, Target};
use crate::backend::qemu::{Machine, Saved, Start, accel};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{self, Compression, Plan};
use crate::provenance::Files;
use crate::provision::{Guest, Means};
use crate::record;
use crate::run::{Resource, Run};
use crate::seal::{self, Evidence};
use crate::seed::{self, Announce, Identity, Stages};
use crate::signing::Signer;
use crate::ssh::{self, Login};
use crate::store::registry::{Registry, Reserved};
use crate::store::{self, artifact};

/// What a machine is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
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

/// What every phase of one build works with.
pub(super) struct Workbench<'b> {
    pub plan: &'b Plan,
    pub options: &'b Options<'b>,
    pub run: &'b Run,
    /// When the build began.
    pub started: jiff::Timestamp,
    /// Holds the disks of this build's machines.
    folder: PathBuf,
    pub accel: accel::Chosen,
    pub target: Target,
    /// Who signs what is said of the image.
    pub signer: Arc<Signer>,
    /// The recipe's repository, as it was when the build began.
    pub repository: Option<Repository>,
    /// What is being built. The registry is open as long as the build takes, so that nobody makes it anew meanwhile.
    pub version: Reserved,
    registry: RefCell<Registry>,
}

impl<'b> Workbench<'b> {
    /// Checks what can be checked before anything is made, and makes the build's folder.
    pub async fn prepare(
        plan: &'b Plan,
        options: &'b Options<'b>,
        run: &'b Run,
        started: jiff::Timestamp,
        (registry, version): (RefCell<Registry>, Reserved),
    ) -> Result<Self> {
        let (accel, told) = accel::choose(plan.machine.accel, &accel::Host::probe())?;
        if let Some(told) = told.filter(|_| !plan.import) {
            run.events.note(told);
        }
        // Before there is anything to lose: a key may be missing, or have a passphrase.
        let signer = options
            .signing
            .signer(plan.signing_key.as_deref(), &run.events);
        let signer = run.unless_interrupted(signer).await?;
        let repository = async { Ok(Repository::of(&recipe_folder(plan), &inputs(plan)).await) };
        let repository = run.unless_interrupted(repository).await?;
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
            started,
            folder,
            accel,
            target: Target {
                format: plan.output.format,
                zstd,
            },
            signer,
            repository,
            version,
            registry,
        })
    }

    /// Where the finished image goes; what stands beside it is named after it.
    pub fn final_path(&self) -> &Path {
        &self.version.path
    }

    /// What may be told of the recipe's texts.
    pub fn public(&self) -> Public {
        let texts = self.plan.recipe.iter();
        let recipes = texts.filter_map(|text| text.folder.as_deref().map(Path::to_owned));
        let current = std::env::current_dir().ok();
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let folders = recipes.chain(current).chain(home);
        let folders = folders.map(|folder| folder.to_string_lossy().into_owned());
        let folders = folders.filter(|folder| folder.len() > 1);
        Public::new(folders, &self.run.events)
    }

    /// What tells a guest who it is.
    pub fn seed(&self, role: Role, identity: &Identity) -> Result<Vec<u8>> {
        let nothing = seed::Extra::default();
        // The image is tested as its user would boot it: with nothing of the build's, and with all of cloud-init.
        let (extra, stages) = match role {
            Role::Build => (&self.plan.seed, Stages::Needed),
            Role::Test => (&nothing, Stages::All),
        };
        seed::build(identity, &self.plan.user, extra, stages, Announce::Not)
    }

    /// Brings a machine up, and once more if QEMU crashes or the guest's kernel hangs meanwhile. When QEMU emulates several CPUs
    /// it crashes now and then while firmware or kernel move the devices' memory (its issue 1921, still in 10.0).
    pub async fn boot<T>(&self, mut attempt: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        for _ in 1..STARTS {
            match attempt().await {
                Err(error) if error.get_kind() == Kind::Crash => {
                    let text = format!("{error}: the machine is started again");
                    self.run.events.warn(text);
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
            spec: &self.plan.machine,
            backing: boot.backing,
            disk: boot.disk,
            seed: boot.seed,
            variables: boot.variables,
            memory: boot.memory,
            accel: self.accel,
            outlives_us: self.options.keep_machines,
        };
        let phase = match boot.memory {
            None => format!("start {role} machine"),
            Some(_) => "restore memory".into(),
        };
        self.run
            .phase(&phase, Machine::start(start, &self.folder, self.run))
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
            user: self.plan.user.clone(),
            private_key: identity.client_key.clone(),
            host_key: identity.host_key.public_key().clone(),
        };
        *login = Some(with.clone());
        let connect = ssh::connect(&with, patience.unwrap_or(self.plan.boot_timeout));
        let session = match patience {
            Some(_) => self.run.phase("log in", machine.during(connect)).await,
            None => self.run.phase("boot", machine.during_boot(connect)).await,
        };
        let session = match session {
            Err(error) if error.get_kind() == Kind::Operation && error.get_detail().is_none() => {
                let console = machine.console_tail();
                return Err(error.detail("last lines of the serial console", console));
            }
            session => session?,
        };
        let means = Means {
            plan: self.plan,
            run: self.run,
            secrets: self.options.secrets,
            source: self.options.source,
            breakpoints: self.options.breakpoints,
        };
        Ok(Guest::new(session, with, means))
    }

    pub async fn power_off(&self, mut machine: Machine) -> Result<PathBuf> {
        if machine.power_off(self.plan.boot_timeout).await? {
            self.run
                .events
                .warn("the guest did not power off when asked and was stopped by force");
        }
        machine.into_disk(self.run).await
    }

    /// Overwrites what deleted files have left on the disk.
    pub async fn zero_free_blocks(&self, disk: &Path) -> Result<()> {
        let free = disk::free_blocks(disk).await?;
        for left in &free.left {
            let text = format!(
                "content of deleted files may be left in {}: {}",
                left.partition, left.why
            );
            self.run.events.warn(text);
        }
        image::zero(disk, &free.ranges).await
    }

    /// Where the image is made, beside its final place so that it can be renamed.
    pub fn unfinished_path(&self) -> PathBuf {
        let path = self.final_path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!(".{name}.{}.partial", self.run.id))
    }

    /// Bytes of the image there.
    pub fn unfinished_size(&self) -> Result<u64> {
        let path = self.unfinished_path();
        let metadata = std::fs::metadata(&path).doing(|| format!("reading {}", path.display()));
        Ok(metadata?.len())
    }

    pub fn unfinished_image(&self) -> Resource {
        Resource::File {
            path: self.unfinished_path(),
        }
    }

    /// Looks at the disk that came out, whatever the guest said.
    pub async fn audit(&self, sealing: &seal::Plan, evidence: &Evidence) -> Result<seal::Report> {
        let image = self.unfinished_path();
        let report = seal::audit(&image, self.target.format, sealing, evidence).await?;
        for unread in &report.unread {
            let (what, place) = (&unread.kind, &unread.partition);
            let text = format!("the audit could not look into {place} ({what})");
            self.run.events.warn(text);
        }
        verdict(&report).map(|()| report)
    }

    /// Runs the tests in a clone of the sealed image.
    pub async fn test(
        &self,
        size: u64,
        uploads: &mut Uploads,
        login: &mut Option<Login>,
    ) -> Result<()> {
        if self.plan.tests.is_empty() {
            return Ok(());
        }
        let clone = self.boot(async || self.boot_clone(size, login).await);
        let (mut machine, mut guest) = clone.await?;
        for (at, test) in self.plan.all_steps().enumerate() {
            if test.role == plan::Role::Step {
                continue;
            }
            let phase = format!("test {}", test.name);
            let content = uploads.before(at, test)?;
            let tested = machine.during(guest.apply(test));
            self.run.phase(&phase, tested).await?;
            uploads.after(at, test, content)?;
        }
        *login = None;
        machine.destroy(self.run).await
    }

    /// Boots a clone of the sealed image as its user would.
    async fn boot_clone(
        &self,
        size: u64,
        login: &mut Option<Login>,
    ) -> Result<(Machine, SshGuest<'b>)> {
        let backing = Backing {
            path: self.unfinished_path(),
            format: self.target.format,
            size,
        };
        let identity =
            Identity::generate(&format!("imgbuild-{}-test", self.run.id), &self.plan.name)?;
        let boot = Boot {
            role: Role::Test,
            backing: &backing,
            disk: &self.folder.join("test.qcow2"),
            seed: &self.seed(Role::Test, &identity)?,
            variables: None,
            memory: None,
        };
        let mut machine = self.start(boot).await?;
        let mut guest = self.enter(&mut machine, &identity, None, login).await?;
        let settled = machine.during(guest.settle());
        self.run.phase("cloud-init", settled).await?;
        Ok((machine, guest))
    }

    /// Gives the image and what stands beside it their final names: the image last, so that there is never one without. Then
    /// the link; the registry has the last word, so that what a crash leaves half-done is still called so there.
    pub fn publish(&self, image: Resource, sha256: String, beside: Beside) -> Result<Artifact> {
        let (path, link) = (self.version.path.clone(), self.version.link.clone());
        let doing = || format!("publishing {}", path.display());
        let unfinished = self.unfinished_path();
        let size = self.unfinished_size()?;
        for (at, (final_path, content)) in beside.iter().enumerate() {
            let aside = unfinished.with_extension(format!("beside-{at}.partial"));
            let guard = self.run.guard(Resource::File {
                path: aside.clone(),
            })?;
            let mut file = std::fs::File::create(&aside).doing(doing)?;
            file.write_all(content).doing(doing)?;
            file.sync_all().doing(doing)?;
            std::fs::rename(&aside, final_path).doing(doing)?;
            self.run.release(&guard)?;
        }
        std::fs::rename(&unfinished, &path).doing(doing)?;
        self.run.release(&image)?;
        store::sync_folder(path.parent().unwrap_or(&path)).doing(doing)?;
        let mut registry = self.registry.borrow_mut();
        registry.link(&link, &path)?;
        let published = registry.publish(&self.version, &sha256, size)?;
        if let Some(revocation) = published.revocation() {
            self.run.events.warn(revocation);
        }
        Ok(Artifact {
            version: self.version.number,
            label: self.version.label.clone(),
            link,
            size,
            sha256,
            record: record::path(&path),
            provenance: Files::of(&path).statement,
            path,
            up_to_date: false,
        })
    }
}

/// Where the recipe is.
fn recipe_folder(plan: &Plan) -> PathBuf {
    let recipe = plan.recipe.iter().next();
    let folder = recipe.and_then(|recipe| recipe.folder.as_deref());
    folder.unwrap_or(Path::new(".")).to_owned()
}

/// The files and folders that the image is made from, as far as the plan knows where they are.
fn inputs(plan: &Plan) -> Vec<PathBuf> {
    let texts = plan.recipe.iter().filter_map(|text| {
        let folder = text.folder.as_deref()?;
        Some(folder.join(Path::new(&*text.name).file_name()?))
    });
    let uploads = plan.all_steps().filter_map(|step| match &step.action {
        plan::Action::Upload { tree, .. } => Some(tree.root.clone()),
        _ => None,
    });
    // Content of the recipe's own has no file.
    let uploads = uploads.filter(|root| root.as_os_str() != "");
    texts.chain(uploads).collect()
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

/// Keeps other builds from the same output.
pub(super) fn output_lock(plan: &Plan, run: &Run) -> Result<store::Lock> {
    let path = &plan.output.path;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).doing(|| format!("creating {}", folder.display()))?;
    }
    let lock = artifact::lock_path(&run.dirs, path);
    store::Lock::try_acquire(&lock)?.ok_or_else(|| {
        Error::new(format!("writing {}", path.display()))
            .kind(Kind::Conflict)
            .cause("another build is about to write it")
            .hint("wait for it, or give this one another `[output] path`")
    })
}
