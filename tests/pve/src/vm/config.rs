//! Calls that show and change a configuration.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::cluster::Cluster;
use crate::context::Context;
use crate::fault::What;
use crate::params::Kind;
use crate::reply::{Failure, Reply};
use crate::schema::OPTIONS;
use crate::task;
use crate::vm::create::options;
use crate::vm::disk::{Drive, Made, Maker, is_drive, is_unused};
use crate::vm::rights::{self, Place};
use crate::vm::{Config, LOCK, Vm};

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

/// `POST …/config`: changes it in a task.
pub async fn change_in_task(context: Context) -> Reply {
    let vmid = context.params.vmid();
    let change = Change::of(&context)?;
    let cluster = context.cluster.clone();
    let upid = task::start(
        &context,
        "qmconfig",
        &vmid.to_string(),
        |worker| async move {
            change
                .apply(&cluster, worker.fault.as_ref())
                .await
                .map_err(|failure| failure.reason)?;
            worker.middle().await
        },
    );
    Ok(json!(upid).into())
}

/// `PUT …/config`: changes it before it answers, after 30 s as well.
pub async fn change(context: Context) -> Reply {
    let change = Change::of(&context)?;
    change
        .apply(&context.cluster, context.fault.as_ref())
        .await?;
    Ok(Value::Null.into())
}

/// What is to be different.
struct Change {
    node: String,
    vmid: u32,
    set: Config,
    delete: Vec<String>,
    revert: Vec<String>,
    digest: crate::params::Params,
}

impl Change {
    fn of(context: &Context) -> Result<Change, Failure> {
        let params = &context.params;
        let vmid = params.vmid();
        let names = |name: &str| -> Vec<String> {
            let all = params.get(name).unwrap_or_default().split([',', ';', ' ']);
            all.filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let change = Change {
            node: context.node().to_owned(),
            vmid,
            set: options(params),
            delete: names("delete"),
            revert: names("revert"),
            digest: params.clone(),
        };
        if change.set.is_empty() && change.delete.is_empty() && change.revert.is_empty() {
            return Err(Failure::died("no options specified"));
        }
        rights::check(
            context,
            &Place { vmid, pool: None },
            &change.set,
            &change.delete,
        )?;
        check_values(&change.set)?;
        let mut world = context.cluster.world();
        world.vm(context.node(), vmid)?.check_digest(params)?;
        drop(world);
        Ok(change)
    }

    async fn apply(mut self, cluster: &Cluster, fault: Option<&What>) -> Result<(), Failure> {
        let patience = cluster.wait(LOCK);
        let _lock = cluster
            .locks
            .exclusive(self.vmid, patience)
            .await
            .map_err(Failure::died)?;
        {
            let mut world = cluster.world();
            let vm = world.vm(&self.node, self.vmid)?;
            vm.check_lock().map_err(Failure::died)?;
            vm.check_digest(&self.digest)?;
        }
        let maker = Maker {
            cluster,
            node: &self.node,
            vmid: self.vmid,
            fault,
        };
        let mut made = Made::default();
        for (name, value) in &mut self.set {
            if is_drive(name) {
                *value = maker
                    .make(name, value, &mut made)
                    .await
                    .map_err(Failure::died)?;
            }
            if name.starts_with("net") {
                *value = with_mac(value);
            }
            if name == "tags" {
                *value = unique_tags(value);
            }
        }
        let node = self.node.clone();
        let freed = self.write(cluster)?;
        made.keep();
        for id in freed {
            if let Ok((_, volume)) = crate::storage::volume(cluster, &node, &id) {
                volume
                    .free()
                    .map_err(|error| Failure::died(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// Gives the volumes that go.
    fn write(self, cluster: &Cluster) -> Result<Vec<String>, Failure> {
        let mut world = cluster.world();
        let vm = world.vm(&self.node, self.vmid)?;
        let mut freed = vec![];
        for name in &self.revert {
            vm.pending.remove(name);
        }
        for name in self.delete {
            if vm.is_running() && !changes_at_once(&name) {
                vm.pending.insert(name, None);
                continue;
            }
            let Some(old) = vm.config.remove(&name) else {
                continue;
            };
            let drive = Drive::parse(&old);
            if is_unused(&name) || is_drive(&name) && drive.is_cloudinit() {
                freed.push(drive.file);
            } else if is_drive(&name) && drive.has_volume() && !drive.is_cdrom() {
                vm.retire(drive.file);
            }
        }
        for (name, value) in self.set {
            if vm.is_running() && !changes_at_once(&name) {
                vm.pending.insert(name, Some(value));
                continue;
            }
            let file = Drive::parse(&value).file;
            let old = vm.config.insert(name.clone(), value);
            let old = old
                .map(|old| Drive::parse(&old))
                .filter(|old| old.file != file);
            if let Some(old) =
                old.filter(|old| is_drive(&name) && old.has_volume() && !old.is_cdrom())
            {
                vm.retire(old.file);
            }
            // What is used is no longer unused.
            vm.config
                .retain(|name, value| !is_unused(name) || *value != file);
        }
        Ok(freed)
    }
}

impl Vm {
    /// Keeps a disk that no drive has any more.
    fn retire(&mut self, id: String) {
        let free = (0..=u8::MAX)
            .map(|n| format!("unused{n}"))
            .find(|key| !self.config.contains_key(key));
        if let Some(key) = free {
            self.config.insert(key, id);
        }
    }
}

/// What a running machine does not have to hear of.
fn changes_at_once(name: &str) -> bool {
    [
        "name",
        "description",
        "tags",
        "onboot",
        "startup",
        "protection",
    ]
    .contains(&name)
        || is_unused(name)
}

/// What the table of parameters does not say.
pub fn check_values(options: &Config) -> Result<(), Failure> {
    for (name, value) in options {
        if name.starts_with("net") && rights::property(value, "model").is_none() {
            let model = value.split(',').next().unwrap_or_default();
            let model = model.split('=').next().unwrap_or_default();
            if !["virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"].contains(&model) {
                let wrong = "invalid format - format error\nnet0.model: property is missing and it is not optional\n";
                return Err(Failure::parameter(name, wrong));
            }
        }
        if name == "sshkeys" {
            check_keys(value)?;
        }
        if name == "agent"
            && value.contains("enabled")
            && rights::property(value, "enabled").is_none()
        {
            let wrong = "invalid format - format error\nagent.enabled: type check ('boolean') failed - got 'enabled'\n";
            return Err(Failure::parameter(name, wrong));
        }
    }
    Ok(())
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
