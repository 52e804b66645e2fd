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

/// Whether a machine with this lock is being made.
pub fn is_being_made(lock: Option<&str>) -> bool {
    lock.is_some_and(|lock| LOCKS.contains(&lock))
}

/// How long somebody may take to make a machine that is to be removed if it is ours.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// How often what makes it is looked for meanwhile.
const AGAIN: Duration = Duration::from_secs(10);

/// How much earlier or later than it was asked for a task may say that it began: it may have been asked for three times, each
/// unanswered for 30 s, and clocks differ.
const NEAR: u64 = 5 * 60;

/// A machine that a build has asked for, or is about to.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub vmid: u32,
    pub build: &'a str,
    /// When, in seconds since 1970; `None` if that is not known, or says nothing of who makes it: all builds of an image ask for
    /// the same id for its copy.
    pub at: Option<i64>,
}

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
    waited_for(server, (vmid, build), patience, doing, async || ()).await
}

/// The same for a machine that nobody wants: what makes it is aborted if that can only be the build, whose call was heard though
/// its answer was lost.
pub async fn settled(server: &Proxmox, asked: &Asked<'_>, doing: &str) -> Result<bool> {
    let mut looked: Option<Instant> = None;
    let abort = async || {
        if looked.is_some_and(|at| at.elapsed() <= AGAIN) {
            return;
        }
        looked = Some(Instant::now());
        // Whoever cannot tell whose it is waits.
        if let Err(error) = server.abort_making(asked, doing).await {
            tracing::debug!("{error}; waiting");
        }
    };
    waited_for(server, (asked.vmid, asked.build), PATIENCE, doing, abort).await
}

/// Does something meanwhile, again and again.
async fn waited_for(
    server: &Proxmox,
    (vmid, build): (u32, &str),
    patience: Duration,
    doing: &str,
    mut meanwhile: impl AsyncFnMut(),
) -> Result<bool> {
    let began = Instant::now();
    loop {
        match server.whose(vmid, build, doing).await? {
            Whose::Ours => return Ok(true),
            Whose::NotOurs => return Ok(false),
            Whose::Untold if began.elapsed() > patience => return Err(still_made(vmid, doing)),
            Whose::Untold => {}
        }
        meanwhile().await;
        tokio::time::sleep(PACE).await;
    }
}

fn still_made(vmid: u32, doing: &str) -> Error {
    Error::new(doing)
        .kind(Kind::Conflict)
        .cause(format!(
            "{vmid} is still being made, and until then nobody can tell by whom"
        ))
        .hint(format!(
            "if no task on the node makes it any more: qm unlock {vmid} && qm destroy {vmid} there"
        ))
}

impl Proxmox {
    async fn whose(&self, vmid: u32, build: &str, doing: &str) -> Result<Whose> {
        let config = self.machine_config(vmid).await;
        let Some(config) = config.map_err(|failure| failure.during(doing))? else {
            return Ok(Whose::NotOurs);
        };
        Ok(match config.lock.as_deref() {
            lock if is_being_made(lock) => Whose::Untold,
            _ if config.is_of(build) => Whose::Ours,
            _ => Whose::NotOurs,
        })
    }

    async fn abort_making(&self, asked: &Asked<'_>, doing: &str) -> Result<()> {
        let failed = |failure: Failure| failure.during(doing);
        let making = self.tasks_making(asked).await.map_err(failed)?;
        if making.is_empty() || self.others_work(asked.build).await.map_err(failed)? {
            return Ok(());
        }
        for upid in making {
            self.abort(&upid).await?;
        }
        Ok(())
    }

    /// Tasks of our login on the target's node that are making such a machine, and began when it was asked for.
    async fn tasks_making(&self, asked: &Asked<'_>) -> Result<Vec<Upid>, Failure> {
        let Some(at) = asked.at else {
            return Ok(vec![]);
        };
        let active = self.listed_tasks(self.task_list("active")).await?;
        let about = asked.vmid.to_string();
        let mut making = vec![];
        for upid in active.into_iter().map(|task| task.upid) {
            let makes = match upid.kind() {
                _ if !self.is_ours(&upid) || upid.began().abs_diff(at) > NEAR => false,
                "qmcreate" => upid.about() == about,
                "qmclone" if upid.about() != about => {
                    let (_, log) = self.head_of_log(&upid).await?;
                    log.iter().any(|line| is_of_clone(line, asked.vmid))
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
    /// machine there before it asks for another machine. One that makes a copy under a fixed id has not, but see [`Asked::at`].
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
