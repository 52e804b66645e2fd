//! The keys of layers: everything that can change what is on the guest's disk after a step, and nothing that cannot.
//!
//! A key is a digest over the key before it and what the step is made of. What a machine's RAM depends on besides (QEMU, the
//! host's CPU) is not in it, nor are names, time limits, retries, or the identity of the guest during the build.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{Action, Inputs, Plan, Step, digest};
use crate::recipe::Cache;
use crate::seed::UserData;
use crate::text::hex;

/// Raised when imgbuild itself does something else to the guest for the same recipe, in the seed, an action, or sealing,
/// without becoming another version.
const VERSION: u32 = 1;

/// Raised when something else is written into images just before sealing, or beside them. No layer depends on it.
const PROVENANCE: u32 = 3;

/// What the plan alone does not know.
pub struct Base {
    /// The base image's digest.
    pub digest: String,
    /// Bytes of the machine's disk.
    pub disk: u64,
}

/// The state of the guest after one step, or after its boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The step's name, or what comes before all steps.
    pub name: String,
    pub key: String,
    /// How many of the plan's steps are done.
    pub steps: usize,
    pub inputs: Inputs,
    /// How long the step's result is good for.
    pub max_age: Option<Duration>,
    /// Whether a secret may be in the RAM that must not be saved.
    pub secret: bool,
}

/// Why the steps after the last key have none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// The step says that it is always done.
    Always,
    /// Somebody may do anything to the guest.
    Breakpoint,
    /// Nobody told this secret.
    Secret(String),
}

/// The keys of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// That of the boot, then those of the steps, as far as layers can be made of them.
    pub chain: Vec<Key>,
    /// Why not all steps have one.
    pub ends: Option<Break>,
    /// What the whole image depends on, if every step has a key.
    pub image: Option<String>,
}

impl Keys {
    /// The keys of a plan on this base image. `secret` gives a value that stands for a secret's, if it is known. Breakpoints
    /// count if they stop the build.
    pub fn new(
        plan: &Plan,
        base: &Base,
        secret: impl Fn(&str) -> Option<String>,
        breakpoints: bool,
    ) -> Self {
        let root = root(plan, base);
        let mut chain = vec![Key {
            name: "boot".into(),
            key: digest(&root),
            steps: 0,
            inputs: root,
            max_age: None,
            secret: false,
        }];
        let mut ends = None;
        for (at, step) in plan.steps.iter().enumerate() {
            let Some(before) = chain.last() else { break };
            match next(plan, before, step, &secret, breakpoints) {
                Ok(key) => chain.push(Key {
                    steps: at + 1,
                    ..key
                }),
                Err(why) => {
                    ends = Some(why);
                    break;
                }
            }
        }
        let whole = chain.last().filter(|_| ends.is_none());
        Keys {
            image: whole.and_then(|last| image(plan, last, &secret)),
            chain,
            ends,
        }
    }
}

/// The state after `step`.
fn next(
    plan: &Plan,
    before: &Key,
    step: &Step,
    secret: &impl Fn(&str) -> Option<String>,
    breakpoints: bool,
) -> Result<Key, Break> {
    let max_age = match (&step.action, step.cache) {
        (Action::Breakpoint, _) if breakpoints => return Err(Break::Breakpoint),
        // Nobody stops there: it is as if it were not there.
        (Action::Breakpoint, _) => return Ok(before.clone()),
        (_, Cache::Never) => return Err(Break::Always),
        (_, Cache::For(time)) => Some(time),
        (_, Cache::Forever) => None,
    };
    let inputs = with_secrets(step, secret)?;
    let reboots = step.action == Action::Reboot;
    let stays_out = |name: &String| !plan.secrets_in_memory.contains(name);
    let secret_now = step.secrets.iter().any(stays_out);
    Ok(Key {
        name: step.name.clone(),
        key: chained(&before.key, &inputs),
        steps: before.steps,
        inputs,
        max_age,
        secret: !reboots && (before.secret || secret_now),
    })
}

/// A step's inputs with what stands for the values of its secrets, and which results of it are good.
fn with_secrets(step: &Step, secret: &impl Fn(&str) -> Option<String>) -> Result<Inputs, Break> {
    let mut inputs = step.inputs.clone();
    for name in &step.secrets {
        let value = secret(name).ok_or_else(|| Break::Secret(name.clone()))?;
        inputs.insert(format!("secret {name}"), value);
    }
    match &step.action {
        // It may do something else elsewhere.
        Action::Local { folder, .. } => {
            inputs.insert("folder".into(), folder.to_string_lossy().into_owned());
        }
        Action::Download { to, .. } => {
            inputs.insert("to".into(), to.to_string_lossy().into_owned());
        }
        _ => {}
    }
    if step.ok_exit_codes != [0] {
        inputs.insert("ok-exit-codes".into(), format!("{:?}", step.ok_exit_codes));
    }
    if step.expect_disconnect {
        inputs.insert("expect-disconnect".into(), "true".into());
    }
    Ok(inputs)
}

fn chained(before: &str, inputs: &Inputs) -> String {
    hex(&Sha256::digest(format!("{before} {}", digest(inputs))))
}

/// What the guest is after its boot.
fn root(plan: &Plan, base: &Base) -> Inputs {
    let short = |text: &str| hex(&Sha256::digest(text));
    let machine = &plan.machine;
    let mut inputs = Inputs::from(
        [
            (
                "imgbuild",
                format!("{} {VERSION}", env!("CARGO_PKG_VERSION")),
            ),
            ("base image", base.digest.clone()),
            ("disk", base.disk.to_string()),
            ("cpus", machine.cpus.to_string()),
            ("memory", machine.memory.to_string()),
            ("firmware", machine.firmware.name().into()),
            ("user", plan.user.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    if plan.target.is_some() {
        inputs.extend(plan.proxmox.inputs());
    }
    let mut add = |name: &str, text: Option<String>| {
        if let Some(text) = text {
            inputs.insert(name.to_owned(), short(&text));
        }
    };
    let user_data = plan.seed.user_data.as_ref();
    add(
        "user-data",
        user_data.map(|data| match data {
            UserData::Text(text) => format!("text {text}"),
            UserData::Config(table) => format!("table {table}"),
        }),
    );
    add("network-config", plan.seed.network_config.clone());
    add("vendor-data", plan.seed.vendor_data.clone());
    inputs
}

/// What the image is made of beyond the last step, and what it is called.
fn image(plan: &Plan, last: &Key, secret: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let steps = plan.finally.iter().chain(&plan.tests);
    let steps = steps.map(|step| match step.cache {
        // What is good for a time only is no layer, so nobody would notice that the time is over.
        Cache::Never | Cache::For(_) => None,
        Cache::Forever => {
            let inputs = with_secrets(step, secret).ok()?;
            Some((step.role.name(), inputs))
        }
    });
    let steps: Vec<_> = steps.collect::<Option<_>>()?;
    let ages: Vec<_> = plan
        .steps
        .iter()
        .map(|step| format!("{:?}", step.cache))
        .collect();
    let keep: Vec<&str> = plan.keep.iter().map(|item| item.name()).collect();
    let mut facts = serde_json::json!({
        "last": last.key, "steps": steps, "ages": ages, "keep": keep,
        "image": [&plan.name, &plan.description], "labels": plan.labels,
        "output": format!("{:?}", plan.output), "import": plan.import,
        "provenance": PROVENANCE, "signing": plan.signing_key,
    });
    if plan.target.is_some() {
        facts["proxmox"] = serde_json::json!(plan.proxmox);
    }
    Some(hex(&Sha256::digest(facts.to_string())))
}

#[cfg(test)]
mod tests;
