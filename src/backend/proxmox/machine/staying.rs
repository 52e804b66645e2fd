//! Disks that stay when their machine goes. The server removes a machine also if it cannot remove its disk, and only says so in
//! the log of the task: afterwards nobody finds that disk by any machine.

use std::collections::BTreeMap;

use serde_json::Value;

use super::making::is_being_made;
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::error::Failure;
use crate::backend::proxmox::task::Upid;
use crate::error::{Error, Kind, Result};

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
    /// Removes what stayed of machines that had this id, and that our login has removed since then, in seconds since 1970 (clocks
    /// may differ by some minutes). Nothing but the log on the node that has removed one says what that is, so this can be done
    /// by whoever comes later, too. But who comes much later may find that somebody has given the disk to another machine.
    pub(super) async fn remove_staying(&self, vmid: u32, since: i64, doing: &str) -> Result<()> {
        let failed = |failure: Failure| failure.during(doing);
        // It may have been moved before. Of a node that is off nobody can tell.
        let nodes = self.nodes().await.map_err(failed)?;
        for node in nodes.iter().filter(|node| node.is_online) {
            let there = self.on(&node.name);
            for upid in there.removals(vmid, since).await.map_err(failed)? {
                let log = there.whole_log(&upid).await.map_err(failed)?;
                for volume in log.iter().filter_map(|line| staying(line)) {
                    there.remove_orphan(volume, vmid, doing).await?;
                }
            }
        }
        Ok(())
    }

    /// The tasks by which our login has removed machines of this id from this node since then. A call whose answer was lost may
    /// have begun more than one.
    async fn removals(&self, vmid: u32, since: i64) -> Result<Vec<Upid>, Failure> {
        let about = vmid.to_string();
        let call = self.task_list("all").with("typefilter", TASK);
        let call = call.with("vmid", about.as_str());
        let tasks = self.listed_tasks(call).await?.into_iter();
        let tasks = tasks.map(|task| task.upid);
        let ours = tasks.filter(|upid| {
            let is_it = upid.kind() == TASK && upid.about() == about;
            is_it && self.is_ours(upid) && upid.began() > since - CLOCKS
        });
        Ok(ours.collect())
    }

    /// Removes a volume that stayed, if it is there and no machine has it by now.
    async fn remove_orphan(&self, volume: &str, vmid: u32, doing: &str) -> Result<()> {
        let stays = |why: &dyn std::fmt::Display| {
            Error::new(doing).cause(format!("it is gone, but its disk stays: {why}"))
        };
        let free = format!("on the node: pvesm free {volume}");
        let (storage, _) = volume.split_once(':').unwrap_or_default();
        let volumes = match self.volumes(storage, "images").await {
            Ok(volumes) => volumes,
            // With the storage, the disk is gone.
            Err(failure) if failure.why.says("does not exist") => return Ok(()),
            Err(failure) => return Err(stays(&failure.during(doing)).hint(free)),
        };
        let is_there = volumes.iter().any(|other| other.id == volume);
        if !is_there || self.is_taken(volume, vmid, doing).await? {
            return Ok(());
        }
        let removed = self.remove_volume(storage, "images", volume).await;
        removed.map_err(|error| {
            let hint = error.get_hint().map(|hint| format!("{hint}; or, {free}"));
            stays(&error).hint(hint.unwrap_or(free))
        })
    }

    /// Whether another machine of this id has the volume by now: the id is free for everybody.
    ///
    /// Errors: one is being made, which says nothing of its disks yet ([`Kind::Conflict`]).
    async fn is_taken(&self, volume: &str, vmid: u32, doing: &str) -> Result<bool> {
        let Some(there) = self.with_machine(vmid, doing).await? else {
            return Ok(false);
        };
        let config = there.config_as::<BTreeMap<String, Value>>(vmid).await;
        let config = config.map_err(|failure| failure.during(doing))?;
        let config = config.unwrap_or_default();
        if is_being_made(config.get("lock").and_then(Value::as_str)) {
            return Err(Error::new(doing).kind(Kind::Conflict).cause(format!(
                "its disk {volume} stays, or is that of another machine of its id, which is being made"
            )));
        }
        let has = |value: &Value| value.as_str().is_some_and(|text| text.contains(volume));
        Ok(config.values().any(has))
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
