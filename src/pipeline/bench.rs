//! What every phase of one build works with, wherever its machines are.

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::attest::Beside;
use super::public::Public;
use super::repository::Repository;
use super::{Artifact, Options, SshGuest};
use crate::error::{Context, Error, Kind, Result};
use crate::plan::{self, Plan};
use crate::provenance::Files;
use crate::provision::{Guest, Means};
use crate::record;
use crate::run::{Resource, Run};
use crate::seed::{self, Announce, Identity, Stages};
use crate::signing::Signer;
use crate::ssh::{Login, SshSession};
use crate::store::registry::{Registry, Reserved};
use crate::store::{self, artifact};

/// What a machine is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Role {
    Build,
    Test,
    /// For looking at the sealed disk, on a target.
    Helper,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Build => "build",
            Role::Test => "test",
            Role::Helper => "helper",
        }
    }

    /// What is done with the image in such a machine.
    pub fn doing(self) -> &'static str {
        match self {
            Role::Build => "builds",
            Role::Test => "tests",
            Role::Helper => "looks at the disk of",
        }
    }
}

/// What every phase of one build works with.
pub(super) struct Bench<'b> {
    pub plan: &'b Plan,
    pub options: &'b Options<'b>,
    pub run: &'b Run,
    /// When the build began.
    pub started: jiff::Timestamp,
    /// Who signs what is said of the image.
    pub signer: Arc<Signer>,
    /// The recipe's repository, as it was when the build began.
    pub repository: Option<Repository>,
    /// What is being built. The registry is open as long as the build takes, so that nobody makes it anew meanwhile.
    pub version: Reserved,
    registry: RefCell<Registry>,
}

/// The image's file, finished but for its name.
pub(super) struct Made {
    /// As the journal has it.
    pub resource: Resource,
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

impl<'b> Bench<'b> {
    /// Checks what can be checked before anything is made.
    pub async fn prepare(
        plan: &'b Plan,
        options: &'b Options<'b>,
        run: &'b Run,
        started: jiff::Timestamp,
        (registry, version): (Registry, Reserved),
    ) -> Result<Self> {
        // Before there is anything to lose: a key may be missing, or have a passphrase.
        let signer = options
            .signing
            .signer(plan.signing_key.as_deref(), &run.events);
        let signer = run.unless_interrupted(signer).await?;
        let repository = async { Ok(Repository::of(&recipe_folder(plan), &inputs(plan)).await) };
        let repository = run.unless_interrupted(repository).await?;
        let bench = Bench {
            plan,
            options,
            run,
            started,
            signer,
            repository,
            version,
            registry: RefCell::new(registry),
        };
        bench.try_to_write()?;
        Ok(bench)
    }

    /// Makes the image's file and removes it again: that it cannot be made must not be found out when all else is done.
    fn try_to_write(&self) -> Result<()> {
        let guard = self.run.guard(self.unfinished_image())?;
        let path = self.unfinished_path();
        let doing = || format!("trying to write beside {}", self.final_path().display());
        let made = std::fs::File::create(&path).doing(doing);
        if made.is_ok() {
            std::fs::remove_file(&path).doing(doing)?;
        }
        self.run.release(&guard)?;
        made.map(drop)
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
    pub fn seed(&self, role: Role, identity: &Identity, announce: Announce) -> Result<Vec<u8>> {
        // On a target, there may be no other way to a machine than the address that the recipe gives it.
        let network = self.plan.target.as_ref();
        let network = network.and(self.plan.seed.network_config.clone());
        let least = seed::Extra {
            network_config: network,
            ..seed::Extra::default()
        };
        // The image is tested as its user would boot it: with nothing of the build's, and with all of cloud-init.
        let (extra, stages) = match role {
            Role::Build => (&self.plan.seed, Stages::Needed),
            Role::Test => (&least, Stages::All),
            Role::Helper => (&least, Stages::Needed),
        };
        seed::build(identity, &self.plan.user, extra, stages, announce)
    }

    /// The guest that answers on a session.
    pub fn guest(&self, session: SshSession, login: Login) -> SshGuest<'b> {
        let means = Means {
            plan: self.plan,
            run: self.run,
            secrets: self.options.secrets,
            source: self.options.source,
            breakpoints: self.options.breakpoints,
        };
        Guest::new(session, login, means)
    }

    /// Where the image is made, beside its final place so that it can be renamed.
    pub fn unfinished_path(&self) -> PathBuf {
        let path = self.final_path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!(".{name}.{}.partial", self.run.id))
    }

    pub fn unfinished_image(&self) -> Resource {
        Resource::File {
            path: self.unfinished_path(),
        }
    }

    /// Gives the image and what stands beside it their final names: the image last, so that there is never one without. Then
    /// the link; the registry has the last word, so that what a crash leaves half-done is still called so there.
    pub fn publish(&self, made: &Made, beside: Beside) -> Result<Artifact> {
        let (path, link) = (self.version.path.clone(), self.version.link.clone());
        let doing = || format!("publishing {}", path.display());
        let unfinished = self.unfinished_path();
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
        self.run.release(&made.resource)?;
        store::sync_folder(path.parent().unwrap_or(&path)).doing(doing)?;
        let mut registry = self.registry.borrow_mut();
        registry.link(&link, &path)?;
        let published = registry.publish(&self.version, &made.sha256, made.size)?;
        if let Some(revocation) = published.revocation() {
            self.run.events.warn(revocation);
        }
        Ok(Artifact {
            version: self.version.number,
            label: self.version.label.clone(),
            link,
            size: made.size,
            sha256: made.sha256.clone(),
            template: None,
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
