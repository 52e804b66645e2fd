//! `PUT …/resize`

use serde_json::json;

use crate::context::Context;
use crate::image;
use crate::reply::{Failure, Reply};
use crate::storage;
use crate::task;
use crate::vm::LOCK;
use crate::vm::disk::{self, Drive, is_drive};

/// Makes a disk longer, never shorter.
pub async fn resize(context: Context) -> Reply {
    let vmid = context.params.vmid();
    let key = context.params.text("disk").to_owned();
    let wanted = context.params.text("size").to_owned();
    let node = context.node().to_owned();
    let drive = {
        let mut world = context.cluster.world();
        let vm = world.vm(&node, vmid)?;
        vm.check_digest(context.params.get("digest"))?;
        vm.check_lock().map_err(Failure::died)?;
        let value = vm.config.get(&key).filter(|_| is_drive(&key));
        let value = value.ok_or_else(|| Failure::died(format!("disk '{key}' does not exist")))?;
        Drive::parse(value)
    };
    let (store, volume) = storage::volume(&context.cluster, &node, &drive.file)?;
    context.check(
        &format!("/storage/{}", store.name()),
        &["Datastore.AllocateSpace"],
    )?;
    let bytes = match wanted.strip_prefix('+') {
        Some(more) => disk::bytes(more, 1).map(|more| volume.size + more),
        None => disk::bytes(&wanted, 1),
    };
    let bytes = bytes.ok_or_else(|| Failure::parameter("size", "unable to parse size"))?;
    if bytes < volume.size {
        return Err(Failure::died("shrinking disks is not supported"));
    }
    let upid = task::start(
        &context,
        "qmresize",
        &vmid.to_string(),
        move |worker| async move {
            let cluster = &worker.cluster;
            let _lock = cluster.locks.exclusive(vmid, cluster.wait(LOCK)).await?;
            let machine = cluster
                .world()
                .vms
                .get(&vmid)
                .and_then(|vm| vm.machine.clone());
            match machine {
                Some(machine) => machine.resize(&key, &volume, bytes).await?,
                None => image::resize(&volume.path, &volume.format, bytes).await?,
            }
            worker.middle().await?;
            let mut drive = drive;
            drive.set("size", &disk::size(bytes));
            if let Some(vm) = cluster.world().vms.get_mut(&vmid) {
                vm.config.insert(key, drive.to_string());
            }
            Ok(())
        },
    );
    Ok(json!(upid).into())
}
