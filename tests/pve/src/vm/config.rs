//! Calls that show a configuration, and what its values may be.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::options::OPTIONS;
use crate::params::Kind;
use crate::reply::{Failure, Reply};
use crate::vm::Config;

/// `GET …/config`: with what is pending, or what is so now.
pub async fn show(context: Context) -> Reply {
    let mut world = context.cluster.world();
    let vm = world.vm(context.node(), context.params.vmid())?;
    let mut config = vm.config.clone();
    if !context.params.flag("current") {
        for (name, value) in &vm.pending {
            match value {
                Some(value) => config.insert(name.clone(), value.clone()),
                None => config.remove(name),
            };
        }
    }
    let mut shown: Map<String, Value> = config
        .iter()
        .map(|(name, value)| (name.clone(), typed(name, value)))
        .collect();
    shown.insert("digest".into(), json!(vm.digest()));
    Ok(Value::Object(shown).into())
}

/// `GET …/pending`
pub async fn pending(context: Context) -> Reply {
    let mut world = context.cluster.world();
    let vm = world.vm(context.node(), context.params.vmid())?;
    let mut shown: Vec<Value> = vec![];
    for (name, value) in &vm.config {
        let mut line = json!({"key": name, "value": typed(name, value)});
        match vm.pending.get(name) {
            Some(Some(next)) => line["pending"] = typed(name, next),
            Some(None) => line["delete"] = json!(1),
            None => {}
        }
        shown.push(line);
    }
    let added = vm
        .pending
        .iter()
        .filter(|(name, _)| !vm.config.contains_key(*name));
    for (name, value) in added {
        if let Some(value) = value {
            shown.push(json!({"key": name, "pending": typed(name, value)}));
        }
    }
    Ok(json!(shown).into())
}

/// A secret is not shown, numbers are numbers.
fn typed(name: &str, value: &str) -> Value {
    let option = OPTIONS.iter().find(|option| option.names(name));
    match option.map(|option| option.kind) {
        _ if name == "cipassword" => json!("**********"),
        Some(Kind::Flag | Kind::Integer(..)) => {
            value.parse::<i64>().map_or(json!(value), Value::from)
        }
        _ => json!(value),
    }
}

/// What the table of parameters does not say.
pub fn check_values(options: &Config) -> Result<(), Failure> {
    match options.get("sshkeys") {
        Some(keys) => check_keys(keys),
        None => Ok(()),
    }
}

/// Keys are percent-encoded once more than the form is. `+` would stay a `+`.
fn check_keys(value: &str) -> Result<(), Failure> {
    let plain = value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"%-_.~!*'()".contains(&byte));
    if !plain {
        let wrong = "invalid format - invalid urlencoded string\n";
        return Err(Failure::parameter("sshkeys", wrong));
    }
    let keys = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
    let is_key = |line: &str| {
        line.is_empty()
            || line.starts_with("ssh-")
            || line.starts_with("ecdsa-")
            || line.starts_with("sk-")
    };
    match keys.lines().all(|line| is_key(line.trim())) {
        true => Ok(()),
        false => Err(Failure::died("SSH public key validation error")),
    }
}

/// A network card has an address from the beginning.
pub fn with_mac(value: &str) -> String {
    let mut parts = value.split(',');
    let model = parts.next().unwrap_or_default();
    if model.contains('=') || value.contains("macaddr=") {
        return value.to_owned();
    }
    let rest: Vec<&str> = parts.collect();
    let with = [format!("{model}={}", crate::random::mac())];
    let all = with.iter().map(String::as_str).chain(rest);
    all.collect::<Vec<_>>().join(",")
}

/// Tags are in small letters and in order, each once.
pub fn unique_tags(value: &str) -> String {
    let lower = value.to_lowercase();
    let tags: BTreeSet<&str> = lower
        .split([';', ',', ' '])
        .filter(|tag| !tag.is_empty())
        .collect();
    tags.into_iter().collect::<Vec<_>>().join(";")
}
