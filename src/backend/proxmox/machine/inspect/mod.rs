//! Looking at the disk of a template, whose bytes the API does not give: a helper guest has it beside its own. Or, for those
//! who want no second machine, the guest that was built looks at it itself (`inside`).
//!
//! The helper is a linked clone of the template, from which everything is taken away, and which is then made like any other
//! machine of ours, with the base image as its disk. What it was cloned for is plugged in only when it runs: both disks have
//! file systems of one name, and a kernel that boots might take the wrong one for its own.

mod device;
mod inside;
mod reader;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::address::{self, Door};
use super::operate::OPERATION;
use super::site::Site;
use super::{Machine, Origin, Start, hardware};
use crate::backend::proxmox::call::Call;
use crate::backend::proxmox::{Proxmox, StoredImage};
use crate::error::{Error, Result};
use crate::run::Run;
use crate::ssh::SshSession;
use device::Device;
pub use inside::Inside;
pub use reader::Reader;

/// What the disk is plugged in as. Nothing else of a helper has a name that begins so.
const SUBJECT: &str = "scsi2";

/// The helper's SCSI controller. It is one for all disks, so that a new disk is no new PCI device, which not every kernel
/// would see.
const CONTROLLER: &str = "virtio-scsi-pci";

/// What of a clone's configuration is not taken away: what says which machine it is, and what will be said anew.
const KEPT: &[&str] = &[
    "boot",
    "description",
    "digest",
    "meta",
    "name",
    "smbios1",
    "tags",
    "vmgenid",
];

/// How long copying the base image may take.
const COPY: Duration = Duration::from_secs(60 * 60);

/// A helper guest with a template's disk. It is in the run's journal until it is removed.
pub struct Inspector<'m> {
    machine: Machine<'m>,
    session: SshSession,
    device: Device,
    /// What the disk is called in errors.
    name: String,
}

impl<'m> Inspector<'m> {
    /// Makes a helper for the template `template`, as `start` says but with a system from `image`, and waits until it has the
    /// disk.
    ///
    /// Errors: those of [`Machine::start`] and [`Machine::enter`]; disks cannot be plugged into a running machine.
    pub async fn start(
        server: &'m Proxmox,
        (template, image): (u32, &StoredImage),
        start: Start<'_>,
        (door, patience): (&Door<'_>, Duration),
        run: &'m Run,
    ) -> Result<Self> {
        let site = Site::of(&server.target)?.with(start.hardware);
        let start = Start {
            origin: Origin::Template(template),
            ..start
        };
        let (machine, seed) = Machine::make(server, &site, &start, run).await?;
        let vmid = machine.vmid;
        let hardware = hardware::parameters(vmid, &start, image, &site, &seed);
        let preparing = machine.become_helper(hardware);
        let volume = run.phase("prepare helper", preparing).await?;
        run.phase("start helper", machine.power_on()).await?;
        let entering = address::connect(server, vmid, door, patience);
        let (mut session, _) = run.phase("boot helper", entering).await?;
        let attaching = async {
            machine.plug(&volume).await?;
            Device::plugged(&mut session, &format!("drive-{SUBJECT}")).await
        };
        let device = run.phase("attach disk", attaching).await?;
        Ok(Inspector {
            machine,
            session,
            device,
            name: format!("the disk of the template {template}"),
        })
    }

    /// What reads the disk there. There can be several at the same time.
    pub async fn reader(&self) -> Result<Reader> {
        Reader::start(self.device.clone(), self.name.clone(), &self.session).await
    }

    /// Removes the helper with its disks and its seed. The template stays as it was.
    pub async fn remove(self) -> Result<()> {
        self.machine.remove().await
    }
}

impl Machine<'_> {
    /// Makes a clone that was never started a machine of this hardware, and returns the volume that was its disk.
    async fn become_helper(&self, hardware: Vec<(&'static str, String)>) -> Result<String> {
        let doing = format!("making the clone {} a helper", self.vmid);
        let config = self.all_config(&doing).await?;
        let disk = config.get(hardware::DISK).and_then(Value::as_str);
        let volume = disk.and_then(|disk| disk.split(',').next());
        let volume = volume.ok_or_else(|| {
            let cause = format!("the template has no disk {}", hardware::DISK);
            Error::new(doing.as_str()).cause(cause)
        })?;
        let change = || Call::post(self.server.machine_path(self.vmid, &["config"]));
        let taken = config.keys().map(String::as_str);
        let taken: Vec<_> = taken
            .filter(|name| !KEPT.contains(name) && !name.starts_with("unused"))
            .collect();
        // First all of it goes: a drive that is added to others might change the order of the boot.
        let stripping = change().with("delete", taken.join(","));
        self.server.operate(stripping, &doing, OPERATION).await?;
        // A machine that is there has an id, and is in its pool.
        let set = hardware.into_iter();
        let set = set.filter(|(name, _)| !["pool", "vmid"].contains(name));
        let set = set.fold(change(), |call, (name, value)| match name {
            "scsihw" => call.with(name, CONTROLLER),
            name => call.with(name, value),
        });
        self.server.operate(set, &doing, COPY).await?;
        Ok(volume.to_owned())
    }

    /// Gives the running machine a volume as a disk that cannot be written to.
    async fn plug(&self, volume: &str) -> Result<()> {
        let doing = format!("plugging {volume} into the machine {}", self.vmid);
        let call = Call::post(self.server.machine_path(self.vmid, &["config"]))
            .with(SUBJECT, format!("{volume},ro=1"));
        self.server.operate(call, &doing, OPERATION).await?;
        // What is not plugged in is pending, and that is no error to the server.
        match self.all_config(&doing).await?.contains_key(SUBJECT) {
            true => Ok(()),
            false => Err(Error::new(doing)
                .cause("the server waits with it until the machine is started again")),
        }
    }

    /// All of the configuration that the machine has now.
    async fn all_config(&self, doing: &str) -> Result<BTreeMap<String, Value>> {
        let path = self.server.machine_path(self.vmid, &["config"]);
        let call = Call::get(path).with("current", "1");
        let config = self.server.client.call(call).await;
        config.map_err(|failure| failure.during(doing))
    }
}
