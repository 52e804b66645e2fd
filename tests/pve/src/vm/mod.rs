//! Virtual machines: what they are made of, and what can be done with them.

pub mod agent;
pub mod change;
pub mod clone;
pub mod cloudinit;
pub mod config;
pub mod console;
pub mod create;
pub mod disk;
pub mod life;
pub mod list;
pub mod migrate;
mod plug;
pub mod remove;
pub mod resize;
pub mod rights;
pub mod template;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::machine::Machine;
use crate::reply::Failure;

/// How long an operation waits for a VM's lock.
pub const LOCK: Duration = Duration::from_secs(10);

/// The same for creating one.
pub const CREATE_LOCK: Duration = Duration::from_secs(5);

/// The same for cloning one.
pub const CLONE_LOCK: Duration = Duration::from_secs(1);

/// What the configuration file says.
pub type Config = BTreeMap<String, String>;

/// One VM.
#[derive(Default)]
pub struct Vm {
    pub node: String,
    pub config: Config,
    /// What changes when it is stopped; none for what goes.
    pub pending: BTreeMap<String, Option<String>>,
    /// While it runs.
    pub machine: Option<Arc<Machine>>,
    pub since: Option<Instant>,
    /// It is to be started again when it has stopped.
    pub reboots: bool,
}

impl Vm {
    pub fn is_running(&self) -> bool {
        self.machine.is_some()
    }

    pub fn is_template(&self) -> bool {
        self.config.get("template").is_some_and(|flag| flag == "1")
    }

    pub fn name(&self, vmid: u32) -> String {
        let name = self.config.get("name");
        name.cloned().unwrap_or_else(|| format!("VM {vmid}"))
    }

    /// Bytes.
    pub fn memory(&self) -> u64 {
        let value = self.config.get("memory").map_or("512", String::as_str);
        let value = value.strip_prefix("current=").unwrap_or(value);
        value.parse().unwrap_or(512) << 20
    }

    /// Fails while an operation has put its mark into the configuration.
    pub fn check_lock(&self) -> Result<(), String> {
        match self.config.get("lock") {
            Some(lock) => Err(format!("VM is locked ({lock})")),
            None => Ok(()),
        }
    }

    /// Changes with each change of the configuration.
    pub fn digest(&self) -> String {
        let digest = Sha256::digest(format!("{:?}{:?}", self.config, self.pending));
        digest
            .iter()
            .take(20)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Fails if the configuration is not the one that the caller saw.
    pub fn check_digest(&self, seen: Option<&str>) -> Result<(), Failure> {
        match seen {
            Some(digest) if digest != self.digest() => Err(Failure::died(
                "checksum mismatch (file change by other user?)",
            )),
            _ => Ok(()),
        }
    }

    /// What was pending is so now.
    pub fn settle(&mut self) {
        for (name, value) in std::mem::take(&mut self.pending) {
            match value {
                Some(value) => self.config.insert(name, value),
                None => self.config.remove(&name),
            };
        }
    }

    /// For people who look at what is left.
    pub fn summary(&self, vmid: u32) -> String {
        let tags = self.config.get("tags").map_or("", String::as_str);
        let mut line = format!("{vmid} {} [{tags}]", self.name(vmid));
        if self.is_template() {
            line.push_str(" template");
        }
        if self.is_running() {
            line.push_str(" running");
        }
        if let Some(lock) = self.config.get("lock") {
            line.push_str(&format!(" lock={lock}"));
        }
        line
    }
}
