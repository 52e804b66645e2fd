//! All that a server has: what it serves, and what it remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::access::Access;
use crate::fault::Faults;
use crate::lock::Locks;
use crate::machine::Kind;
use crate::record::Request;
use crate::reply::Failure;
use crate::setup::{Setup, Storage};
use crate::task::Task;
use crate::vm::Vm;
use crate::vm::console::Terminal;

/// The state of one server.
pub struct Cluster {
    world: Mutex<World>,
    pub faults: Mutex<Faults>,
    /// Tasks that hang wait for a change of this.
    pub relents: watch::Sender<()>,
    pub requests: Mutex<Vec<Request>>,
    pub locks: Locks,
    pub born: Instant,
    pub ssh_port: u16,
    /// The first number of Proxmox's version.
    pub release: u32,
    pub guests: Kind,
    /// Where guests are reached, by their ids.
    network: [u8; 2],
    pace: u32,
    folder: PathBuf,
}

/// What calls change.
pub struct World {
    pub nodes: Vec<String>,
    /// Those that are switched off.
    pub offline: BTreeSet<String>,
    /// Free bytes of those that have not as much as others.
    pub memory: BTreeMap<String, u64>,
    pub storages: Vec<Storage>,
    pub bridges: Vec<String>,
    pub pools: BTreeMap<String, BTreeSet<u32>>,
    pub access: Access,
    pub vms: BTreeMap<u32, Vm>,
    pub tasks: Vec<Task>,
    pub terminals: Vec<Terminal>,
    /// What `/cluster/resources` says of how the VMs are, and since when.
    pub resources: Option<(Instant, BTreeMap<u32, serde_json::Value>)>,
}

impl Cluster {
    /// `network` are the first two bytes of the guests' addresses.
    pub fn new(setup: Setup, folder: &Path, network: [u8; 2]) -> Arc<Self> {
        Arc::new(Cluster {
            world: Mutex::new(World {
                nodes: setup.nodes,
                offline: BTreeSet::new(),
                memory: setup.memory,
                storages: setup.storages,
                bridges: setup.bridges,
                pools: setup
                    .pools
                    .into_iter()
                    .map(|name| (name, BTreeSet::new()))
                    .collect(),
                access: setup.access,
                vms: BTreeMap::new(),
                tasks: vec![],
                terminals: vec![],
                resources: None,
            }),
            faults: Mutex::default(),
            relents: watch::Sender::default(),
            requests: Mutex::default(),
            locks: Locks::default(),
            born: Instant::now(),
            ssh_port: setup.ssh_port,
            release: setup.release,
            guests: setup.guests,
            network,
            pace: setup.pace,
            folder: folder.to_owned(),
        })
    }

    /// Never held across an `await`.
    pub fn world(&self) -> MutexGuard<'_, World> {
        held(&self.world)
    }

    /// One of the server's own waits, at its pace.
    pub fn wait(&self, real: Duration) -> Duration {
        real / self.pace
    }

    /// How long the server waits for a client: at its pace, but no client is so quick that less would do.
    pub fn patience(&self, real: Duration) -> Duration {
        self.wait(real).max(Duration::from_millis(500))
    }

    /// Where the guest of a VM is reached.
    pub fn address(&self, vmid: u32) -> Ipv4Addr {
        let [a, b] = self.network;
        let [.., c, d] = vmid.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    }

    /// A folder of the server, which is there.
    pub fn folder(&self, name: &str) -> std::io::Result<PathBuf> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

impl World {
    /// Changes a task, which is there: tasks are never forgotten.
    pub fn task(&mut self, upid: &str, change: impl FnOnce(&mut Task)) {
        let found = self
            .tasks
            .iter_mut()
            .rev()
            .find(|task| task.record.upid == upid);
        found.map(change);
    }

    /// The storage of this name.
    pub fn storage(&self, name: &str) -> Result<&Storage, Failure> {
        let found = self.storages.iter().find(|storage| storage.name == name);
        found.ok_or_else(|| Failure::died(format!("storage '{name}' does not exist")))
    }

    /// The VM with this id, which must be on this node.
    pub fn vm(&mut self, node: &str, vmid: u32) -> Result<&mut Vm, Failure> {
        match self.vms.get_mut(&vmid) {
            Some(vm) if vm.node == node => Ok(vm),
            _ => Err(Failure::died(format!(
                "Configuration file 'nodes/{node}/qemu-server/{vmid}.conf' does not exist"
            ))),
        }
    }
}

/// A lock whose last holder panicked is as good as any: a test that panicked has failed already.
pub fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
