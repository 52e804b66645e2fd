//! Creating a machine, under an id that nobody else has.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use jiff::Timestamp;

use super::site::Site;
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::Call;
use crate::backend::proxmox::error::Failure;
use crate::backend::proxmox::leftover::What;
use crate::backend::proxmox::task::{Begun, Ended, Upid};
use crate::error::{Error, Kind, Result};
use crate::run::{Resource, Run};

/// How long the node may take to copy the image to the disk.
const CREATION: Duration = Duration::from_secs(60 * 60);

/// How many ids are tried that seem to be free: machines that we may not see have some.
const TRIES: usize = 32;

/// How often one is asked for when connections break, the first time included.
const ATTEMPTS: u32 = 3;

/// What Proxmox VE says of an id that somebody has.
pub const TAKEN: &str = "already exists";

/// The kind of the task, as Proxmox VE names it.
const TASK: &str = "qmcreate";

/// Creates a machine of what `parameters` says for an id, and returns the id with the promise that it will be removed. The id
/// is claimed by that: the server has no other way, and of two who create one at the same time, one is told so.
pub async fn claim<'m>(
    server: &'m Proxmox,
    site: &Site<'_>,
    build: &str,
    parameters: impl Fn(u32) -> Vec<(&'static str, String)>,
    run: &Run,
) -> Result<Claimed<'m>> {
    let doing = format!("making a machine on {}", server.target.name);
    let make = async |vmid| create(server, vmid, &parameters(vmid), &doing, run).await;
    claim_by(server, site, build, run, make).await
}

/// The same by `make`, which makes a machine under an id, and returns false if the id is taken.
pub async fn claim_by<'m>(
    server: &'m Proxmox,
    site: &Site<'_>,
    build: &str,
    run: &Run,
    make: impl AsyncFn(u32) -> Result<bool>,
) -> Result<Claimed<'m>> {
    let doing = format!("making a machine on {}", server.target.name);
    let failed = |failure: Failure| failure.during(doing.as_str());
    let here = server.machines().await.map_err(failed)?;
    // Ids are the cluster's. Of its own machines the node itself knows better: the cluster may be late.
    let mut elsewhere = server.guests().await.map_err(failed)?;
    elsewhere.retain(|_, node| *node != server.target.node);
    let taken = here.iter().map(|machine| machine.vmid);
    let taken: BTreeSet<u32> = taken.chain(elsewhere.into_keys()).collect();
    let free = site.vmids.clone().filter(|vmid| !taken.contains(vmid));
    let held = |vmid| Held::take(server, vmid);
    for held in free.filter_map(held).take(TRIES) {
        let vmid = held.vmid;
        // All builds of an image want the same id for its copy, at the same time: that tells nothing.
        let is_fixed = site.vmids.start() == site.vmids.end();
        let asked = (!is_fixed).then(|| Timestamp::now().as_second());
        let machine = run.guard(server.leftover(What::Machine {
            vmid,
            build: build.to_owned(),
            asked,
        }))?;
        match make(vmid).await? {
            true => {}
            // Somebody was first, and nothing was made.
            false => {
                run.release(&machine)?;
                continue;
            }
        }
        let config = server.machine_config(vmid).await;
        let config = config.map_err(|failure| failure.during(doing.as_str()))?;
        if config.is_some_and(|config| config.is_of(build)) {
            return Ok(Claimed { machine, held });
        }
        // The task that was found after a lost answer was somebody else's. Ours may still come, so the journal keeps it.
    }
    let (first, last) = (site.vmids.start(), site.vmids.end());
    Err(Error::new(doing)
        .kind(Kind::Conflict)
        .cause(format!("no id from {first} to {last} is free"))
        .hint(format!(
            "remove machines, widen `vmid-range`, or see what `imgbuild gc --target {}` finds",
            server.target.name
        )))
}

/// An id that was claimed.
pub struct Claimed<'m> {
    /// As the journal has it.
    pub machine: Resource,
    pub held: Held<'m>,
}

/// An id that nobody else in this process tries to claim: two machines of one build look alike to whoever asks the server, so
/// they must not be taken for each other when an answer is lost.
pub struct Held<'m> {
    server: &'m Proxmox,
    pub vmid: u32,
}

impl<'m> Held<'m> {
    /// None if somebody has it.
    fn take(server: &'m Proxmox, vmid: u32) -> Option<Self> {
        let mut held = server.held.lock().unwrap_or_else(PoisonError::into_inner);
        // Not made before it is sure: dropping it would take the id from whoever has it.
        held.insert(vmid).then(|| Held { server, vmid })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let held = self.server.held.lock();
        held.unwrap_or_else(PoisonError::into_inner)
            .remove(&self.vmid);
    }
}

/// Creates a machine; false if the id is taken.
async fn create(
    server: &Proxmox,
    vmid: u32,
    parameters: &[(&'static str, String)],
    doing: &str,
    run: &Run,
) -> Result<bool> {
    let Some(begun) = ask(server, vmid, parameters, doing).await? else {
        return Ok(false);
    };
    let upid = begun.upid;
    // While it is made it has no tags, so it is known by its task alone. One that may be another's is the affair of removing
    // the machine.
    let task = match begun.may_be_anothers {
        true => None,
        false => Some(run.guard(server.leftover(What::Task { upid: upid.clone() }))?),
    };
    let failed = match server.follow(&upid, CREATION).await {
        Ok(()) => None,
        Err(Ended::Task(failed)) => Some(failed),
        Err(Ended::Untold(error)) => return Err(error),
    };
    if let Some(task) = task {
        run.release(&task)?;
    }
    match failed {
        None => Ok(true),
        Some(failed) => Err(failed.during(doing, &upid)),
    }
}

/// Asks for a machine, and returns the task that makes it; `None` if the id is taken.
async fn ask(
    server: &Proxmox,
    vmid: u32,
    parameters: &[(&'static str, String)],
    doing: &str,
) -> Result<Option<Begun>> {
    let failed = |failure: Failure| failure.during(doing);
    let call = Call::post(server.node_path(&["qemu"]));
    let with = |call: Call, (name, value): &(&'static str, String)| call.with(*name, value);
    let call = parameters.iter().fold(call, with);
    let before = server.tasks(TASK).await.map_err(failed)?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let failure = match server.client.call::<Upid>(call.clone()).await {
            Ok(upid) => return Ok(Some(Begun::told(upid))),
            Err(failure) => failure,
        };
        // The second time it may be ourselves who have it, by a call that was heard late: then the journal must keep it.
        if is_taken(&failure) && attempt == 1 {
            return Ok(None);
        }
        if !failure.why.is_uncertain() {
            return Err(failed(failure));
        }
        // It may have been heard.
        let after = server.tasks(TASK).await.map_err(failed)?;
        let about = vmid.to_string();
        let mut new = after.difference(&before);
        match new.find(|upid| upid.about() == about) {
            Some(upid) => return Ok(Some(Begun::found(upid.clone()))),
            None if attempt < ATTEMPTS => {}
            None => return Err(failed(failure)),
        }
    }
}

/// Whether an id was refused since somebody has it, or somebody is just now making or removing a machine of it.
pub(super) fn is_taken(failure: &Failure) -> bool {
    failure.why.says(TAKEN)
        || failure.why.says("can't lock file") && failure.why.says("got timeout")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::proxmox::{Credentials, Target, Trust};

    #[test]
    fn an_id_is_held_by_one_at_a_time_until_that_is_dropped() {
        let target = Target::for_tests("https://pve:8006", Trust::System);
        let token = "me@pve!lab=00000000-0000-0000-0000-000000000000".to_owned();
        let login = Credentials::token(&token.into()).unwrap();
        let server = Proxmox::new(target, login).unwrap();
        let held = Held::take(&server, 9000).unwrap();
        assert!(Held::take(&server, 9000).is_none());
        assert!(Held::take(&server, 9000).is_none(), "asking takes nothing");
        assert!(Held::take(&server, 9001).is_some());
        drop(held);
        assert!(Held::take(&server, 9000).is_some());
    }
}
