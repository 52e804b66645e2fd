//! What builds on any computer have left on a server.

use super::lease::Lease;
use crate::backend::proxmox::error::Failure;
use crate::backend::proxmox::leftover::What;
use crate::backend::proxmox::{Everywhere, Proxmox};
use crate::run::Resource;

/// Something of a build that was found on a server.
pub struct Found {
    pub lease: Lease,
    /// As the build's journal had it.
    pub resource: Resource,
}

impl Everywhere {
    /// The machines and seeds of builds, machines first.
    pub async fn of_builds(&self) -> Result<Vec<Found>, Failure> {
        let mut found = vec![];
        for server in &self.servers {
            found.extend(server.machines_of_builds().await?);
        }
        for server in self.seeing(|target| target.iso.as_ref()).await? {
            found.extend(server.seeds_of_builds().await?);
        }
        Ok(found)
    }
}

impl Proxmox {
    pub(super) async fn machines_of_builds(&self) -> Result<Vec<Found>, Failure> {
        let mut machines = self.machines().await?;
        // Templates last: they stay as long as there are linked clones of them.
        machines.sort_by_key(|machine| machine.is_template);
        let ours = machines.into_iter().filter_map(|machine| {
            let by_tags = Lease::of_tags(&machine.tags.join(";"));
            let lease = by_tags.or_else(|| Lease::of_name(&machine.name))?;
            let what = What::Machine {
                vmid: machine.vmid,
                build: lease.build.clone(),
                asked: None,
            };
            let resource = self.leftover(what);
            Some(Found { lease, resource })
        });
        Ok(ours.collect())
    }

    pub(super) async fn seeds_of_builds(&self) -> Result<Vec<Found>, Failure> {
        let Some(storage) = &self.target.iso else {
            return Ok(vec![]);
        };
        let volumes = self.volumes(storage, "iso").await?;
        let ours = volumes.into_iter().filter_map(|volume| {
            let (_, file) = volume.id.split_once(":iso/")?;
            let lease = Lease::of_seed_file(file)?;
            let resource = self.leftover(What::Seed { file: file.into() });
            Some(Found { lease, resource })
        });
        Ok(ours.collect())
    }
}
