//! All that a server has at a moment.

use crate::cluster::Cluster;
use crate::record::Inventory;
use crate::storage;

/// Takes stock.
pub fn take(cluster: &Cluster) -> Inventory {
    let nodes = cluster.world().nodes.clone();
    let (mut volumes, mut strays) = (vec![], vec![]);
    for node in &nodes {
        for store in storage::all(cluster, node) {
            // What all nodes see is told once, what only one sees under its name.
            let seen = match store.spec.shared {
                true => String::new(),
                false => format!("{node}/"),
            };
            volumes.extend(
                store
                    .volumes()
                    .iter()
                    .map(|volume| (format!("{seen}{}", volume.id), volume.size)),
            );
            strays.extend(store.strays().iter().map(|path| path.display().to_string()));
        }
    }
    if let Ok(uploads) = cluster.folder("uploads").and_then(std::fs::read_dir) {
        strays.extend(
            uploads
                .flatten()
                .map(|entry| entry.path().display().to_string()),
        );
    }
    volumes.sort();
    volumes.dedup();
    strays.sort();
    strays.dedup();
    let world = cluster.world();
    let running = world
        .tasks
        .iter()
        .map(|task| &task.record)
        .filter(|task| task.ended.is_none());
    Inventory {
        vms: world
            .vms
            .iter()
            .map(|(&vmid, vm)| vm.summary(vmid))
            .collect(),
        volumes,
        strays,
        running: running.map(|task| task.upid.clone()).collect(),
        locked: cluster.locks.taken(),
    }
}
