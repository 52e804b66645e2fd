//! The locks of VMs, which operations hold while they work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::cluster::held;

/// By VM.
#[derive(Default)]
pub struct Locks(Mutex<BTreeMap<u32, Arc<RwLock<()>>>>);

impl Locks {
    fn of(&self, vmid: u32) -> Arc<RwLock<()>> {
        held(&self.0).entry(vmid).or_default().clone()
    }

    /// For changing the VM.
    pub async fn exclusive(
        &self,
        vmid: u32,
        patience: Duration,
    ) -> Result<OwnedRwLockWriteGuard<()>, String> {
        let lock = self.of(vmid).write_owned();
        tokio::time::timeout(patience, lock)
            .await
            .map_err(|_| timed_out(vmid))
    }

    /// For reading its disks.
    pub async fn shared(
        &self,
        vmid: u32,
        patience: Duration,
    ) -> Result<OwnedRwLockReadGuard<()>, String> {
        let lock = self.of(vmid).read_owned();
        tokio::time::timeout(patience, lock)
            .await
            .map_err(|_| timed_out(vmid))
    }

    /// VMs whose lock somebody has.
    pub fn taken(&self) -> Vec<u32> {
        let all = held(&self.0);
        let taken = all.iter().filter(|(_, lock)| lock.try_write().is_err());
        taken.map(|(&vmid, _)| vmid).collect()
    }
}

fn timed_out(vmid: u32) -> String {
    format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout")
}
