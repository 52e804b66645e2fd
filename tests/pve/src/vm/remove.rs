//! `DELETE /nodes/{node}/qemu/{vmid}`

use serde_json::json;

use crate::context::Context;
use crate::fault::What;
use crate::reply::{Failure, Reply};
use crate::storage;
use crate::task;
use crate::vm::disk::{self, Drive, is_drive, is_unused};
use crate::vm::{LOCK, Vm};

/// Removes a VM with the disks that its configuration names, and with others of its id only if asked.
pub async fn remove(context: Context) -> Reply {
    let vmid = context.params.vmid();
    let node = context.node().to_owned();
    may_go(vmid, context.cluster.world().vm(&node, vmid)?).map_err(Failure::died)?;
    let others = context.params.flag("destroy-unreferenced-disks");
    let upid = task::start(
        &context,
        "qmdestroy",
        &vmid.to_string(),
        move |worker| async move {
            let cluster = &worker.cluster;
            let _lock = cluster.locks.exclusive(vmid, cluster.wait(LOCK)).await?;
            let stays = worker.fault == Some(What::DiskStays);
            worker.middle().await?;
            let config = {
                let mut world = cluster.world();
                let vm = world.vm(&node, vmid).map_err(|failure| failure.reason)?;
                may_go(vmid, vm)?;
                vm.check_lock()?;
                vm.config.clone()
            };
            let drives = config
                .iter()
                .filter(|(key, _)| is_drive(key) || is_unused(key));
            let named: Vec<String> = drives.map(|(_, value)| Drive::parse(value).file).collect();
            let mut volumes = vec![];
            for store in storage::all(cluster, &node) {
                for volume in store.volumes() {
                    let goes = named.contains(&volume.id) || others;
                    if volume.owner == Some(vmid) && goes {
                        disk::refuse_if_cloned(&store, &volume)?;
                        volumes.push(volume);
                    }
                }
            }
            for volume in volumes {
                let freed = match stays {
                    true => Err(std::io::Error::from(std::io::ErrorKind::ResourceBusy)),
                    false => volume.free(),
                };
                if let Err(error) = freed {
                    let error = format!("unlink '{}' failed - {error}", volume.path.display());
                    let id = &volume.id;
                    worker.warn(&match named.contains(id) {
                        true => format!("Could not remove disk '{id}', check manually: {error}"),
                        false => error,
                    });
                }
            }
            let mut world = cluster.world();
            world.vms.remove(&vmid);
            for members in world.pools.values_mut() {
                members.remove(&vmid);
            }
            Ok(())
        },
    );
    Ok(json!(upid).into())
}

fn may_go(vmid: u32, vm: &Vm) -> Result<(), String> {
    if vm.config.get("protection").is_some_and(|flag| flag == "1") {
        return Err(format!("can't remove VM {vmid} - protection mode enabled"));
    }
    match vm.is_running() {
        true => Err(format!("VM {vmid} is running - destroy failed")),
        false => Ok(()),
    }
}
