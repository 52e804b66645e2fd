//! Calls that change a configuration.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::context::Context;
use crate::fault::What;
use crate::reply::{Failure, Reply};
use crate::vm::create::options;
use crate::vm::disk::{Drive, Made, Maker, is_drive, is_unused};
use crate::vm::plug::{Plugged, Running};
use crate::vm::rights::{self, Place};
use crate::vm::{Config, LOCK, Vm, config};
use crate::{storage, task};

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
            change
                .apply(&cluster, worker.fault.as_ref())
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
    digest: Option<String>,
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
            digest: params.get("digest").map(str::to_owned),
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
        config::check_values(&change.set)?;
        let mut world = context.cluster.world();
        world
            .vm(context.node(), vmid)?
            .check_digest(params.get("digest"))?;
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
            vm.check_digest(self.digest.as_deref())?;
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
