//! Copies of a template on other nodes. Proxmox VE copies to another node only what is on shared storage, but it moves a machine
//! that is off with disks that are not: so a copy is made beside the template, moved, and made a template there.

use std::time::Duration;

use super::claim::Claimed;
use super::clone::{self, Kind};
use super::hardware::Hardware;
use super::site::Site;
use super::{Machine, Template};
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::Call;
use crate::backend::proxmox::leftover::What;
use crate::backend::proxmox::task::Ended;
use crate::error::{Error, Result};
use crate::run::Run;

/// How long moving a machine to another node may take: its disk goes over the network.
const MOVE: Duration = Duration::from_secs(2 * 60 * 60);

/// The kind of the task that moves a machine, as Proxmox VE names it.
const TASK: &str = "qmigrate";

impl<'m> Template<'m> {
    /// Copies it to another node, `to`, where it is a template of the same build. It must be off that node's storage: one that
    /// is shared needs no copy.
    pub async fn copy_to(&self, to: &'m Proxmox, hardware: &Hardware) -> Result<Template<'m>> {
        let (server, run) = (self.server, self.run);
        let site = Site::of(&server.target)?.with(hardware);
        let (source, pool) = ((self.vmid, Kind::Full), hardware.pool.as_deref());
        let copying = clone::clone(server, &site, source, pool, &self.lease.build, run);
        let Claimed {
            machine: here,
            held,
        } = copying.await?;
        let vmid = held.vmid;
        // Both places are known before it moves, so that it is looked for in both.
        let there = run.guard(to.leftover(What::Machine {
            vmid,
            build: self.lease.build.clone(),
            asked: None,
        }))?;
        server.migrate(vmid, to, run).await?;
        run.release(&here)?;
        let moved = Machine {
            server: to,
            run,
            vmid,
            _held: held,
            lease: self.lease.clone(),
            machine: there,
            seed: None,
        };
        moved.convert(&self.published).await
    }
}

impl Proxmox {
    /// Moves a machine that is off to another node of the cluster, with those of its disks that are not on shared storage.
    async fn migrate(&self, vmid: u32, to: &Proxmox, run: &Run) -> Result<()> {
        let node = to.target.node.as_str();
        let doing = format!("moving the machine {vmid} to {node}");
        let call = Call::post(self.machine_path(vmid, &["migrate"])).with("target", node);
        let asked = self.ask(call, TASK, &vmid.to_string()).await;
        // Nobody else moves a machine of ours.
        let upid = asked
            .map_err(|failure| failure.during(doing.as_str()))?
            .upid;
        let task = run.guard(self.leftover(What::Task { upid: upid.clone() }))?;
        match self.follow(&upid, MOVE).await {
            Ok(()) => {}
            Err(Ended::Task(failed)) => {
                run.release(&task)?;
                return Err(failed.during(doing, &upid));
            }
            Err(Ended::Untold(error)) => return Err(error),
        }
        run.release(&task)?;
        // A machine under high availability is moved by somebody else, some time.
        let config = to.machine_config(vmid).await;
        match config.map_err(|failure| failure.during(doing.as_str()))? {
            Some(_) => Ok(()),
            None => Err(Error::new(doing).cause("its task ended well, and it is not there")),
        }
    }
}
