//! Machines that are made of others.

use std::time::Duration;

use super::claim::{Claimed, TAKEN, claim_by, is_taken};
use super::hardware::{self, Change};
use super::lease::Lease;
use super::making::is_ours;
use super::operate::{LOCKED, PAUSE};
use super::site::Site;
use super::{Origin, Start};
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::Call;
use crate::backend::proxmox::leftover::What;
use crate::backend::proxmox::task::{Ended, Upid};
use crate::error::Result;
use crate::run::Run;

/// How long a clone may take: a full one copies all disks.
const CLONE: Duration = Duration::from_secs(60 * 60);

/// How often it is asked for, the first time included.
const ATTEMPTS: u32 = 3;

/// How much of its source a clone needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its disks are overlays on those of its source, which is a template.
    Linked,
    /// It has copies.
    Full,
}

/// Clones a machine that is off, or a template. The clone has the source's configuration, but a name of this build.
pub async fn clone<'m>(
    server: &'m Proxmox,
    site: &Site<'_>,
    (source, kind): (u32, Kind),
    pool: Option<&str>,
    build: &str,
    run: &Run,
) -> Result<Claimed<'m>> {
    let doing = format!("cloning {source} on {}", server.target.name);
    let make = async |vmid: u32| {
        let call = Call::post(server.machine_path(source, &["clone"]))
            .with("newid", vmid.to_string())
            .with("name", Lease::name(build));
        let call = match pool {
            Some(pool) => call.with("pool", pool),
            None => call,
        };
        let call = match kind {
            // Where it is stored is not ours to say.
            Kind::Linked => call.with("full", "0"),
            Kind::Full => call.with("full", "1").with("storage", site.images),
        };
        ask(server, call, (vmid, build), &doing, run).await
    };
    claim_by(server, site, build, run, make).await
}

/// How a clone's task ends if another node has the id: the cluster's file system does not give a configuration its name
/// (`memdb_rename` of pmxcfs).
const ELSEWHERE: &str = "File exists";

/// Has a clone made; false if its id is taken.
async fn ask(
    server: &Proxmox,
    call: Call,
    (vmid, build): (u32, &str),
    doing: &str,
    run: &Run,
) -> Result<bool> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let (taken, again, error) = match server.client.call::<Upid>(call.clone()).await {
            Ok(upid) => match follow(server, &upid, run).await? {
                Ok(()) => return Ok(true),
                Err(Ended::Untold(error)) => return Err(error),
                Err(Ended::Task(failed)) => {
                    let taken = failed.exit.contains(TAKEN) || failed.exit.ends_with(ELSEWHERE);
                    let locked = failed.exit.ends_with(LOCKED);
                    (taken, locked, failed.during(doing, &upid))
                }
            },
            Err(failure) => (
                is_taken(&failure),
                failure.why.is_uncertain(),
                failure.during(doing),
            ),
        };
        if taken && attempt == 1 {
            return Ok(false);
        }
        if !taken && !again {
            return Err(error);
        }
        // It may have been heard though its answer was lost. Its task has the id of the source, so that does not tell; what
        // there is under the new id does, in the end.
        if is_ours(server, (vmid, build), CLONE, doing).await? {
            return Ok(true);
        }
        if attempt >= ATTEMPTS {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for the task, which is what is known of a clone that is being made.
async fn follow(server: &Proxmox, upid: &Upid, run: &Run) -> Result<Result<(), Ended>> {
    let task = run.guard(server.leftover(What::Task { upid: upid.clone() }))?;
    let ended = server.follow(upid, CLONE).await;
    if !matches!(ended, Err(Ended::Untold(_))) {
        run.release(&task)?;
    }
    Ok(ended)
}

/// What a new clone must be told: whose it is, and its seed. One of a finished template gets a machine's hardware.
pub fn change(start: &Start<'_>, site: &Site<'_>, seed: &str) -> Change {
    let mut change = match start.origin {
        Origin::Template(_) => hardware::tested(start.hardware, site),
        Origin::Image(_) | Origin::Layer(_) => Change::default(),
    };
    change.set("tags", start.lease.tags());
    change.set("description", start.description);
    change.set(hardware::SEED, hardware::cd(seed));
    change
}
