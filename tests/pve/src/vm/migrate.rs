//! `POST …/migrate`, of VMs that do not run.

use serde_json::json;

use crate::context::Context;
use crate::process;
use crate::reply::{Failure, Reply};
use crate::storage::{self, Store};
use crate::task::{self, Worker};
use crate::vm::LOCK;
use crate::vm::disk::{self, Drive, Made, is_drive, is_unused};

/// Moves a VM to another node, with its disks where they are on storages that are not shared.
pub async fn migrate(context: Context) -> Reply {
    let (node, vmid) = (context.node().to_owned(), context.params.vmid());
    let target = context.params.text("target").to_owned();
    if target == node {
        return Err(Failure::parameter("target", "target is local node."));
    }
    {
        let mut world = context.cluster.world();
        if !world.nodes.contains(&target) {
            return Err(Failure::died(format!("no such cluster node '{target}'")));
        }
        let vm = world.vm(&node, vmid)?;
        vm.check_lock().map_err(Failure::died)?;
        if vm.is_running() {
            return Err(Failure::died("can't migrate running VM without --online"));
        }
    }
    let to = context.params.get("targetstorage").map(str::to_owned);
    if let Some(name) = &to {
        context.check(&format!("/storage/{name}"), &["Datastore.AllocateSpace"])?;
        Store::open(&context.cluster, &target, name)?.holds("images")?;
    }
    let id = vmid.to_string();
    let upid = task::start(&context, "qmigrate", &id, move |worker| async move {
        let lock = worker
            .cluster
            .locks
            .exclusive(vmid, worker.cluster.wait(LOCK));
        let _lock = lock.await?;
        go(&worker, &node, &target, vmid, to.as_deref()).await
    });
    Ok(json!(upid).into())
}

async fn go(
    worker: &Worker,
    node: &str,
    target: &str,
    vmid: u32,
    to: Option<&str>,
) -> Result<(), String> {
    let cluster = &worker.cluster;
    if cluster.world().offline.contains(target) {
        return Err("Can't connect to destination address using public key".into());
    }
    let mut config = {
        let mut world = cluster.world();
        world.vm(node, vmid).map_err(said)?.config.clone()
    };
    worker.log(format!(
        "starting migration of VM {vmid} to node '{target}'"
    ));
    let (mut made, mut moved) = (Made::default(), vec![]);
    let drives = config
        .iter_mut()
        .filter(|(key, _)| is_drive(key) || is_unused(key));
    for (_, value) in drives {
        let mut drive = Drive::parse(value);
        if !drive.has_volume() {
            continue;
        }
        let (store, volume) = storage::volume(cluster, node, &drive.file).map_err(said)?;
        if store.spec.shared {
            continue;
        }
        if drive.is_cdrom() && !drive.is_cloudinit() {
            return Err(format!("can't migrate local cdrom '{}'", volume.id));
        }
        if let Some(base) = &volume.base {
            return Err(format!(
                "can't migrate '{}' as it's a clone of '{base}'",
                volume.id
            ));
        }
        disk::refuse_if_cloned(&store, &volume)?;
        let there = Store::open(cluster, target, to.unwrap_or(store.name())).map_err(said)?;
        there.room_for(volume.used, worker.fault.as_ref())?;
        let folder = there
            .place("images", Some(vmid))
            .map_err(|error| error.to_string())?;
        let path = folder.join(volume.path.file_name().unwrap_or_default());
        made.add(path.clone());
        let (from, to) = (volume.path.to_string_lossy(), path.to_string_lossy());
        process::run("cp", &["--", &from, &to]).await?;
        drive.file = there.id_of(&path)?;
        *value = drive.to_string();
        moved.push(volume);
    }
    worker.middle().await?;
    if let Some(vm) = cluster.world().vms.get_mut(&vmid) {
        vm.config = config;
        vm.node = target.to_owned();
    }
    made.keep();
    for volume in moved {
        volume.free().map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn said(failure: Failure) -> String {
    failure.reason
}
