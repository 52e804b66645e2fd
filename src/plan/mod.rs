//! `Recipe` + facts → [`Plan`]: resolved, immutable, and all that a build reads. No I/O here but gathering [`Facts`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use toml::Spanned;

use crate::backend::{Accel, Firmware, Spec};
use crate::error::{Fault, Faults, Source};
use crate::recipe::{self, Recipe, Tree};
use crate::seal;
use crate::seed::{Extra, UserData};
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
            source: source_spec(recipe),
            machine: machine(recipe),
            disk: recipe
                .machine
                .disk
                .as_ref()
                .map(|disk| (disk.get_ref().0, disk.span())),
            seed: seed(recipe),
            user: recipe.ssh.user.get_ref().clone(),
            boot_timeout: recipe.ssh.timeout.0,
            steps: steps(recipe, Role::Step, &recipe.steps, facts),
            keep: keep(recipe),
            tests: steps(recipe, Role::Test, &recipe.tests, facts),
            output: output(recipe, &name, &facts.current_folder),
            secrets: secrets(recipe),
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

fn source_spec(recipe: &Recipe) -> source::Spec {
    let base = &recipe.base;
    let text = |value: &Option<Spanned<String>>| value.as_ref().map(|v| v.get_ref().clone());
    let local_or_url = |value: &str| match value.contains("://") {
        true => value.to_owned(),
        false => recipe.folder.join(value).to_string_lossy().into_owned(),
    };
    let signature = text(&base.signature).zip(text(&base.key));
    let signature = signature.map(|(location, key)| source::Signature {
        location: local_or_url(&location),
        key: recipe.folder.join(key),
    });
    let checksums = text(&base.checksums).map(|list| source::Verify::Checksums {
        list: local_or_url(&list),
        signature,
    });
    let sha256 = text(&base.sha256).map(|digest| digest.to_ascii_lowercase());
    let verify = sha256.map(source::Verify::Sha256).or(checksums);
    let mirrors = base.mirrors.iter().map(|m| m.get_ref().clone()).collect();
    match (
        text(&base.ubuntu),
        text(&base.debian),
        text(&base.url),
        verify,
    ) {
        (Some(release), ..) => source::Spec::Ubuntu { release, mirrors },
        (_, Some(release), ..) => source::Spec::Debian { release, mirrors },
        (_, _, Some(url), Some(verify)) => source::Spec::Url {
            url,
            mirrors,
            verify,
        },
        // A valid recipe has one of the four, and a URL has its digest or list.
        (_, _, _, verify) => source::Spec::File {
            path: recipe.folder.join(text(&base.file).unwrap_or_default()),
            verify,
        },
    }
}

fn machine(recipe: &Recipe) -> Spec {
    let machine = &recipe.machine;
    Spec {
        cpus: machine.cpus.get_ref().0,
        memory: machine.memory.get_ref().0,
        firmware: match machine.firmware {
            recipe::Firmware::Bios => Firmware::Bios,
            recipe::Firmware::Uefi => Firmware::Uefi,
        },
        accel: match machine.accel {
            recipe::Accel::Auto => Accel::Auto,
            recipe::Accel::Kvm => Accel::Kvm,
            recipe::Accel::Tcg => Accel::Tcg,
        },
        ssh_port: recipe.ssh.port,
    }
}

fn seed(recipe: &Recipe) -> Extra {
    use recipe::FileOrTable;
    let data = &recipe.cloud_init;
    let file = |path: &String| recipe.files.texts.get(path).cloned().unwrap_or_default();
    let text = |value: &Option<Spanned<FileOrTable>>, header: &str| {
        value.as_ref().map(|value| match value.get_ref() {
            FileOrTable::File(path) => file(path),
            FileOrTable::Table(table) => format!("{header}{table:#}\n"),
        })
    };
    Extra {
        user_data: data.user_data.as_ref().map(|data| match data.get_ref() {
            FileOrTable::File(path) => UserData::Text(file(path)),
            FileOrTable::Table(table) => UserData::Config(table.clone()),
        }),
        network_config: text(&data.network_config, ""),
        vendor_data: text(&data.vendor_data, "#cloud-config\n"),
    }
}

fn keep(recipe: &Recipe) -> BTreeSet<seal::Item> {
    let names = recipe.seal.keep.iter();
    names
        .filter_map(|name| seal::Item::parse(name.get_ref()))
        .collect()
}

fn output(recipe: &Recipe, name: &str, current_folder: &Path) -> Output {
    let format = match recipe.output.format {
        recipe::OutputFormat::Qcow2 => source::Format::Qcow2,
        recipe::OutputFormat::Raw => source::Format::Raw,
    };
    let path = match &recipe.output.path {
        Some(path) => PathBuf::from(path.get_ref()),
        None => Path::new("out").join(format!("{name}.{}", format.name())),
    };
    Output {
        path: current_folder.join(path),
        format,
        compression: match (format, recipe.output.compression.as_ref()) {
            (source::Format::Raw, _) => Compression::None,
            (source::Format::Qcow2, None) => Compression::Default,
            (source::Format::Qcow2, Some(compression)) => match compression.get_ref() {
                recipe::Compression::Zstd => Compression::Zstd,
                recipe::Compression::None => Compression::None,
            },
        },
    }
}

fn secrets(recipe: &Recipe) -> BTreeMap<String, SecretSource> {
    let text = |value: &Option<Spanned<String>>| value.as_ref().map(|v| v.get_ref().clone());
    let source = |secret: &recipe::Secret| match (text(&secret.env), text(&secret.file)) {
        (Some(name), _) => SecretSource::Env(name),
        (None, Some(path)) => SecretSource::File(recipe.folder.join(path)),
        (None, None) => SecretSource::Command {
            line: text(&secret.command).unwrap_or_default(),
            folder: recipe.folder.clone(),
        },
    };
    let secrets = recipe.secrets.iter();
    secrets
        .map(|(name, secret)| (name.clone(), source(secret.get_ref())))
        .collect()
}

fn steps(recipe: &Recipe, role: Role, steps: &[Spanned<recipe::Step>], facts: &Facts) -> Vec<Step> {
    let numbered = steps.iter().enumerate();
    numbered
        .map(|(index, step)| plan_step(recipe, role, index + 1, step, facts))
        .collect()
}

fn plan_step(
    recipe: &Recipe,
    role: Role,
    number: usize,
    spanned: &Spanned<recipe::Step>,
    facts: &Facts,
) -> Step {
    let step = spanned.get_ref();
    let action = action(recipe, step);
    let name = match &step.name {
        Some(name) => name.get_ref().clone(),
        None => format!("{}-{number}", action.name()),
    };
    let env: BTreeMap<String, String> = step
        .env
        .iter()
        .map(|(name, value)| (name.get_ref().clone(), value.clone()))
        .collect();
    Step {
        digest: digest(&action, step, &env, facts),
        role,
        name,
        span: spanned.span(),
        action,
        sudo: step.sudo,
        env,
        secrets: step.secrets.iter().map(|s| s.get_ref().clone()).collect(),
        timeout: step.timeout.map_or(STEP_TIMEOUT, |timeout| timeout.0),
        retries: step.retries,
        ok_exit_codes: match &step.ok_exit_codes {
            Some(codes) => codes.get_ref().clone(),
            None => vec![0],
        },
    }
}

fn action(recipe: &Recipe, step: &recipe::Step) -> Action {
    if let Some(run) = &step.run {
        return Action::Run {
            script: run.get_ref().clone().into_bytes(),
        };
    }
    if let Some(packages) = &step.packages {
        return Action::Packages {
            names: packages.get_ref().clone(),
        };
    }
    if let Some(script) = step
        .script
        .as_ref()
        .and_then(|s| recipe.files.scripts.get(s.get_ref()))
    {
        return Action::Run {
            script: script.clone(),
        };
    }
    let upload = step.upload.as_ref().map(Spanned::get_ref);
    let tree = upload.and_then(|upload| recipe.files.trees.get(upload.from.get_ref()));
    match upload.zip(tree) {
        Some((upload, tree)) => Action::Upload {
            tree: tree.clone(),
            to: upload.to.get_ref().clone(),
            owner: upload.owner.as_ref().map(|owner| owner.get_ref().clone()),
        },
        None => Action::Reboot,
    }
}

/// Everything that decides what the step does to the guest; neither its name nor how long it may take.
fn digest(
    action: &Action,
    step: &recipe::Step,
    env: &BTreeMap<String, String>,
    facts: &Facts,
) -> String {
    let upload = step.upload.as_ref().map(Spanned::get_ref);
    let tree = upload.and_then(|upload| facts.trees.get(upload.from.get_ref()));
    let script = match action {
        Action::Run { script } => Some(hex(&Sha256::digest(script))),
        _ => None,
    };
    let inputs = serde_json::json!({
        "action": action.name(),
        "script": script,
        "packages": step.packages.as_ref().map(Spanned::get_ref),
        "upload": upload.map(|upload| (upload.to.get_ref(), upload.owner.as_ref().map(Spanned::get_ref))),
        "content": tree,
        "sudo": step.sudo,
        "env": env,
        "secrets": step.secrets.iter().map(Spanned::get_ref).collect::<Vec<_>>(),
    });
    hex(&Sha256::digest(inputs.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Overrides;

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
