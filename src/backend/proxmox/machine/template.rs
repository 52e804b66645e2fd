//! What becomes of a machine that is done: a template.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::claim::Claimed;
use super::clone::{self, Kind};
use super::hardware::{self, Change, Hardware};
use super::lease::Lease;
use super::published::CHANGED;
use super::site::Site;
use super::{Machine, OPERATION};
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::Call;
use crate::backend::proxmox::leftover::What;
use crate::backend::proxmox::task::Ended;
use crate::error::Result;
use crate::run::{Resource, Run};

/// The kind of the task that makes a template, as Proxmox VE names it.
const TASK: &str = "qmtemplate";

/// How long making a template may take: some storages copy the disks.
const CONVERSION: Duration = Duration::from_secs(60 * 60);

/// What a template is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// A DNS label.
    pub name: String,
    pub tags: Vec<String>,
    /// Markdown.
    pub description: String,
}

/// A template that is not published yet: the journal has it.
pub struct Template<'m> {
    pub(super) server: &'m Proxmox,
    pub(super) run: &'m Run,
    pub vmid: u32,
    pub(super) lease: Lease,
    /// The file that will say that it is published.
    pub(super) published: PathBuf,
    pub(super) resource: Resource,
}

impl<'m> Machine<'m> {
    /// Makes this machine, which must be off and without a seed, a copy that needs nothing of what it was an overlay of.
    pub async fn stand_alone(&mut self, hardware: &Hardware) -> Result<()> {
        let site = Site::of(&self.server.target)?.with(hardware);
        let copying = clone::clone(
            self.server,
            &site,
            (self.vmid, Kind::Full),
            hardware.pool.as_deref(),
            &self.lease.build,
            self.run,
        );
        let Claimed { machine, held } = copying.await?;
        let original = std::mem::replace(&mut self.machine, machine);
        self.vmid = held.vmid;
        self._held = held;
        self.run.remove(&original).await
    }

    /// Makes it a template with its own hardware: it must be off, and without a seed. `published` is the file that will say that
    /// it is published: from then on it belongs to no build.
    pub async fn into_template(
        self,
        hardware: &Hardware,
        published: &Path,
    ) -> Result<Template<'m>> {
        let site = Site::of(&self.server.target)?.with(hardware);
        let change = hardware::template(hardware, &site);
        if !change.is_empty() {
            self.server.configure_once(self.vmid, change).await?;
        }
        self.convert(published).await
    }

    /// Makes it a template as it is.
    pub(super) async fn convert(self, published: &Path) -> Result<Template<'m>> {
        let (server, run) = (self.server, self.run);
        let resource = run.guard(server.leftover(What::Template {
            vmid: self.vmid,
            build: self.lease.build.clone(),
            published: published.to_owned(),
        }))?;
        run.release(&self.machine)?;
        server.make_template(self.vmid).await?;
        Ok(Template {
            server,
            run,
            vmid: self.vmid,
            lease: self.lease,
            published: published.to_owned(),
            resource,
        })
    }

    /// Makes it a template that is called this, and belongs to no build any more.
    pub async fn make_layer(&self, label: &Label) -> Result<u32> {
        let (server, run) = (self.server, self.run);
        server.make_template(self.vmid).await?;
        // Until it is told to be a layer, it is still the build's, and whatever hangs about it is aborted.
        let mut label = label.clone();
        label.tags.push(Lease::tag(&self.lease.build));
        server.label(self.vmid, &label).await?;
        run.release(&self.machine)?;
        Ok(self.vmid)
    }
}

impl Template<'_> {
    /// The node that it is on.
    pub fn node(&self) -> &str {
        &self.server.target.node
    }

    /// Gives it its name. It is still the build's.
    pub async fn label(&self, label: &Label) -> Result<()> {
        self.server.label(self.vmid, label).await
    }

    /// After the file that says that it is published has its name.
    pub fn released(self) -> Result<()> {
        self.run.release(&self.resource)
    }
}

impl Proxmox {
    pub(super) async fn make_template(&self, vmid: u32) -> Result<()> {
        let doing = format!("making the machine {vmid} a template");
        let tasks = async || {
            let tasks = self.tasks(TASK).await;
            tasks.map_err(|failure| failure.during(doing.as_str()))
        };
        let before = tasks().await?;
        let call = Call::post(self.machine_path(vmid, &["template"]));
        let Err(error) = self.operate(call, &doing, CONVERSION).await else {
            return Ok(());
        };
        // It may be one by a call whose answer was lost. Its configuration says that it is before its disks are (`template` in
        // qemu-server's API2/Qemu.pm), so what counts is how a task has ended.
        let (Ok(after), about) = (tasks().await, vmid.to_string()) else {
            return Err(error);
        };
        let mut failed = None;
        for upid in after.difference(&before).filter(|it| it.about() == about) {
            match self.follow(upid, CONVERSION).await {
                Ok(()) => return Ok(()),
                Err(Ended::Untold(error)) => return Err(error),
                Err(Ended::Task(failure)) => failed = Some(failure.during(doing.as_str(), upid)),
            }
        }
        // What was said last may only be that it is called a template.
        Err(failed.unwrap_or(error))
    }

    /// Names and tags a machine or template.
    pub async fn label(&self, vmid: u32, label: &Label) -> Result<()> {
        let mut change = Change::default();
        change.set("name", label.name.as_str());
        change.set("tags", label.tags.join(";"));
        change.set("description", label.description.as_str());
        self.configure(vmid, change).await
    }

    /// Gives a machine or template other tags.
    pub async fn retag(&self, vmid: u32, tags: &[String]) -> Result<()> {
        let mut change = Change::default();
        change.set("tags", tags.join(";"));
        self.configure(vmid, change).await
    }

    /// Changes a machine's configuration in a way that must not be done twice: disks that are made would be made again. A call
    /// that was heard though its answer was lost is known by the configuration, which is not the one any more that it was
    /// asked for with.
    async fn configure_once(&self, vmid: u32, mut change: Change) -> Result<()> {
        let doing = || format!("changing the configuration of the machine {vmid}");
        let asked = async || {
            let config = self.machine_config(vmid).await;
            config.map_err(|failure| failure.during(doing()))
        };
        let before = asked().await?.and_then(|config| config.digest);
        if let Some(digest) = &before {
            change.set("digest", digest.as_str());
        }
        let Err(error) = self.configure(vmid, change).await else {
            return Ok(());
        };
        let is_refused = error.get_cause().is_some_and(|why| why.contains(CHANGED));
        let is_other = asked().await?.and_then(|config| config.digest) != before;
        match is_refused && is_other {
            true => Ok(()),
            false => Err(error),
        }
    }

    /// Changes a machine's configuration.
    pub(super) async fn configure(&self, vmid: u32, change: Change) -> Result<()> {
        let call = Call::post(self.machine_path(vmid, &["config"]));
        let set = change.set.into_iter();
        let call = set.fold(call, |call, (name, value)| call.with(name, value));
        let call = match change.delete.is_empty() {
            true => call,
            false => call.with("delete", change.delete.join(",")),
        };
        let doing = format!("changing the configuration of the machine {vmid}");
        self.operate(call, &doing, OPERATION).await
    }
}
