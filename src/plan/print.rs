//! A plan as `imgbuild plan` prints it, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{Action, Compression, Plan, Proxmox, State, Step};
use crate::recipe::Cache;
use crate::secret::SecretSource;
use crate::source::{Resolved, Spec};
use crate::text::span;

/// Everything that decides what a build does, in a form that can be printed and read again. Secrets are in it by name
/// only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Printed {
    pub name: String,
    /// What versions are called besides their numbers.
    pub version: Option<String>,
    /// Whether the image is there already as a build would make it.
    pub up_to_date: bool,
    pub description: String,
    pub labels: BTreeMap<String, String>,
    /// The recipe, then what it extends and the bundles that it uses.
    pub recipe: Vec<Text>,
    pub vars: BTreeMap<String, serde_json::Value>,
    pub data: Vec<Text>,
    pub source: Source,
    /// What is on the target already; none if it is built on this machine.
    pub target: Option<OnTarget>,
    /// None for an image that is imported as it is.
    pub machine: Option<Machine>,
    /// None for a build on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxmox: Option<Proxmox>,
    /// What becomes of the boot; none if the base image is not on this machine, or nothing is booted.
    pub boot: Option<State>,
    pub steps: Vec<PrintedStep>,
    pub finally: Vec<PrintedStep>,
    pub tests: Vec<PrintedStep>,
    pub left_out: Vec<String>,
    pub secrets: BTreeMap<String, String>,
    pub keep: Vec<String>,
    pub output: Output,
}

/// A text or a document, by its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Text {
    pub name: String,
    pub sha256: String,
}

/// The base image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The recipe's word for the kind of source.
    pub kind: String,
    /// URL or path.
    pub origin: String,
    /// `sha256:…` or `sha512:…`; none for a local file that nothing is expected of.
    pub digest: Option<String>,
}

/// What a target has of a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OnTarget {
    pub name: String,
    /// The node that the build would go to, if that is chosen for each.
    pub node: Option<String>,
    /// What the base image, or a template's disk, is called there; none if its digest is not known yet.
    pub base: Option<String>,
    pub has_base: bool,
    /// The newest version in the registry.
    pub version: Option<String>,
    /// How its template differs from what was written down of it.
    pub drift: Vec<String>,
}

/// The machine that is built in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Machine {
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes; the base image's own size if not given.
    pub disk: Option<u64>,
    pub firmware: String,
    pub user: String,
    /// Seconds.
    pub boot_timeout: f64,
}

/// A step or test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PrintedStep {
    pub name: String,
    pub action: String,
    /// What is done, in a few words.
    pub summary: String,
    /// Over everything that decides what it does.
    pub sha256: String,
    pub sudo: bool,
    pub env: BTreeMap<String, String>,
    pub secrets: Vec<String>,
    /// Seconds.
    pub timeout: f64,
    pub retries: u32,
    pub ok_exit_codes: Vec<i32>,
    pub expect_disconnect: bool,
    /// `true`, `false`, or seconds.
    pub cache: serde_json::Value,
    /// What becomes of a step, as far as it is known.
    pub layer: Option<State>,
}

/// The artifact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    pub path: String,
    pub format: String,
    pub compression: String,
}

impl Printed {
    /// Prints a plan. `resolved` is what its source stands for now; `outlook` whether there is
    /// nothing to do, and what becomes of the boot and of each step, where that is known.
    pub fn new(
        plan: &Plan,
        resolved: &Resolved,
        outlook: Option<(bool, Vec<State>)>,
        target: Option<OnTarget>,
    ) -> Self {
        let (up_to_date, states) = outlook.unwrap_or_default();
        let mut states = states.into_iter();
        let boot = states.next();
        let with_state = |step: &Step| PrintedStep {
            layer: states.next(),
            ..PrintedStep::new(step)
        };
        let steps = plan.steps.iter().map(with_state).collect();
        let text = |(name, sha256): &(String, String)| Text {
            name: name.clone(),
            sha256: sha256.clone(),
        };
        let documents = plan.documents.iter().map(|document| Text {
            name: document.name.clone(),
            sha256: document.sha256.clone(),
        });
        let vars = plan.vars.iter().map(|(name, value)| {
            // TOML's values are a part of JSON's, but for times, which no variable is.
            (
                name.clone(),
                serde_json::to_value(value).unwrap_or_default(),
            )
        });
        let secrets = plan.secrets.iter().map(|(name, source)| {
            let from = match source {
                SecretSource::Env(_) => "env",
                SecretSource::File(_) => "file",
                SecretSource::Command { .. } => "command",
            };
            (name.clone(), from.to_owned())
        });
        Printed {
            name: plan.name.clone(),
            version: plan.version.clone(),
            up_to_date,
            description: plan.description.clone(),
            labels: plan.labels.clone(),
            recipe: plan.texts.iter().map(text).collect(),
            vars: vars.collect(),
            data: documents.collect(),
            source: Source {
                kind: kind(&plan.source).to_owned(),
                origin: resolved.origin.clone(),
                digest: resolved.expected.as_ref().map(ToString::to_string),
            },
            target,
            machine: (!plan.import).then(|| Machine {
                cpus: plan.machine.cpus,
                memory: plan.machine.memory,
                disk: plan.disk.as_ref().map(|(size, _)| *size),
                firmware: plan.machine.firmware.name().to_owned(),
                user: plan.user.clone(),
                boot_timeout: plan.boot_timeout.as_secs_f64(),
            }),
            proxmox: (plan.target.is_some()).then(|| plan.proxmox.clone()),
            boot,
            steps,
            finally: plan.finally.iter().map(PrintedStep::new).collect(),
            tests: plan.tests.iter().map(PrintedStep::new).collect(),
            left_out: plan.left_out.clone(),
            secrets: secrets.collect(),
            keep: plan
                .keep
                .iter()
                .map(|item| item.name().to_owned())
                .collect(),
            output: Output {
                path: plan.output.path.display().to_string(),
                format: plan.output.format.name().to_owned(),
                compression: match plan.output.compression {
                    Compression::Default => "zstd if QEMU has it",
                    Compression::Zstd => "zstd",
                    Compression::None => "none",
                }
                .to_owned(),
            },
        }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{label:<9} {value}");
        };
        let state = if self.up_to_date { " (up to date)" } else { "" };
        line("image", &format!("{}{state}", self.name));
        if let Some(version) = &self.version {
            line("version", version);
        }
        for recipe in &self.recipe {
            line(
                "recipe",
                &format!("{} ({})", recipe.name, short(&recipe.sha256)),
            );
        }
        for (name, value) in &self.vars {
            line("var", &format!("{name} = {value}"));
        }
        for document in &self.data {
            line(
                "data",
                &format!("{} ({})", document.name, short(&document.sha256)),
            );
        }
        line(
            "source",
            &format!("{}: {}", self.source.kind, self.source.origin),
        );
        let unknown = match self.source.kind.as_str() {
            "recipe" | "nixos" => "not built yet",
            "template" => "known by what its server says of it",
            _ => "not verified: a local file",
        };
        line("", self.source.digest.as_deref().unwrap_or(unknown));
        if let Some(target) = &self.target {
            target.tell(&mut line);
        }
        let machine = match &self.machine {
            Some(machine) => machine.to_text(),
            None => "none: imported as it is, not sealed, audited or tested".into(),
        };
        line("machine", &machine);
        if let Some(proxmox) = &self.proxmox {
            line("", &proxmox.machines());
            line("template", &proxmox.template());
        }
        match &self.boot {
            Some(state) => line("boot", &told(state)),
            None if self.machine.is_none() => {}
            None => line("boot", "it runs: the base image is not on this machine yet"),
        }
        for (name, from) in &self.secrets {
            line("secret", &format!("{name} from {from}"));
        }
        for (label, steps) in [
            ("step", &self.steps),
            ("finally", &self.finally),
            ("test", &self.tests),
        ] {
            for step in steps {
                let sha256 = short(&step.sha256);
                line(label, &format!("{sha256}  {}: {}", step.name, step.summary));
                if let Some(state) = &step.layer {
                    line("", &told(state));
                }
            }
        }
        for name in &self.left_out {
            line("left out", name);
        }
        if !self.keep.is_empty() {
            line("kept", &self.keep.join(", "));
        }
        let output = &self.output;
        line(
            "output",
            &format!(
                "{} ({}, compression {})",
                output.path, output.format, output.compression
            ),
        );
        text
    }
}

fn told(state: &State) -> String {
    match state {
        State::Cached { age, size, saves } => {
            let size = indicatif::BinaryBytes(*size);
            format!("cached {} ago ({size}), saves {}", span(*age), span(*saves))
        }
        State::Layered { layer } => format!("taken over with the layer {layer}"),
        State::Runs { why } => format!("runs: {why}"),
    }
}

impl OnTarget {
    fn tell(&self, line: &mut impl FnMut(&str, &str)) {
        let base = match (&self.base, self.has_base) {
            (Some(base), true) => format!("{base} is there"),
            (Some(base), false) => format!("{base} is brought"),
            (None, _) => "the base image is brought, or built first".to_owned(),
        };
        let base = match &self.node {
            Some(node) => format!("{}, {node}: {base}", self.name),
            None => format!("{}: {base}", self.name),
        };
        line("target", &base);
        if let Some(version) = &self.version {
            for drift in &self.drift {
                line("drift", &format!("{version}: {drift}"));
            }
        }
    }
}

impl Machine {
    fn to_text(&self) -> String {
        let bytes = |number: u64| indicatif::BinaryBytes(number).to_string();
        let disk = self.disk.map_or("as large as the source\'s".into(), bytes);
        format!(
            "{} CPUs, {} memory, disk {disk}, {}",
            self.cpus,
            bytes(self.memory),
            self.firmware
        )
    }
}

/// As much of a digest as tells it from others.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn kind(spec: &Spec) -> &'static str {
    match spec {
        Spec::File { .. } => "file",
        Spec::Built { .. } => "recipe",
        Spec::Version { .. } => "image",
        Spec::Template { .. } => "template",
        Spec::Nixos { .. } => "nixos",
        Spec::Url { .. } => "url",
        Spec::Ubuntu { .. } => "ubuntu",
        Spec::Debian { .. } => "debian",
    }
}

impl PrintedStep {
    fn new(step: &Step) -> Self {
        PrintedStep {
            name: step.name.clone(),
            action: step.action.name().to_owned(),
            summary: summary(&step.action),
            sha256: step.digest.clone(),
            sudo: step.sudo,
            env: step.env.clone(),
            secrets: step.secrets.clone(),
            timeout: step.timeout.as_secs_f64(),
            retries: step.retries,
            ok_exit_codes: step.ok_exit_codes.clone(),
            expect_disconnect: step.expect_disconnect,
            cache: match step.cache {
                Cache::Forever => true.into(),
                Cache::Never => false.into(),
                Cache::For(time) => time.as_secs_f64().into(),
            },
            layer: None,
        }
    }
}

fn summary(action: &Action) -> String {
    let lines = |script: &[u8]| {
        let text = String::from_utf8_lossy(script);
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let first = lines.next().unwrap_or_default().trim().to_owned();
        match lines.count() {
            0 => first,
            n => format!("{first} … ({} lines)", n + 1),
        }
    };
    match action {
        Action::Run { script } => format!("run {}", lines(script)),
        Action::Local { script, .. } => format!("local {}", lines(script)),
        Action::Packages { names } => format!("packages {}", names.join(" ")),
        Action::Upload { tree, to, .. } => match tree.entries.len() {
            0 | 1 => format!("upload {to}"),
            n => format!("upload {to} ({} files and folders)", n - 1),
        },
        Action::Download { from, to } => format!("download {from} to {}", to.display()),
        Action::Fetch(fetch) => {
            format!("fetch {} to {} ({})", fetch.name(), fetch.to, fetch.digest)
        }
        Action::Reboot => "reboot".into(),
        Action::Breakpoint => "breakpoint".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_script_is_told_by_its_first_line() {
        let script = |text: &str| Action::Run {
            script: text.into(),
        };
        assert_eq!(
            summary(&script("\n  apt-get update\n")),
            "run apt-get update"
        );
        assert_eq!(summary(&script("a\n\nb\nc\n")), "run a … (3 lines)");
    }
}
