//! Removing a machine: the orderly end, and what is left of one.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::lease::{Lease, began};
use super::list::Survey;
use super::making::{self, Asked};
use super::operate::OPERATION;
use super::published::{Drift, Located};
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::Call;
use crate::backend::proxmox::error::Failure;
use crate::error::{Error, Kind, Result};
use crate::record::{Place, TemplateFile};

/// How long removing a machine with its disks may take.
const REMOVAL: Duration = Duration::from_secs(10 * 60);

/// Removes a machine with its disks if the build made it, whatever it is doing. One that is gone, or that somebody else has made
/// under the id, is success.
pub async fn remove(server: &Proxmox, asked: &Asked<'_>) -> Result<()> {
    let vmid = asked.vmid;
    let doing = format!("removing the machine {vmid} from {}", server.target.name);
    let since = asked.at.or_else(|| Some(began(asked.build)?.as_second()));
    let since = since.unwrap_or_else(|| Timestamp::now().as_second());
    // It may have been moved to another node meanwhile, by whomever.
    if let Some(there) = server.with_machine(vmid, &doing).await? {
        remove_ours(&there, asked, &doing).await?;
    }
    server.remove_staying(vmid, since, &doing).await
}

async fn remove_ours(server: &Proxmox, asked: &Asked<'_>, doing: &str) -> Result<()> {
    let vmid = asked.vmid;
    if !making::settled(server, asked, doing).await? {
        return Ok(());
    }
    // What was asked for and hangs has the machine's lock.
    let tasks = server.tasks_about(vmid).await;
    for upid in tasks.map_err(|failure| failure.during(doing))? {
        server.abort(&upid).await?;
    }
    let stop = Call::post(server.machine_path(vmid, &["status", "stop"]));
    server.operate(stop, doing, OPERATION).await?;
    match server.operate(deletion(server, vmid), doing, REMOVAL).await {
        Ok(()) => Ok(()),
        // It may have been heard though its answer was lost.
        Err(error) => match making::settled(server, asked, doing).await? {
            true => Err(error),
            false => Ok(()),
        },
    }
}

/// What Proxmox VE says of a template whose disks others are overlays of.
const IN_USE: &str = "is still in use";

/// What became of templates that were to be removed.
#[derive(Debug)]
pub enum Removal<'f> {
    /// Each of them, and what became of it.
    Done(Vec<(Place<'f>, Fate)>),
    /// Linked clones need one of them, these among them, so that all stay.
    InUse(Vec<String>),
}

/// What became of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Removed,
    /// It was gone already.
    Gone,
    /// It was gone already, and something else of this name has its id, which stays.
    Replaced(String),
}

impl Proxmox {
    /// The machines whose disks are overlays of a template's, as far as the storage for disks tells.
    pub async fn users_of(&self, vmid: u32) -> Result<BTreeSet<u32>, Failure> {
        let Some(storage) = &self.target.images else {
            return Ok(BTreeSet::new());
        };
        self.users_in(storage, vmid).await
    }

    /// Those whose disks in this storage are.
    async fn users_in(&self, storage: &str, vmid: u32) -> Result<BTreeSet<u32>, Failure> {
        let volumes = self.volumes(storage, "images").await?;
        let above = volumes.iter().filter(|volume| volume.is_clone_of(vmid));
        Ok(above.filter_map(|volume| volume.vmid).collect())
    }

    /// Removes a template with its disks. The server refuses while others are overlays of them.
    ///
    /// Errors: those of the server; that a disk of it stays though it is gone.
    pub(super) async fn remove_template(&self, vmid: u32) -> Result<()> {
        let doing = self.removing_template(vmid);
        let since = Timestamp::now().as_second();
        self.delete_template(vmid, &doing).await?;
        self.remove_staying(vmid, since, &doing).await
    }

    /// Removes a template or layer; false if others are overlays of its disks, so that it stays.
    pub async fn remove_unused(&self, vmid: u32) -> Result<bool> {
        let doing = self.removing_template(vmid);
        let since = Timestamp::now().as_second();
        match self.delete_template(vmid, &doing).await {
            Ok(()) => self
                .remove_staying(vmid, since, &doing)
                .await
                .map(|()| true),
            Err(error) if error.get_cause().is_some_and(|why| why.contains(IN_USE)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn removing_template(&self, vmid: u32) -> String {
        format!("removing the template {vmid} from {}", self.target.name)
    }

    async fn delete_template(&self, vmid: u32, doing: &str) -> Result<()> {
        match self.operate(deletion(self, vmid), doing, REMOVAL).await {
            Ok(()) => Ok(()),
            Err(error) => match self.machine_config(vmid).await {
                // It may have been heard though its answer was lost, or somebody else was first.
                Ok(None) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Removes a finished template and its copies, if they are still what they were. All are looked at before the first goes,
    /// and the copies go before what they are copies of.
    ///
    /// Errors: one of them is on another node, or no template any more, or has got a linked clone since it was looked at
    /// ([`Kind::Conflict`]); what the server says.
    pub async fn remove_published<'f>(&self, file: &'f TemplateFile) -> Result<Removal<'f>> {
        let doing = || format!("removing {} from {}", file.name, self.target.name);
        let failed = |failure: Failure| failure.during(doing());
        let survey = self.survey().await.map_err(failed)?;
        let mut fates = vec![];
        for place in file.places().rev() {
            fates.push((place, self.fate(&place, &survey).await?));
        }
        // The last time a disk may have stayed.
        for (place, fate) in &fates {
            if let (Fate::Gone, Some(since)) = (fate, began(&file.build)) {
                self.remove_staying(place.vmid, since.as_second(), &doing())
                    .await?;
            }
        }
        let there = fates.iter().filter(|(_, fate)| *fate == Fate::Removed);
        let there: Vec<Place<'_>> = there.map(|(place, _)| *place).collect();
        // Of a single one the server itself says it in time.
        if there.len() > 1 {
            let mut clones = vec![];
            for place in &there {
                clones.extend(self.clones(place, &survey).await.map_err(failed)?);
            }
            if !clones.is_empty() {
                return Ok(Removal::InUse(clones));
            }
        }
        for (index, place) in there.iter().enumerate() {
            if self.on(place.node).remove_unused(place.vmid).await? {
                continue;
            }
            if index == 0 {
                // That there are some is known already; who they are is only told.
                let clones = self.clones(place, &survey).await;
                return Ok(Removal::InUse(clones.unwrap_or_default()));
            }
            return Err(Error::new(doing())
                .kind(Kind::Conflict)
                .cause(format!(
                    "linked clones need {} on {}, which could not be seen before its copies were removed",
                    place.vmid, place.node
                ))
                .hint("remove these machines, or move their disks, which makes them whole; then the same command again"));
        }
        Ok(Removal::Done(fates))
    }

    /// What is to become of a template that is to be removed.
    async fn fate(&self, place: &Place<'_>, survey: &Survey) -> Result<Fate> {
        let (vmid, file, target) = (place.vmid, place.file, &self.target.name);
        let doing = || format!("removing the template {vmid} ({}) from {target}", file.name);
        let changed = |how: Drift| {
            Err(Error::new(doing())
            .kind(Kind::Conflict)
            .cause(how)
            .hint(format!(
                "remove it by hand, or take its tag {} off to keep it; then the same command again",
                Lease::tag(&file.build)
            )))
        };
        match survey.find(place) {
            Located::Here(_) => Ok(Fate::Removed),
            Located::Gone => {
                self.confirm_gone(place).await?;
                Ok(Fate::Gone)
            }
            Located::Replaced(other) => Ok(Fate::Replaced(other.name.clone())),
            Located::Moved(node) => changed(Drift::Moved(node.to_owned())),
            Located::Reverted => changed(Drift::Reverted),
            Located::Offline => Err(Error::new(doing())
                .cause(format!("{} is offline", place.node))
                .hint("the same command again when it is back; nothing was changed")),
        }
    }

    /// The linked clones of a template that we may see, as people know them.
    async fn clones(&self, place: &Place<'_>, survey: &Survey) -> Result<Vec<String>, Failure> {
        let there = self.on(place.node);
        let users = there.users_in(&place.file.storage, place.vmid).await?;
        let told = users.iter().map(|user| {
            let listed = survey.all().find(|listed| listed.vmid == *user);
            listed.map_or(user.to_string(), |listed| {
                format!("{user} ({})", listed.name)
            })
        });
        Ok(told.collect())
    }
}

fn deletion(server: &Proxmox, vmid: u32) -> Call {
    Call::delete(server.machine_path(vmid, &[]))
        .with("purge", "1")
        .with("destroy-unreferenced-disks", "1")
}
