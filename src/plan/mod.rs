//! `Recipe` + facts → [`Plan`]: resolved, immutable, and all that a build reads. No I/O here but gathering [`Facts`].

mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::backend::Spec;
use crate::error::{Fault, Faults, Source};
use crate::recipe::{Recipe, Tree};
use crate::seal;
use crate::seed::Extra;
use crate::source;
use crate::text::hex;

/// A step that says nothing may take this long.
const STEP_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Everything that a build does.
#[derive(Debug)]
pub struct Plan {
    pub name: String,
    pub description: String,
    pub labels: BTreeMap<String, String>,
    /// The text of the recipe, for errors that point into it.
    pub recipe: Source,
    /// sha256 of that text.
    pub recipe_digest: String,
    pub source: source::Spec,
    pub machine: Spec,
    /// The size of the image's disk in bytes, and where the recipe says so; the base image's own size if it does not.
    pub disk: Option<(u64, Range<usize>)>,
    pub seed: Extra,
    pub user: String,
    /// How long booting may take, from power-on to a login, and powering off as well.
    pub boot_timeout: Duration,
    pub steps: Vec<Step>,
    /// What sealing leaves alone.
    pub keep: BTreeSet<seal::Item>,
    pub tests: Vec<Step>,
    pub output: Output,
    pub secrets: BTreeMap<String, SecretSource>,
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
    /// sha256 over the action with everything it uses.
    pub digest: String,
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
    Reboot,
}

impl Step {
    /// A step that no recipe has: a script of imgbuild's own, as root.
    pub fn own(name: &str, script: String) -> Self {
        Step {
            role: Role::Step,
            name: name.into(),
            span: 0..0,
            digest: hex(&Sha256::digest(script.as_bytes())),
            action: Action::Run {
                script: script.into_bytes(),
            },
            sudo: true,
            env: BTreeMap::new(),
            secrets: vec![],
            timeout: STEP_TIMEOUT,
            retries: 0,
            ok_exit_codes: vec![0],
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
            Action::Reboot => "reboot",
        }
    }
}

/// Where a secret's value comes from; the value itself is never part of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    Env(String),
    File(PathBuf),
    Command { line: String, folder: PathBuf },
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
    /// The digest of every upload, by the path as written.
    pub trees: BTreeMap<String, String>,
    /// Where relative output paths start.
    pub current_folder: PathBuf,
}

impl Facts {
    /// Reads every file that the recipe uploads.
    pub fn gather(recipe: &Recipe) -> crate::error::Result<Self> {
        use crate::error::Context;
        let digests = recipe.files.trees.iter().map(|(path, tree)| {
            let digest = tree.digest()?;
            Ok((path.clone(), digest))
        });
        Ok(Facts {
            trees: digests.collect::<crate::error::Result<_>>()?,
            current_folder: std::env::current_dir().doing(|| "finding the current folder")?,
        })
    }
}

impl Plan {
    /// Resolves a recipe.
    pub fn new(recipe: &Recipe, facts: &Facts) -> Self {
        let name = recipe.image.name.get_ref().clone();
        Plan {
            description: recipe.image.description.clone(),
            labels: recipe.image.labels.clone(),
            recipe: recipe.source.clone(),
            recipe_digest: hex(&Sha256::digest(recipe.source.text.as_bytes())),
            source: resolve::source_spec(recipe),
            machine: resolve::machine(recipe),
            disk: recipe
                .machine
                .disk
                .as_ref()
                .map(|disk| (disk.get_ref().0, disk.span())),
            seed: resolve::seed(recipe),
            user: recipe.ssh.user.get_ref().clone(),
            boot_timeout: recipe.ssh.timeout.0,
            steps: resolve::steps(recipe, Role::Step, &recipe.steps, facts),
            keep: resolve::keep(recipe),
            tests: resolve::steps(recipe, Role::Test, &recipe.tests, facts),
            output: resolve::output(recipe, &name, &facts.current_folder),
            secrets: resolve::secrets(recipe),
            name,
        }
    }

    /// A fault at a place in the recipe.
    pub fn fault(&self, span: &Range<usize>, message: impl Into<String>) -> Faults {
        Faults {
            source: self.recipe.clone(),
            list: vec![Fault::new(span.clone(), message)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{self, Overrides};
    use std::path::Path;

    fn plan(text: &str) -> Plan {
        let whole = format!("[image]\nname = 'x'\n[source]\nfile = 'base.qcow2'\n{text}");
        let overrides = Overrides::default();
        let recipe = recipe::parse("x.toml", &whole, Path::new("/recipes"), &overrides).unwrap();
        let facts = Facts {
            current_folder: "/here".into(),
            ..Facts::default()
        };
        Plan::new(&recipe, &facts)
    }

    #[test]
    fn paths_start_where_a_user_expects() {
        let plan = plan("");
        let file = source::Spec::File {
            path: "/recipes/base.qcow2".into(),
            verify: None,
        };
        assert_eq!(plan.source, file, "inputs: beside the recipe");
        assert_eq!(
            plan.output.path,
            Path::new("/here/out/x.qcow2"),
            "outputs: here"
        );
    }

    #[test]
    fn a_steps_digest_follows_what_it_does_and_nothing_else() {
        let digest = |step: &str| plan(&format!("[[step]]\n{step}")).steps[0].digest.clone();
        let first = digest("run = 'true'");
        for same in [
            "run = 'true'\nname = 'n'",
            "run = 'true'\ntimeout = '5m'",
            "run = \"true\"",
        ] {
            assert_eq!(digest(same), first, "{same}");
        }
        for other in [
            "run = 'true '",
            "run = 'true'\nsudo = false",
            "run = 'true'\nenv = { A = '1' }",
            "packages = ['true']",
        ] {
            assert_ne!(digest(other), first, "{other}");
        }
    }

    #[test]
    fn unnamed_steps_are_called_by_action_and_number() {
        let plan = plan("[[step]]\nrun = 'a'\n[[step]]\nreboot = true");
        let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["run-1", "reboot-2"]);
    }
}
