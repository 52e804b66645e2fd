//! `Recipe` + facts → [`Plan`]: resolved, immutable, and all that a build reads. No I/O here but gathering [`Facts`].

mod base;
mod keys;
mod print;
mod proxmox;
mod resolve;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

pub use keys::{Base, Break, Key, Keys};
pub use print::{OnTarget, Printed};
pub use proxmox::Proxmox;
use sha2::{Digest, Sha256};
pub use state::{Known, State, states, states_after};

use crate::backend::Spec;
use crate::error::{Fault, Faults, Sources};
use crate::recipe::{Cache, Content, Document, Recipe, Target, Tree};
use crate::seal;
use crate::secret::SecretSource;
use crate::seed::Extra;
use crate::source;
use crate::text::hex;

/// A step that says nothing may take this long.
const STEP_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Everything that a build does.
#[derive(Debug)]
pub struct Plan {
    pub name: String,
    /// The target that it is built on; none for this machine.
    pub target: Option<String>,
    /// What versions are called besides their numbers: for strftime.
    pub version: Option<String>,
    pub description: String,
    pub labels: BTreeMap<String, String>,
    /// The text of the recipe, and those that it is made from, for errors that point into them.
    pub recipe: Sources,
    /// The name and the sha256 of each of these texts.
    pub texts: Vec<(String, String)>,
    /// The documents that were looked at.
    pub documents: Vec<Document>,
    /// What the recipe's variables are.
    pub vars: crate::recipe::Vars,
    pub source: source::Spec,
    /// Where the recipe says that.
    pub source_span: Range<usize>,
    /// Whether the image is taken as it is, without a machine.
    pub import: bool,
    pub machine: Spec,
    /// What machines are besides on a Proxmox VE node, and what the template is. Means nothing elsewhere.
    pub proxmox: Proxmox,
    /// The size of the image's disk in bytes, and where the recipe says so; the base image's own size if it does not.
    pub disk: Option<(u64, Range<usize>)>,
    pub seed: Extra,
    pub user: String,
    /// How long booting may take, from power-on to a login, and powering off as well.
    pub boot_timeout: Duration,
    pub steps: Vec<Step>,
    /// Done after the steps, whether they succeeded or not, in this order.
    pub finally: Vec<Step>,
    /// The names of steps and tests whose condition is false, or that are for other backends.
    pub left_out: Vec<String>,
    /// What sealing leaves alone.
    pub keep: BTreeSet<seal::Item>,
    pub tests: Vec<Step>,
    pub output: Output,
    /// The key that signs, if the recipe says which.
    pub signing_key: Option<PathBuf>,
    pub secrets: BTreeMap<String, SecretSource>,
    /// The names of those that saved memory may hold.
    pub secrets_in_memory: BTreeSet<String>,
}

/// What something is made of, by name: digests, or values that are short enough to be shown.
pub type Inputs = BTreeMap<String, String>;

/// What is uploaded, among the inputs.
const CONTENT: &str = "content";

/// One value for all inputs.
fn digest(inputs: &Inputs) -> String {
    let text = serde_json::json!(inputs).to_string();
    hex(&Sha256::digest(text.as_bytes()))
}

/// Whether a step changes the image or tests it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Step,
    Test,
}

impl Role {
    /// The recipe's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Step => "step",
            Role::Test => "test",
        }
    }
}

/// One thing that is done in the guest.
#[derive(Debug, Clone)]
pub struct Step {
    pub role: Role,
    pub name: String,
    /// Where the recipe says it.
    pub span: Range<usize>,
    pub action: Action,
    pub sudo: bool,
    pub env: BTreeMap<String, String>,
    /// Names of secrets that the step gets.
    pub secrets: Vec<String>,
    pub timeout: Duration,
    pub retries: u32,
    pub ok_exit_codes: Vec<i32>,
    /// Whether losing the connection is no failure.
    pub expect_disconnect: bool,
    pub cache: Cache,
    /// The action with everything it uses; secrets by name only.
    pub inputs: Inputs,
    /// sha256 over the inputs.
    pub digest: String,
    /// The sha256 of each file that is uploaded, as [`Uploaded`] has it.
    pub files: Vec<(PathBuf, String)>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A script, by `run` or `script`.
    Run {
        script: Vec<u8>,
    },
    Packages {
        names: Vec<String>,
    },
    Upload {
        tree: Tree,
        to: String,
        owner: Option<String>,
    },
    /// From the guest to this machine.
    Download {
        from: String,
        to: PathBuf,
    },
    /// Downloaded by this machine, then uploaded.
    Fetch(Fetch),
    Reboot,
    /// A script on this machine.
    Local {
        script: Vec<u8>,
        folder: PathBuf,
    },
    Breakpoint,
}

/// A file from the network for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// The same file at several places, in the order of preference.
    pub urls: Vec<String>,
    pub digest: source::Digest,
    pub to: String,
    /// How many leading parts of the paths in the archive are left out; none for a file that is no archive.
    pub unpack: Option<u32>,
    /// Permission bits of the file.
    pub mode: u32,
    pub owner: Option<String>,
}

impl Fetch {
    /// The name that a file gets in a folder: the last part of its first URL's path.
    pub fn name(&self) -> &str {
        let url = self.urls.first().map_or("", String::as_str);
        let path = url.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

impl Step {
    /// What the plan knows of what it uploads.
    pub fn uploaded(&self) -> Uploaded {
        Uploaded {
            digest: self.inputs.get(CONTENT).cloned().unwrap_or_default(),
            files: self.files.clone(),
        }
    }

    /// The same step, uploading this.
    pub fn with_content(&self, content: &Uploaded) -> Self {
        let mut step = self.clone();
        step.inputs.insert(CONTENT.into(), content.digest.clone());
        step.digest = digest(&step.inputs);
        step.files = content.files.clone();
        step
    }

    /// A step that no recipe has: a script of imgbuild's own, as root.
    pub fn own(name: &str, script: String) -> Self {
        let script_digest = hex(&Sha256::digest(script.as_bytes()));
        let inputs = Inputs::from([("script".to_owned(), script_digest)]);
        Step {
            role: Role::Step,
            name: name.into(),
            span: 0..0,
            digest: digest(&inputs),
            inputs,
            action: Action::Run {
                script: script.into_bytes(),
            },
            sudo: true,
            env: BTreeMap::new(),
            secrets: vec![],
            timeout: STEP_TIMEOUT,
            retries: 0,
            ok_exit_codes: vec![0],
            expect_disconnect: false,
            cache: Cache::Never,
            files: vec![],
        }
    }
}

impl Action {
    /// The recipe's word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Run { .. } => "run",
            Action::Packages { .. } => "packages",
            Action::Upload { .. } => "upload",
            Action::Download { .. } => "download",
            Action::Fetch(_) => "fetch",
            Action::Reboot => "reboot",
            Action::Local { .. } => "local",
            Action::Breakpoint => "breakpoint",
        }
    }
}

/// The artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub path: PathBuf,
    pub format: source::Format,
    pub compression: Compression,
}

/// The artifact's compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd where this machine's QEMU has it.
    Default,
    Zstd,
    None,
}

/// What a plan needs that is not in the recipe's text.
#[derive(Debug, Default)]
pub struct Facts {
    /// What each step, and each test after them, uploads; the default for one that uploads nothing.
    pub contents: Vec<Uploaded>,
    /// Where relative output paths start.
    pub current_folder: PathBuf,
    /// The image that `[source] recipe` stands for, or the file that stands for its template.
    pub parent: Option<PathBuf>,
    /// The target that it is for; none for this machine.
    pub target: Option<String>,
}

/// What a step uploads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Over everything.
    pub digest: String,
    /// The sha256 of each file, by its path below what is uploaded (empty for a file that is uploaded alone).
    pub files: Vec<(PathBuf, String)>,
}

impl Uploaded {
    /// Reads every file of `tree`.
    pub fn read(tree: &Tree) -> crate::error::Result<Self> {
        let (digest, files) = tree.digests()?;
        Ok(Uploaded { digest, files })
    }
}

impl Facts {
    /// What kind of place it is for.
    fn on(&self) -> Target {
        match self.target {
            None => Target::Qemu,
            Some(_) => Target::Proxmox,
        }
    }

    /// Reads every file that the recipe uploads. `parent` is the image of the recipe that this one is built on.
    pub fn gather(
        recipe: &Recipe,
        parent: Option<PathBuf>,
        target: Option<&str>,
    ) -> crate::error::Result<Self> {
        use crate::error::Context;
        let steps = recipe.steps.iter().chain(&recipe.tests);
        let contents = steps.map(|step| match &step.content {
            Content::Tree(tree) => Uploaded::read(tree),
            Content::None | Content::Script(_) => Ok(Uploaded::default()),
        });
        Ok(Facts {
            contents: contents.collect::<crate::error::Result<_>>()?,
            current_folder: std::env::current_dir().doing(|| "finding the current folder")?,
            parent,
            target: target.map(str::to_owned),
        })
    }
}

impl Plan {
    /// Resolves a recipe.
    pub fn new(recipe: &Recipe, facts: &Facts) -> Self {
        let name = recipe.image.name.get_ref().clone();
        let texts = recipe.sources.iter().map(|source| {
            let digest = hex(&Sha256::digest(source.text.as_bytes()));
            (source.name.to_string(), digest)
        });
        // A bundle that is used twice was read twice.
        let texts = without_doubles(texts);
        let documents = without_doubles(recipe.documents.iter().cloned());
        let (of_steps, of_tests) = facts
            .contents
            .split_at(recipe.steps.len().min(facts.contents.len()));
        let steps = resolve::steps(recipe, Role::Step, &recipe.steps, of_steps, facts);
        let tests = resolve::steps(recipe, Role::Test, &recipe.tests, of_tests, facts);
        let left_out = [&recipe.left_out, &steps.elsewhere, &tests.elsewhere];
        Plan {
            version: recipe.image.version.as_ref().map(|v| v.get_ref().clone()),
            description: recipe.image.description.clone(),
            labels: recipe.image.labels.clone(),
            texts,
            recipe: recipe.sources.clone(),
            documents,
            vars: recipe.vars.clone(),
            source: base::source(recipe, facts),
            source_span: base::span(recipe),
            import: recipe.base.import,
            machine: resolve::machine(recipe),
            proxmox: Proxmox::new(recipe),
            disk: recipe
                .machine
                .disk
                .as_ref()
                .map(|disk| (disk.get_ref().0, disk.span())),
            seed: resolve::seed(recipe),
            user: recipe.ssh.user.get_ref().clone(),
            boot_timeout: recipe.ssh.timeout.get_ref().0,
            steps: steps.steps,
            finally: steps.finally,
            left_out: left_out.into_iter().flatten().cloned().collect(),
            keep: resolve::keep(recipe),
            tests: tests.steps,
            output: resolve::output(recipe, &name, facts),
            signing_key: resolve::signing_key(recipe),
            secrets: resolve::secrets(recipe),
            secrets_in_memory: resolve::secrets_in_memory(recipe),
            target: facts.target.clone(),
            name,
        }
    }

    /// What the registry calls the image.
    pub fn registered(&self) -> String {
        crate::store::registry::name(&self.name, self.target.as_deref())
    }

    /// Everything that is done in the build's machine and the test's.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.finally).chain(&self.tests)
    }

    /// A fault at a place in the recipe.
    pub fn fault(&self, span: &Range<usize>, message: impl Into<String>) -> Faults {
        Faults {
            sources: self.recipe.clone(),
            list: vec![Fault::new(span.clone(), message)],
        }
    }
}

fn without_doubles<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    all.fold(vec![], |mut unique, item| {
        if !unique.contains(&item) {
            unique.push(item);
        }
        unique
    })
}

#[cfg(test)]
pub(super) mod tests;
