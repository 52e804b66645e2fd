//! `PUT …/resize`

use serde_json::json;

use crate::context::Context;
use crate::image;
use crate::reply::{Failure, Reply};
use crate::storage;
use crate::task::{self, Worker};
use crate::vm::LOCK;
use crate::vm::disk::{self, Drive, is_drive};

/// Makes a disk longer, never shorter. What is wrong with that is found by the task.
pub async fn resize(context: Context) -> Reply {
    let vmid = context.params.vmid();
    let node = context.node().to_owned();
    {
        let mut world = context.cluster.world();
        let vm = world.vm(&node, vmid)?;
        vm.check_digest(context.params.get("digest"))?;
        vm.check_lock().map_err(Failure::died)?;
        let drive = vm.config.get(context.params.text("disk"));
        let store = drive.and_then(|drive| Some(drive.split_once(':')?.0.to_owned()));
        drop(world);
        if let Some(store) = store {
            context.check(&format!("/storage/{store}"), &["Datastore.AllocateSpace"])?;
        }
    }
    let key = context.params.text("disk").to_owned();
    let size = context.params.text("size").to_owned();
    let upid = task::start(&context, "resize", &vmid.to_string(), |worker| async move {
        work(&worker, (&node, vmid), &key, &size).await
    });
    Ok(json!(upid).into())
}

async fn work(
    worker: &Worker,
    (node, vmid): (&str, u32),
    key: &str,
    wanted: &str,
) -> Result<(), String> {
    let cluster = &worker.cluster;
    let _lock = cluster.locks.exclusive(vmid, cluster.wait(LOCK)).await?;
    let (value, machine) = {
        let mut world = cluster.world();
        let vm = world.vm(node, vmid).map_err(|failure| failure.reason)?;
        (vm.config.get(key).cloned(), vm.machine.clone())
    };
    let value = value.filter(|_| is_drive(key));
    let mut drive = Drive::parse(&value.ok_or_else(|| format!("disk '{key}' does not exist"))?);
    let found = storage::volume(cluster, node, &drive.file);
    let (_, volume) = found.map_err(|failure| failure.reason)?;
    let bytes = match wanted.strip_prefix('+') {
        Some(more) => disk::bytes(more, 1).map(|more| volume.size + more),
        None => disk::bytes(wanted, 1),
    };
    let bytes = bytes.ok_or("unable to parse size")?;
    if bytes < volume.size {
        return Err("shrinking disks is not supported".into());
    }
    if volume.is_base() {
        // It is immutable (`chattr +i`).
        let (format, path) = (&volume.format, volume.path.display());
        return Err(format!(
            "command '/usr/bin/qemu-img resize -f {format} {path} {bytes}' failed: exit code 1"
        ));
    }
    match machine {
        Some(machine) => machine.resize(key, &volume, bytes).await?,
        None => image::resize(&volume.path, &volume.format, bytes).await?,
    }
    worker.middle().await?;
    drive.set("size", &disk::size(bytes));
    if let Some(vm) = cluster.world().vms.get_mut(&vmid) {
        vm.config.insert(key.to_owned(), drive.to_string());
    }
    Ok(())
}
