//! From the tables of a recipe to the parts of a plan, one function each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{
    Action, Compression, Facts, Fetch, Inputs, Output, Role, STEP_TIMEOUT, Step, Uploaded,
};
use crate::backend::{Accel, Firmware, Spec};
use crate::recipe::{self, Cache, Content, Loaded, Recipe, Spanned};
use crate::record::TemplateFile;
use crate::seal;
use crate::secret::SecretSource;
use crate::seed::{Extra, UserData};
use crate::source;
use crate::text::hex;

/// The path that a text of the recipe means.
pub(super) fn path(recipe: &Recipe, written: &Spanned<String>) -> PathBuf {
    recipe::resolved(&recipe.sources, written)
}

pub(super) fn machine(recipe: &Recipe) -> Spec {
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
        ssh_port: *recipe.ssh.port.get_ref(),
    }
}

pub(super) fn seed(recipe: &Recipe) -> Extra {
    use recipe::FileOrTable;
    let data = &recipe.cloud_init;
    let file = |path: &String| recipe.texts.get(path).cloned().unwrap_or_default();
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

pub(super) fn keep(recipe: &Recipe) -> BTreeSet<seal::Item> {
    let names = recipe.seal.keep.iter();
    names
        .filter_map(|name| seal::Item::parse(name.get_ref()))
        .collect()
}

pub(super) fn output(recipe: &Recipe, name: &str, facts: &Facts) -> Output {
    let format = match recipe.output.format {
        recipe::OutputFormat::Qcow2 => source::Format::Qcow2,
        recipe::OutputFormat::Raw => source::Format::Raw,
    };
    let path = match &recipe.output.path {
        Some(path) => PathBuf::from(path.get_ref()),
        None => Path::new("out").join(format!("{name}.{}", format.name())),
    };
    let path = facts.current_folder.join(path);
    Output {
        // Only what is said of a template is here, so that the name is the image's whatever its file would be called.
        path: match &facts.target {
            None => path,
            Some(target) => path
                .with_file_name(target)
                .join(format!("{name}.{}", TemplateFile::EXTENSION)),
        },
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

pub(super) fn signing_key(recipe: &Recipe) -> Option<PathBuf> {
    recipe.signing.key.as_ref().map(|key| path(recipe, key))
}

pub(super) fn secrets(recipe: &Recipe) -> BTreeMap<String, SecretSource> {
    let text = |value: &Option<Spanned<String>>| value.as_ref().map(|v| v.get_ref().clone());
    let source = |secret: &recipe::Secret| match (text(&secret.env), &secret.file) {
        (Some(name), _) => SecretSource::Env(name),
        (None, Some(file)) => SecretSource::File(path(recipe, file)),
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

pub(super) fn secrets_in_memory(recipe: &Recipe) -> BTreeSet<String> {
    let secrets = recipe.secrets.iter();
    let allowed = secrets.filter(|(_, secret)| secret.get_ref().saved_memory);
    allowed.map(|(name, _)| name.clone()).collect()
}

/// A list of steps, sorted by when they are done.
#[derive(Default)]
pub(super) struct Sorted {
    /// In their order.
    pub steps: Vec<Step>,
    /// Last of all, whatever happened before.
    pub finally: Vec<Step>,
    /// The names of those that are for other backends.
    pub elsewhere: Vec<String>,
}

/// Plans a list of steps.
pub(super) fn steps(
    recipe: &Recipe,
    role: Role,
    steps: &[Loaded],
    contents: &[Uploaded],
    facts: &Facts,
) -> Sorted {
    let mut sorted = Sorted::default();
    for (index, loaded) in steps.iter().enumerate() {
        let nothing = Uploaded::default();
        let content = contents.get(index).unwrap_or(&nothing);
        let step = plan_step(recipe, role, index + 1, loaded, content, facts);
        let only_on = loaded.step.only_on.as_ref().map(Spanned::get_ref);
        if only_on.is_some_and(|targets| !targets.contains(&facts.on())) {
            sorted.elsewhere.push(step.name);
        } else if loaded.step.finally {
            sorted.finally.push(step);
        } else {
            sorted.steps.push(step);
        }
    }
    // What was set up last is put back first.
    sorted.finally.reverse();
    sorted
}

fn plan_step(
    recipe: &Recipe,
    role: Role,
    number: usize,
    loaded: &Loaded,
    content: &Uploaded,
    facts: &Facts,
) -> Step {
    let step = &loaded.step;
    let action = action(recipe, loaded, facts);
    let name = match &step.name {
        Some(name) => name.get_ref().clone(),
        None => format!("{}-{number}", action.name()),
    };
    let mut env = loaded.exports.clone();
    env.extend(
        step.env
            .iter()
            .map(|(name, value)| (name.get_ref().clone(), value.clone())),
    );
    let sudo = step.sudo.as_ref().is_none_or(|sudo| *sudo.get_ref());
    let secrets: Vec<String> = step.secrets.iter().map(|s| s.get_ref().clone()).collect();
    let own = |flag: &Option<Spanned<bool>>| flag.as_ref().is_some_and(|flag| *flag.get_ref());
    let user = (!sudo).then_some(recipe.ssh.user.get_ref().as_str());
    let inputs = inputs(&action, user, &env, &secrets, &content.digest);
    Step {
        digest: super::digest(&inputs),
        files: content.files.clone(),
        inputs,
        role,
        name,
        span: loaded.span.clone(),
        action,
        sudo,
        env,
        secrets,
        timeout: step
            .timeout
            .as_ref()
            .map_or(STEP_TIMEOUT, |timeout| timeout.get_ref().0),
        retries: step
            .retries
            .as_ref()
            .map_or(0, |retries| *retries.get_ref()),
        ok_exit_codes: match &step.ok_exit_codes {
            Some(codes) => codes.get_ref().clone(),
            None => vec![0],
        },
        expect_disconnect: own(&step.expect_disconnect),
        cache: step.cache.unwrap_or(Cache::Forever),
    }
}

fn action(recipe: &Recipe, loaded: &Loaded, facts: &Facts) -> Action {
    let step = &loaded.step;
    let owner = |owner: &Option<Spanned<String>>| owner.as_ref().map(|o| o.get_ref().clone());
    match &loaded.content {
        Content::Script(script) if step.local.is_some() => {
            return Action::Local {
                script: script.clone(),
                folder: recipe.folder.clone(),
            };
        }
        Content::Script(script) => {
            return Action::Run {
                script: script.clone(),
            };
        }
        Content::Tree(tree) => {
            let upload = step.upload.as_ref().map(Spanned::get_ref);
            let file = step.file.as_ref().map(Spanned::get_ref);
            let to = upload.map(|u| &u.to).or(file.map(|f| &f.to));
            let of = upload.map(|u| &u.owner).or(file.map(|f| &f.owner));
            return Action::Upload {
                tree: tree.clone(),
                to: to.map_or_else(String::new, |to| to.get_ref().clone()),
                owner: of.and_then(owner),
            };
        }
        Content::None => {}
    }
    if let Some(packages) = &step.packages {
        return Action::Packages {
            names: packages.get_ref().clone(),
        };
    }
    if let Some(download) = step.download.as_ref().map(Spanned::get_ref) {
        return Action::Download {
            from: download.from.get_ref().clone(),
            to: facts.current_folder.join(download.to.get_ref()),
        };
    }
    if let Some(fetch) = step.fetch.as_ref().map(Spanned::get_ref) {
        let digest = match (&fetch.sha256, &fetch.integrity) {
            (Some(sha256), _) => source::Digest::new(source::Algorithm::Sha256, sha256.get_ref()),
            (None, Some(integrity)) => source::Digest::from_integrity(integrity.get_ref()),
            (None, None) => None,
        };
        let urls = std::iter::once(&fetch.url).chain(&fetch.mirrors);
        // A valid recipe has one of the two.
        if let Some(digest) = digest {
            return Action::Fetch(Fetch {
                urls: urls.map(|url| url.get_ref().clone()).collect(),
                digest,
                to: fetch.to.get_ref().clone(),
                unpack: fetch.unpack.then_some(fetch.strip),
                mode: fetch.mode.map_or(0o644, |mode| mode.0),
                owner: owner(&fetch.owner),
            });
        }
    }
    match step.breakpoint {
        Some(_) => Action::Breakpoint,
        None => Action::Reboot,
    }
}

/// Everything that decides what the step does to the guest, by name; neither its own name nor how long it may take.
fn inputs(
    action: &Action,
    user: Option<&str>,
    env: &BTreeMap<String, String>,
    secrets: &[String],
    content: &str,
) -> Inputs {
    let mut inputs = Inputs::from([("action".into(), action.name().into())]);
    let mut set = |name: &str, value: String| {
        inputs.insert(name.to_owned(), value);
    };
    match action {
        Action::Run { script } | Action::Local { script, .. } => {
            set("script", hex(&Sha256::digest(script)));
        }
        Action::Packages { names } => set("packages", names.join(" ")),
        Action::Upload { tree, to, owner } => {
            set(super::CONTENT, content.to_owned());
            set("to", to.clone());
            set("owner", owner.clone().unwrap_or_default());
            // What goes into a folder keeps its name there.
            if let Some(name) = tree.root.file_name().filter(|_| to.ends_with('/')) {
                set("file name", name.to_string_lossy().into_owned());
            }
        }
        Action::Download { from, .. } => set("from", from.clone()),
        Action::Fetch(fetch) => {
            set("file", fetch.digest.to_string());
            set("file name", fetch.name().to_owned());
            set("to", fetch.to.clone());
            set("owner", fetch.owner.clone().unwrap_or_default());
            set("mode", format!("{:o}", fetch.mode));
            set(
                "unpack",
                fetch
                    .unpack
                    .map_or_else(String::new, |strip| strip.to_string()),
            );
        }
        Action::Reboot | Action::Breakpoint => {}
    }
    if let Some(user) = user {
        set("user", user.to_owned());
    }
    for (name, value) in env {
        set(&format!("environment {name}"), value.clone());
    }
    for name in secrets {
        set(&format!("secret {name}"), String::new());
    }
    inputs
}
