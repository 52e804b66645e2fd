//! `POST …/template`

use serde_json::json;

use crate::context::Context;
use crate::reply::{Failure, Reply};
use crate::storage;
use crate::task;
use crate::vm::LOCK;
use crate::vm::disk::{Drive, is_drive};

/// Makes a VM a template. There is no way back.
pub async fn convert(context: Context) -> Reply {
    let vmid = context.params.vmid();
    let node = context.node().to_owned();
    {
        let mut world = context.cluster.world();
        let vm = world.vm(&node, vmid)?;
        vm.check_lock().map_err(Failure::died)?;
        if vm.is_template() {
            return Err(Failure::died("you can't convert a template to a template"));
        }
        if vm.is_running() {
            return Err(Failure::died(
                "you can't convert a VM to template if VM is running",
            ));
        }
    }
    let upid = task::start(
        &context,
        "qmtemplate",
        &vmid.to_string(),
        move |worker| async move {
            let cluster = &worker.cluster;
            let _lock = cluster.locks.exclusive(vmid, cluster.wait(LOCK)).await?;
            // It is one from now on, whatever becomes of its disks.
            if let Some(vm) = cluster.world().vms.get_mut(&vmid) {
                vm.config.insert("template".into(), "1".into());
            }
            worker.middle().await?;
            let config = cluster
                .world()
                .vms
                .get(&vmid)
                .map(|vm| vm.config.clone())
                .unwrap_or_default();
            for (key, value) in config.iter().filter(|(key, _)| is_drive(key)) {
                let mut drive = Drive::parse(value);
                if drive.is_cdrom() || !drive.has_volume() {
                    continue;
                }
                let (store, volume) = storage::volume(cluster, &node, &drive.file)
                    .map_err(|failure| failure.reason)?;
                let name = volume
                    .path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy();
                let base = volume.path.with_file_name(name.replacen("vm-", "base-", 1));
                std::fs::rename(&volume.path, &base).map_err(|error| error.to_string())?;
                drive.file = store.id_of(&base)?;
                if let Some(vm) = cluster.world().vms.get_mut(&vmid) {
                    vm.config.insert(key.clone(), drive.to_string());
                }
            }
            Ok(())
        },
    );
    Ok(json!(upid).into())
}
