//! Disks of a machine that runs: what is plugged in and out at once, and what waits for the machine's end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::machine::Machine;
use crate::reply::Failure;
use crate::vm::disk::{Drive, is_drive};
use crate::vm::life::file;
use crate::vm::rights::property;
use crate::vm::{Config, Vm};

/// What became of changes that a machine may take while it runs.
#[derive(Default)]
pub struct Plugged {
    /// The keys whose changes it took.
    pub taken: BTreeSet<String>,
    /// What it has against others, which are pending.
    pub refused: BTreeMap<String, String>,
}

/// A machine that runs, and what it is made of.
pub struct Running {
    machine: Arc<Machine>,
    config: Config,
}

impl Running {
    /// That of a VM, if it runs and disks may be plugged.
    pub fn of(vm: &Vm) -> Option<Self> {
        Some(Running {
            machine: vm.machine.clone().filter(|_| hotplugs(&vm.config))?,
            config: vm.config.clone(),
        })
    }

    /// Plugs out the disks of `delete` and plugs in those of `set`, as far as they can be.
    pub async fn change(
        &self,
        (cluster, node): (&Cluster, &str),
        set: &Config,
        delete: &[String],
    ) -> Result<Plugged, Failure> {
        let mut plugged = Plugged::default();
        for key in delete.iter().filter(|key| is_pluggable(key)) {
            if self.config.contains_key(key) {
                plugged.note(key, self.unplug(key).await);
            }
        }
        for (key, value) in set.iter().filter(|(key, _)| is_pluggable(key)) {
            let drive = Drive::parse(value);
            let old = self.config.get(key).map(|old| Drive::parse(old));
            // What else is different of a disk is different when the machine starts again.
            if drive.is_cloudinit() || old.as_ref().is_some_and(|old| old.file == drive.file) {
                continue;
            }
            if old.is_some()
                && let Err(why) = self.unplug(key).await
            {
                plugged.note(key, Err(why));
                continue;
            }
            let (path, format) = file(cluster, node, &drive).map_err(Failure::died)?;
            let done = self.machine.plug(key, &drive, &path, &format).await;
            plugged.note(key, done);
        }
        Ok(plugged)
    }

    async fn unplug(&self, key: &str) -> Result<(), String> {
        let boot = self.config.get("boot").map_or("", String::as_str);
        let mut order = property(boot, "order").unwrap_or_default().split(';');
        match order.any(|disk| disk == key) {
            true => Err(format!("can't unplug bootdisk '{key}'")),
            false => self.machine.unplug(key).await,
        }
    }
}

impl Plugged {
    fn note(&mut self, key: &str, done: Result<(), String>) {
        match done {
            Ok(()) => drop(self.taken.insert(key.to_owned())),
            Err(why) => {
                let why = format!("hotplug problem - {why}\n");
                self.refused.insert(key.to_owned(), why);
            }
        }
    }
}

/// Whether a running machine takes such a drive.
fn is_pluggable(key: &str) -> bool {
    is_drive(key) && ["scsi", "virtio"].iter().any(|bus| key.starts_with(bus))
}

/// Whether the configuration lets disks be plugged: unless it says otherwise.
fn hotplugs(config: &Config) -> bool {
    match config.get("hotplug").map(String::as_str) {
        None | Some("1") => true,
        Some(list) => list.split(',').any(|what| what == "disk"),
    }
}
