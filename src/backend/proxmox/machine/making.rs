//! Machines that are being made: until they are, nothing on them says whose they are.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::error::Failure;
use crate::backend::proxmox::task::Upid;
use crate::error::{Error, Kind, Result};

/// How often it is looked at whether one is made.
const PACE: Duration = Duration::from_secs(1);

/// What such a machine is locked with. It has nothing else yet, no tags either; or, of a clone with several disks, only some of
/// them.
const LOCKS: [&str; 2] = ["create", "clone"];

/// Whose a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The build's.
    Ours,
    /// Somebody else's, or there is none.
    NotOurs,
    /// It is being made.
    Untold,
}

/// Whether there is a machine of this id, and the build made it. One that is being made is waited for, for so long.
///
/// Errors: it is still being made then ([`Kind::Conflict`]), what the server says.
pub async fn is_ours(
    server: &Proxmox,
    (vmid, build): (u32, &str),
    patience: Duration,
    doing: &str,
) -> Result<bool> {
    let began = Instant::now();
    loop {
        let whose = server.whose(vmid, build).await;
        match whose.map_err(|failure| failure.during(doing))? {
            Whose::Ours => return Ok(true),
            Whose::NotOurs => return Ok(false),
            Whose::Untold if began.elapsed() > patience => {
                return Err(Error::new(doing)
                    .kind(Kind::Conflict)
                    .cause("somebody is still making it, and until then nobody can tell who")
                    .hint(format!(
                        "if no task on the node makes it any more: qm unlock {vmid} && qm destroy {vmid} there"
                    )));
            }
            Whose::Untold => tokio::time::sleep(PACE).await,
        }
    }
}

/// Aborts what makes a machine that is nobody's yet, if that can only be the build, whose call was heard though its answer was
/// lost.
pub async fn abort(server: &Proxmox, (vmid, build): (u32, &str), doing: &str) -> Result<()> {
    let failed = |failure: Failure| failure.during(doing);
    if server.whose(vmid, build).await.map_err(failed)? != Whose::Untold {
        return Ok(());
    }
    let making = server.tasks_making(vmid).await.map_err(failed)?;
    if making.is_empty() || server.others_work(build).await.map_err(failed)? {
        return Ok(());
    }
    for upid in making {
        server.abort(&upid).await?;
    }
    Ok(())
}

impl Proxmox {
    async fn whose(&self, vmid: u32, build: &str) -> Result<Whose, Failure> {
        let Some(config) = self.machine_config(vmid).await? else {
            return Ok(Whose::NotOurs);
        };
        Ok(match config.lock.as_deref() {
            Some(lock) if LOCKS.contains(&lock) => Whose::Untold,
            _ if config.is_of(build) => Whose::Ours,
            _ => Whose::NotOurs,
        })
    }

    /// Tasks of our login that are making a machine of this id on the target's node.
    async fn tasks_making(&self, vmid: u32) -> Result<Vec<Upid>, Failure> {
        let active = self.listed_tasks(self.task_list("active")).await?;
        let about = vmid.to_string();
        let mut making = vec![];
        for upid in active.into_iter().map(|task| task.upid) {
            let makes = match upid.kind() {
                _ if !self.is_ours(&upid) => false,
                "qmcreate" => upid.about() == about,
                "qmclone" => {
                    let (_, log) = self.head_of_log(&upid).await?;
                    log.iter().any(|line| is_of_clone(line, vmid))
                }
                _ => false,
            };
            if makes {
                making.push(upid);
            }
        }
        Ok(making)
    }

    /// Whether another build is at work on the target's node, which may have the same login. A build has its seed or a
    /// machine there before it asks for another machine; only the copies of a published template are made without.
    async fn others_work(&self, build: &str) -> Result<bool, Failure> {
        let machines = self.machines_of_builds().await?.into_iter();
        let mut all = machines.chain(self.seeds_of_builds().await?);
        Ok(all.any(|it| it.lease.build != build && !it.lease.is_over()))
    }
}

/// Whether the log of a clone's task says that the clone gets this id. The task itself is named after what is cloned. Since
/// qemu-server 9.1.6 its first line says so; before, the name of a disk does.
fn is_of_clone(line: &str, vmid: u32) -> bool {
    line.ends_with(&format!(" with ID {vmid}")) || line.contains(&format!("vm-{vmid}-disk-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_clone_names_it() {
        for line in [
            "creating a clone of VM 9010 with ID 9011",
            "clone 9010/base-9010-disk-0.qcow2: images, vm-9011-disk-0.qcow2, 9011 to vm-9011-disk-0.qcow2",
            "  Logical volume \"vm-9011-disk-0\" created.",
        ] {
            assert!(is_of_clone(line, 9011), "{line}");
            assert!(!is_of_clone(line, 9010), "{line}");
            assert!(!is_of_clone(line, 901), "{line}");
            assert!(!is_of_clone(line, 11), "{line}");
        }
    }
}
