//! Starting and stopping.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::Cluster;
use crate::context::Context;
use crate::fault::What;
use crate::machine::{Machine, Network, Spec, firmware};
use crate::params::Params;
use crate::reply::{Failure, Reply};
use crate::storage;
use crate::task::{self, Worker};
use crate::vm::disk::{Drive, is_drive};
use crate::vm::{Config, LOCK, cloudinit, rights};

/// Seconds that a guest has to shut down if the call does not say.
const SHUTDOWN: u64 = 60;

/// How long another process takes to notice that a guest that reboots is down.
const RESTART: Duration = Duration::from_secs(1);

/// `POST …/status/start`
pub async fn start(context: Context) -> Reply {
    let (node, vmid) = (context.node().to_owned(), context.params.vmid());
    let upid = task::start(
        &context,
        "qmstart",
        &vmid.to_string(),
        move |worker| async move {
            let _lock = lock(&worker, vmid).await?;
            worker.middle().await?;
            begin(&worker, &node, vmid).await
        },
    );
    Ok(json!(upid).into())
}

/// Starts a VM for a task that has ended well.
pub fn start_task(cluster: &Arc<Cluster>, node: &str, who: &str, vmid: u32) {
    let mut params = Params::default();
    params.set("node", node);
    params.set("vmid", &vmid.to_string());
    let context = Context {
        cluster: cluster.clone(),
        who: who.to_owned(),
        params,
        fault: None,
        upload: None,
    };
    let node = node.to_owned();
    task::start(
        &context,
        "qmstart",
        &vmid.to_string(),
        move |worker| async move {
            let _lock = lock(&worker, vmid).await?;
            begin(&worker, &node, vmid).await
        },
    );
}

/// `POST …/status/stop`
pub async fn stop(context: Context) -> Reply {
    let (node, vmid) = (context.node().to_owned(), context.params.vmid());
    let id = vmid.to_string();
    let upid = task::start(&context, "qmstop", &id, move |worker| async move {
        let _lock = lock(&worker, vmid).await?;
        worker.middle().await?;
        if let Some(machine) = machine(&worker.cluster, &node, vmid)? {
            machine.stop().await;
        }
        Ok(())
    });
    Ok(json!(upid).into())
}

/// `POST …/status/shutdown`
pub async fn shutdown(context: Context) -> Reply {
    let (node, vmid) = (context.node().to_owned(), context.params.vmid());
    let (id, patience) = (vmid.to_string(), patience(&context));
    let force = context.params.flag("forceStop");
    let upid = task::start(&context, "qmshutdown", &id, move |worker| async move {
        let _lock = lock(&worker, vmid).await?;
        worker.middle().await?;
        let Some(machine) = machine(&worker.cluster, &node, vmid)? else {
            return Ok(());
        };
        match go_down(&worker, vmid, &machine, patience).await {
            Err(_) if force => {
                worker.log("VM still running - terminating now with SIGTERM");
                machine.stop().await;
                Ok(())
            }
            ended => ended,
        }
    });
    Ok(json!(upid).into())
}

/// The wish that a VM be started again when it has stopped. It ends with the task that has it.
struct Reboots(Arc<Cluster>, u32);

impl Reboots {
    fn set(&self, reboots: bool) {
        if let Some(vm) = self.0.world().vms.get_mut(&self.1) {
            vm.reboots = reboots;
        }
    }
}

impl Drop for Reboots {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// `POST …/status/reboot`: the task ends when the guest is down. Another process starts it again.
pub async fn reboot(context: Context) -> Reply {
    let (node, vmid) = (context.node().to_owned(), context.params.vmid());
    let (id, patience) = (vmid.to_string(), patience(&context));
    if !context.cluster.world().vm(&node, vmid)?.is_running() {
        return Err(Failure::died(format!("VM {vmid} not running")));
    }
    let upid = task::start(&context, "qmreboot", &id, move |worker| async move {
        let _lock = lock(&worker, vmid).await?;
        worker.middle().await?;
        let Some(machine) = machine(&worker.cluster, &node, vmid)? else {
            return Ok(());
        };
        let reboots = Reboots(worker.cluster.clone(), vmid);
        reboots.set(true);
        go_down(&worker, vmid, &machine, patience).await
    });
    Ok(json!(upid).into())
}

fn patience(context: &Context) -> Duration {
    Duration::from_secs(context.params.number("timeout").unwrap_or(SHUTDOWN))
}

/// The machine of a VM, which must be there; none if it does not run.
fn machine(cluster: &Cluster, node: &str, vmid: u32) -> Result<Option<Arc<Machine>>, String> {
    let mut world = cluster.world();
    let vm = world.vm(node, vmid).map_err(|failure| failure.reason)?;
    Ok(vm.machine.clone())
}

async fn lock(
    worker: &Worker,
    vmid: u32,
) -> Result<tokio::sync::OwnedRwLockWriteGuard<()>, String> {
    let cluster = &worker.cluster;
    cluster.locks.exclusive(vmid, cluster.wait(LOCK)).await
}

/// Asks the guest, and waits until it is down.
async fn go_down(
    worker: &Worker,
    vmid: u32,
    machine: &Machine,
    patience: Duration,
) -> Result<(), String> {
    if worker.fault != Some(What::ShutdownHangs) {
        ask_to_go_down(worker, vmid, machine).await?;
    }
    let gone = tokio::time::timeout(patience, machine.gone()).await;
    gone.map_err(|_| "VM quit/powerdown failed - got timeout".into())
}

async fn ask_to_go_down(worker: &Worker, vmid: u32, machine: &Machine) -> Result<(), String> {
    let agent = worker
        .cluster
        .world()
        .vms
        .get(&vmid)
        .is_some_and(|vm| crate::machine::has_agent(&vm.config));
    let short = worker.cluster.wait(Duration::from_secs(3));
    if agent
        && machine
            .agent("guest-ping", json!({}), short)
            .await
            .is_some()
    {
        // It does not answer this one: it goes down.
        machine
            .agent("guest-shutdown", json!({"mode": "powerdown"}), short)
            .await;
        return Ok(());
    }
    machine.power_down().await
}

/// Starts the machine of a VM whose lock the caller has.
async fn begin(worker: &Worker, node: &str, vmid: u32) -> Result<(), String> {
    let cluster = &worker.cluster;
    let (config, memory) = {
        let mut world = cluster.world();
        let vm = world.vm(node, vmid).map_err(|failure| failure.reason)?;
        vm.check_lock()?;
        if vm.is_template() {
            return Err("you can't start a vm if it's a template".into());
        }
        if vm.is_running() {
            return Err(format!("VM {vmid} already running"));
        }
        vm.settle();
        (vm.config.clone(), vm.memory())
    };
    check_bridges(cluster, &config)?;
    cloudinit::refresh(cluster, node, vmid, &config).await?;
    if firmware::is_uefi(&config) && !config.contains_key("efidisk0") {
        worker.warn("no efidisk configured! Using temporary efivars disk.");
    }
    let spec = Spec {
        files: files(cluster, node, &config)?,
        config,
        memory,
        network: Network {
            address: cluster.address(vmid),
            port: cluster.ssh_port,
        },
    };
    let folder = cluster
        .folder(&format!("run/{vmid}"))
        .map_err(|error| error.to_string())?;
    let (owner, name) = (Arc::downgrade(cluster), node.to_owned());
    let machine = Machine::start(&cluster.guests, folder, &spec, move || {
        if let Some(cluster) = owner.upgrade() {
            ended(&cluster, &name, vmid);
        }
    });
    let machine = machine.await?;
    if let Some(vm) = cluster.world().vms.get_mut(&vmid) {
        vm.machine = Some(machine);
        vm.since = Some(Instant::now());
    }
    Ok(())
}

fn check_bridges(cluster: &Cluster, config: &Config) -> Result<(), String> {
    for (_, value) in config.iter().filter(|(key, _)| key.starts_with("net")) {
        if let Some(bridge) = rights::property(value, "bridge")
            && !cluster.world().bridges.iter().any(|name| name == bridge)
        {
            return Err(format!("bridge '{bridge}' does not exist"));
        }
    }
    Ok(())
}

fn files(
    cluster: &Cluster,
    node: &str,
    config: &Config,
) -> Result<Vec<(String, PathBuf, String)>, String> {
    let drives = config.iter().filter(|(key, _)| is_drive(key));
    let drives = drives.map(|(key, value)| (key, Drive::parse(value)));
    drives
        .filter(|(_, drive)| drive.has_volume())
        .map(|(key, drive)| {
            let (path, format) = file(cluster, node, &drive)?;
            Ok((key.clone(), path, format))
        })
        .collect()
}

/// The file behind a drive, and its format.
pub fn file(cluster: &Cluster, node: &str, drive: &Drive) -> Result<(PathBuf, String), String> {
    let volume = storage::volume(cluster, node, &drive.file);
    let (_, volume) = volume.map_err(|failure| failure.reason)?;
    let format = match volume.format.as_str() {
        format @ ("qcow2" | "vmdk") => format.to_owned(),
        _ => "raw".into(),
    };
    Ok((volume.path, format))
}

/// A machine is no more, for whatever reason.
fn ended(cluster: &Arc<Cluster>, node: &str, vmid: u32) {
    let mut world = cluster.world();
    let Some(vm) = world.vms.get_mut(&vmid) else {
        return;
    };
    vm.machine = None;
    vm.since = None;
    vm.settle();
    let again = std::mem::take(&mut vm.reboots);
    drop(world);
    if again {
        let (cluster, node) = (cluster.clone(), node.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(cluster.wait(RESTART)).await;
            start_task(&cluster, &node, "root@pam", vmid);
        });
    }
}
