//! Calls that change a configuration.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::context::Context;
use crate::fault::What;
use crate::options::OPTIONS;
use crate::params::Params;
use crate::reply::{Failure, Reply};
use crate::storage;
use crate::task::{self, Worker};
use crate::vm::create::options;
use crate::vm::disk::{Drive, Made, Maker, is_drive, is_unused};
use crate::vm::plug::{Plugged, Running};
use crate::vm::rights::{self, Place};
use crate::vm::{Config, LOCK, Vm, config};

/// `POST …/config`: changes it in a task.
pub async fn in_task(context: Context) -> Reply {
    let vmid = context.params.vmid();
    let change = Change::of(&context)?;
    let cluster = context.cluster.clone();
    let upid = task::start(
        &context,
        "qmconfig",
        &vmid.to_string(),
        |worker| async move {
            worker.log(format!("update VM {vmid}: {}", change.told));
            change
                .apply(&cluster, worker.fault.as_ref(), Some(&*worker))
                .await
                .map_err(|failure| failure.exit())?;
            worker.middle().await
        },
    );
    Ok(json!(upid).into())
}

/// `PUT …/config`: changes it before it answers, after 30 s as well.
pub async fn at_once(context: Context) -> Reply {
    let change = Change::of(&context)?;
    change
        .apply(&context.cluster, context.fault.as_ref(), None)
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
    digest: Option<String>,
    /// For the task's log.
    told: String,
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
            told: told(params),
            node: context.node().to_owned(),
            vmid,
            set: options(params),
            delete: names("delete"),
            revert: names("revert"),
            digest: params.get("digest").map(str::to_owned),
        };
        if change.set.is_empty() && change.delete.is_empty() && change.revert.is_empty() {
            return Err(Failure::died("no options specified"));
        }
        if let Some(name) = change
            .delete
            .iter()
            .find(|name| !OPTIONS.iter().any(|option| option.names(name)))
        {
            return Err(Failure::parameter(
                "delete",
                format!("unknown option '{name}'"),
            ));
        }
        if let Some(both) = change
            .delete
            .iter()
            .find(|name| change.set.contains_key(*name))
        {
            let wrong = format!("you can't use '-{both}' and -delete {both}' at the same time");
            return Err(Failure::parameter("delete", wrong));
        }
        let place = Place { vmid, pool: None };
        rights::check(context, &place, &change.set, &change.delete)?;
        config::check_values(&change.set)?;
        let old = {
            let mut world = context.cluster.world();
            let vm = world.vm(context.node(), vmid)?;
            vm.check_digest(params.get("digest"))?;
            check_balloon(vm, &change.set).map_err(Failure::died)?;
            vm.config.clone()
        };
        rights::check_drives(context, &place, &old, &change.set, &change.delete)?;
        Ok(change)
    }

    async fn apply(
        mut self,
        cluster: &Cluster,
        fault: Option<&What>,
        worker: Option<&Worker>,
    ) -> Result<(), Failure> {
        let patience = cluster.wait(LOCK);
        let _lock = cluster
            .locks
            .exclusive(self.vmid, patience)
            .await
            .map_err(Failure::died)?;
        let absent = {
            let mut world = cluster.world();
            let vm = world.vm(&self.node, self.vmid)?;
            vm.check_lock().map_err(Failure::died)?;
            vm.check_digest(self.digest.as_deref())?;
            self.check_boot_order(vm).map_err(Failure::died)?;
            self.delete
                .iter()
                .filter(|&name| !vm.has(name))
                .cloned()
                .collect::<Vec<_>>()
        };
        for name in absent {
            if let Some(worker) = worker {
                worker.log(format!(
                    "cannot delete '{name}' - not set in current configuration!"
                ));
            }
        }
        let maker = Maker {
            cluster,
            node: &self.node,
            vmid: self.vmid,
            fault,
            worker,
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
                *value = config::with_mac(value);
            }
            if name == "tags" {
                *value = config::unique_tags(value);
            }
        }
        let plugged = self.plug(cluster).await?;
        let node = self.node.clone();
        let freed = self.write(cluster, &plugged)?;
        made.keep();
        for id in freed {
            if let Ok((_, volume)) = storage::volume(cluster, &node, &id) {
                volume
                    .free()
                    .map_err(|error| Failure::died(error.to_string()))?;
            }
        }
        match plugged.refused.is_empty() {
            true => Ok(()),
            false => Err(Failure::parameters(plugged.refused)),
        }
    }

    /// Fails if a device is to be booted from that is not there when all is changed.
    fn check_boot_order(&self, vm: &Vm) -> Result<(), String> {
        let order = self.set.get("boot").map(|boot| order(boot));
        let stays = |device: &String| {
            (vm.has(device) || self.set.contains_key(device)) && !self.delete.contains(device)
        };
        match order
            .unwrap_or_default()
            .iter()
            .find(|device| !stays(device))
        {
            // The quote too many is Proxmox's.
            Some(device) => Err(format!(
                "invalid bootorder: device '{device}' does not exist'"
            )),
            None => Ok(()),
        }
    }

    /// Lets a running machine have what it can have at once.
    async fn plug(&self, cluster: &Cluster) -> Result<Plugged, Failure> {
        let running = {
            let mut world = cluster.world();
            Running::of(world.vm(&self.node, self.vmid)?)
        };
        match running {
            None => Ok(Plugged::default()),
            Some(running) => {
                let place = (cluster, self.node.as_str());
                running.change(place, &self.set, &self.delete).await
            }
        }
    }

    /// Gives the volumes that go.
    fn write(self, cluster: &Cluster, plugged: &Plugged) -> Result<Vec<String>, Failure> {
        let mut world = cluster.world();
        let vm = world.vm(&self.node, self.vmid)?;
        let mut freed = vec![];
        for name in &self.revert {
            vm.pending.remove(name);
        }
        let waits = |vm: &Vm, name: &str| {
            vm.is_running() && !changes_at_once(name) && !plugged.taken.contains(name)
        };
        for name in self.delete {
            if waits(vm, &name) {
                vm.pending.insert(name, None);
                continue;
            }
            let Some(old) = vm.config.remove(&name) else {
                continue;
            };
            vm.boot_less(&name);
            let drive = Drive::parse(&old);
            if is_unused(&name) || is_drive(&name) && drive.is_cloudinit() {
                freed.push(drive.file);
            } else if is_drive(&name) && drive.has_volume() && !drive.is_cdrom() {
                vm.retire(drive.file);
            }
        }
        for (name, value) in self.set {
            if waits(vm, &name) {
                vm.pending.insert(name, Some(value));
                continue;
            }
            let drive = Drive::parse(&value);
            if is_drive(&name) && drive.is_cdrom() && !drive.is_cloudinit() {
                vm.boot_too(&name);
            }
            let file = drive.file;
            let old = vm.config.insert(name.clone(), value);
            let old = old
                .map(|old| Drive::parse(&old))
                .filter(|old| old.file != file);
            match old.filter(|old| is_drive(&name) && old.has_volume()) {
                Some(old) if old.is_cloudinit() => freed.push(old.file),
                Some(old) if !old.is_cdrom() => vm.retire(old.file),
                _ => {}
            }
            // What is used is no longer unused.
            vm.config
                .retain(|name, value| !is_unused(name) || *value != file);
        }
        Ok(freed)
    }
}

/// What is to be changed, as a task's log tells it.
fn told(params: &Params) -> String {
    let named = |name: &&str| {
        ["delete", "revert"].contains(name) || OPTIONS.iter().any(|option| option.names(name))
    };
    let said = params.names().filter(named).map(|name| match name {
        "cipassword" => "-cipassword <hidden>".to_owned(),
        _ => format!("-{name} {}", params.text(name)),
    });
    said.collect::<Vec<_>>().join(" ")
}

/// The devices that are named by a value of `boot`.
fn order(boot: &str) -> Vec<String> {
    let order = rights::property(boot, "order");
    let order = order.into_iter().flat_map(|order| order.split(';'));
    order.map(str::to_owned).collect()
}

/// Fails if the memory that is kept is more than there is.
fn check_balloon(vm: &Vm, set: &Config) -> Result<(), String> {
    let number = |name: &str| {
        let value = set.get(name).or_else(|| vm.config.get(name))?;
        value.parse::<u64>().ok()
    };
    let is_set = set.contains_key("memory") || set.contains_key("balloon");
    let memory = number("memory").unwrap_or(vm.memory() >> 20);
    match is_set && number("balloon").is_some_and(|balloon| balloon > memory) {
        true => Err("balloon value too large (must be smaller than assigned memory)".into()),
        false => Ok(()),
    }
}

impl Vm {
    /// A new CD-ROM drive is one that can be booted from, after the others.
    fn boot_too(&mut self, name: &str) {
        let mut order = self.boot_order();
        if !order.is_empty() && order.iter().all(|other| other != name) {
            order.push(name.to_owned());
            self.set_boot_order(&order);
        }
    }

    /// What is gone is not booted from.
    fn boot_less(&mut self, name: &str) {
        let order = self.boot_order();
        if order.iter().any(|other| other == name) {
            let left: Vec<String> = order.into_iter().filter(|other| other != name).collect();
            self.set_boot_order(&left);
        }
    }

    fn boot_order(&self) -> Vec<String> {
        self.config
            .get("boot")
            .map(|boot| order(boot))
            .unwrap_or_default()
    }

    fn set_boot_order(&mut self, order: &[String]) {
        let boot = match order {
            // So an empty value is read back from the file.
            [] => " ".to_owned(),
            order => format!("order={}", order.join(";")),
        };
        self.config.insert("boot".into(), boot);
    }

    /// Whether an option is set, now or when it has stopped.
    fn has(&self, name: &str) -> bool {
        self.config.contains_key(name) || self.pending.contains_key(name)
    }

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
