//! From the tables of a recipe to the parts of a plan, one function each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use toml::Spanned;

use super::{Action, Compression, Facts, Output, Role, STEP_TIMEOUT, SecretSource, Step};
use crate::backend::{Accel, Firmware, Spec};
use crate::recipe::{self, Recipe};
use crate::seal;
use crate::seed::{Extra, UserData};
use crate::source;
use crate::text::hex;

pub(super) fn source_spec(recipe: &Recipe) -> source::Spec {
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
        ssh_port: recipe.ssh.port,
    }
}

pub(super) fn seed(recipe: &Recipe) -> Extra {
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

pub(super) fn keep(recipe: &Recipe) -> BTreeSet<seal::Item> {
    let names = recipe.seal.keep.iter();
    names
        .filter_map(|name| seal::Item::parse(name.get_ref()))
        .collect()
}

pub(super) fn output(recipe: &Recipe, name: &str, current_folder: &Path) -> Output {
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

pub(super) fn secrets(recipe: &Recipe) -> BTreeMap<String, SecretSource> {
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

pub(super) fn steps(
    recipe: &Recipe,
    role: Role,
    steps: &[Spanned<recipe::Step>],
    facts: &Facts,
) -> Vec<Step> {
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
