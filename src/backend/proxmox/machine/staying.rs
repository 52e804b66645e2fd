//! Disks that stay when their machine goes. The server removes a machine also if it cannot remove its disk, and only says so in
//! the log of the task: afterwards nobody finds that disk by any machine.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::error::Failure;
use crate::backend::proxmox::task::Upid;
use crate::error::{Error, Result};

/// The kind of the task that removes a machine, as Proxmox VE names it.
const TASK: &str = "qmdestroy";

/// By how many seconds the clocks of the server and ours may differ.
const CLOCKS: i64 = 5 * 60;

/// What it says of a disk that stays; the disk follows, in quotes. Only since qemu-server 9.1.19 this is a warning by which the
/// task's end differs, so the log is read in any case.
const STAYS: &str = "Could not remove disk '";

/// The disk that a line of the log says this of.
fn staying(line: &str) -> Option<&str> {
    let (_, after) = line.split_once(STAYS)?;
    after.split_once('\'').map(|(volume, _)| volume)
}

impl Proxmox {
    /// Removes what stayed of the machine that had this id last, if we have removed it since then, in seconds since 1970 (clocks
    /// may differ by some minutes). Nothing but the server's own log says what that is, so this can be done by whoever comes
    /// later, too. But who comes much later may find that somebody has given the disk to another machine.
    pub(super) async fn remove_staying(&self, vmid: u32, since: i64, doing: &str) -> Result<()> {
        let failed = |failure: Failure| failure.during(doing);
        // Of a node that is off nobody can tell. A machine that is on it was an error before.
        let nodes = self.nodes().await.map_err(failed)?;
        let is_online = nodes
            .iter()
            .any(|node| node.is_online && node.name == self.target.node);
        if !is_online {
            return Ok(());
        }
        let last = self.last_removal(vmid).await.map_err(failed)?;
        let Some(upid) = last.filter(|upid| upid.began() > since - CLOCKS) else {
            return Ok(());
        };
        let log = self.whole_log(&upid).await.map_err(failed)?;
        for volume in log.iter().filter_map(|line| staying(line)) {
            if !self.is_orphan(volume, vmid, doing).await? {
                continue;
            }
            let (storage, _) = volume.split_once(':').unwrap_or_default();
            let removed = self.remove_volume(storage, "images", volume).await;
            removed.map_err(|error| {
                let hint = error.get_hint().map(|hint| format!("{hint}; or, "));
                let hint = hint.unwrap_or_default();
                Error::new(doing)
                    .cause(format!("it is gone, but its disk stays: {error}"))
                    .hint(format!("{hint}on the node: pvesm free {volume}"))
            })?;
        }
        Ok(())
    }

    /// The task by which our login has removed a machine of this id last.
    async fn last_removal(&self, vmid: u32) -> Result<Option<Upid>, Failure> {
        let about = vmid.to_string();
        let call = self.task_list("all").with("typefilter", TASK);
        let call = call.with("vmid", about.as_str());
        let tasks = self.listed_tasks(call).await?.into_iter();
        let tasks = tasks.map(|task| task.upid);
        let ours =
            tasks.filter(|upid| self.is_ours(upid) && upid.kind() == TASK && upid.about() == about);
        Ok(ours.max_by_key(Upid::began))
    }

    /// Whether a volume is there, and no machine of this id has it by now: the id is free for everybody.
    async fn is_orphan(&self, volume: &str, vmid: u32, doing: &str) -> Result<bool> {
        let failed = |failure: Failure| failure.during(doing);
        let (storage, _) = volume.split_once(':').unwrap_or_default();
        let volumes = self.volumes(storage, "images").await.map_err(failed)?;
        if volumes.iter().all(|other| other.id != volume) {
            return Ok(false);
        }
        let Some(there) = self.with_machine(vmid, doing).await? else {
            return Ok(true);
        };
        let config = there.config_as::<BTreeMap<String, Value>>(vmid).await;
        let config = config.map_err(failed)?.unwrap_or_default();
        let has = |value: &Value| value.as_str().is_some_and(|text| text.contains(volume));
        Ok(!config.values().any(has))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_names_what_stays_as_a_warning_or_not() {
        let volume = "local:9000/vm-9000-disk-0.qcow2";
        let said = format!("Could not remove disk '{volume}', check manually: unlink failed");
        assert_eq!(staying(&said), Some(volume));
        assert_eq!(staying(&format!("WARN: {said}")), Some(volume));
        assert_eq!(
            staying("purging VM 9000 from related configurations.."),
            None
        );
    }
}
