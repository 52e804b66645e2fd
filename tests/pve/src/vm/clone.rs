//! `POST …/clone`

use serde_json::json;

use crate::context::Context;
use crate::image;
use crate::reply::{Failure, Reply};
use crate::storage::{self, Store, Volume};
use crate::task::{self, Worker};
use crate::vm::create::claim;
use crate::vm::disk::{self, Drive, Made, Maker, is_drive, is_unused};
use crate::vm::rights::{self, Place};
use crate::vm::{CLONE_LOCK, Config, config};

/// What is to be made of what.
struct Job {
    node: String,
    /// Where the clone is in the end.
    target: String,
    source: u32,
    new: u32,
    full: bool,
    storage: Option<String>,
    format: Option<String>,
    config: Config,
    pool: Option<String>,
}

/// Makes a VM like another one. The task has the id of the source.
pub async fn clone(context: Context) -> Reply {
    let job = job(&context)?;
    let id = job.source.to_string();
    let upid = task::start(&context, "qmclone", &id, move |worker| async move {
        work(&worker, job).await
    });
    Ok(json!(upid).into())
}

fn job(context: &Context) -> Result<Job, Failure> {
    let params = &context.params;
    let (source, node) = (params.vmid(), context.node().to_owned());
    let new = params
        .number("newid")
        .and_then(|id| u32::try_from(id).ok())
        .unwrap_or_default();
    let pool = params.get("pool").map(str::to_owned);
    Place {
        vmid: new,
        pool: pool.as_deref(),
    }
    .check(context, &["VM.Allocate"])?;
    if let Some(pool) = &pool {
        context.check(&format!("/pool/{pool}"), &["VM.Allocate"])?;
    }
    let (mut config, is_template) = {
        let mut world = context.cluster.world();
        if pool
            .as_ref()
            .is_some_and(|pool| !world.pools.contains_key(pool))
        {
            return Err(crate::pool::no_pool_to_use(
                pool.as_deref().unwrap_or_default(),
            ));
        }
        if world.vms.contains_key(&new) {
            return Err(Failure::died(exists(new)));
        }
        let missing =
            || format!("unable to find configuration file for VM {source} on node '{node}'");
        let vm = world
            .vm(&node, source)
            .map_err(|_| Failure::died(missing()))?;
        vm.check_lock().map_err(Failure::died)?;
        (vm.config.clone(), vm.is_template())
    };
    let full = params.get("full").map_or(!is_template, |full| full == "1");
    for name in ["storage", "format"] {
        if params.get(name).is_some() && !full {
            return Err(Failure::died(format!(
                "parameter '{name}' not allowed for linked clones"
            )));
        }
    }
    let storage = params.get("storage").map(str::to_owned);
    if let Some(name) = &storage {
        context.cluster.world().storage(name)?;
    }
    check_drives(context, &config, full, storage.as_deref())?;
    let target = target(context, &config, storage.as_deref())?;
    config.retain(|key, _| !is_unused(key) && key != "template");
    let name = config
        .get("name")
        .cloned()
        .unwrap_or_else(|| source.to_string());
    let name = params
        .get("name")
        .map_or(format!("Copy-of-VM-{name}"), str::to_owned);
    config.insert("name".into(), name);
    if let Some(description) = params.get("description") {
        config.insert("description".into(), description.into());
    }
    anew(&mut config);
    let format = params.get("format").map(str::to_owned);
    Ok(Job {
        node,
        target,
        source,
        new,
        full,
        storage,
        format,
        config,
        pool,
    })
}

fn exists(vmid: u32) -> String {
    format!("unable to create VM {vmid}: config file already exists")
}

/// A clone is another machine: it has its own MAC addresses, UUID and generation.
fn anew(config: &mut Config) {
    for (_, value) in config.iter_mut().filter(|(key, _)| key.starts_with("net")) {
        let mut parts: Vec<&str> = value
            .split(',')
            .filter(|part| !part.starts_with("macaddr="))
            .collect();
        parts[0] = parts[0].split('=').next().unwrap_or_default();
        *value = config::with_mac(&parts.join(","));
    }
    config.insert("smbios1".into(), format!("uuid={}", crate::random::uuid()));
    if config.contains_key("vmgenid") {
        config.insert("vmgenid".into(), crate::random::uuid());
    }
}

fn check_drives(
    context: &Context,
    config: &Config,
    full: bool,
    storage: Option<&str>,
) -> Result<(), Failure> {
    for (key, value) in config.iter().filter(|(key, _)| is_drive(key)) {
        let drive = Drive::parse(value);
        if drive.is_cdrom() || !drive.has_volume() {
            continue;
        }
        let (store, volume) = storage::volume(&context.cluster, context.node(), &drive.file)?;
        if !full && !volume.is_base() {
            let id = volume.id;
            return Err(Failure::died(format!(
                "Linked clone feature is not supported for '{id}' ({key})"
            )));
        }
        let to = storage.unwrap_or(store.name());
        context.check(&format!("/storage/{to}"), &["Datastore.AllocateSpace"])?;
    }
    for (_, value) in config.iter().filter(|(key, _)| key.starts_with("net")) {
        rights::bridge(context, value)?;
    }
    Ok(())
}

/// Another node takes only what is on shared storages.
fn target(context: &Context, config: &Config, storage: Option<&str>) -> Result<String, Failure> {
    let Some(target) = context
        .params
        .get("target")
        .filter(|&target| target != context.node())
    else {
        return Ok(context.node().to_owned());
    };
    if !context
        .cluster
        .world()
        .nodes
        .iter()
        .any(|node| node == target)
    {
        return Err(Failure::died(format!("no such cluster node '{target}'")));
    }
    if let Some(name) = storage {
        let store = Store::open(&context.cluster, target, name)?;
        if !store.spec.shared {
            return Err(Failure::died(format!(
                "can't clone to non-shared storage '{name}'"
            )));
        }
    }
    for (_, value) in config.iter().filter(|(key, _)| is_drive(key)) {
        let drive = Drive::parse(value);
        if drive.has_volume()
            && !storage::volume(&context.cluster, context.node(), &drive.file)?
                .0
                .spec
                .shared
        {
            return Err(Failure::died(format!(
                "can't clone VM to node '{target}' (VM uses local storage)"
            )));
        }
    }
    Ok(target.to_owned())
}

async fn work(worker: &Worker, mut job: Job) -> Result<(), String> {
    let cluster = &worker.cluster;
    let patience = cluster.wait(CLONE_LOCK);
    let running = cluster
        .world()
        .vms
        .get(&job.source)
        .is_some_and(|vm| vm.is_running());
    // The disks of one that runs are copied by its QEMU, so nobody else may have it.
    let _exclusive = match running {
        true => Some(cluster.locks.exclusive(job.source, patience).await?),
        false => None,
    };
    let _shared = match running {
        true => None,
        false => Some(cluster.locks.shared(job.source, patience).await?),
    };
    let _new = cluster.locks.exclusive(job.new, patience).await?;
    worker.log(format!(
        "creating a clone of VM {} with ID {}",
        job.source, job.new
    ));
    let claimed = claim(cluster, &job.node, job.new, "clone");
    let claimed = claimed.map_err(|_| exists(job.new))?;
    let copied = copy(worker, &mut job).await;
    copied.map_err(|error| format!("clone failed: {error}"))?;
    claimed.keep();
    Ok(())
}

async fn copy(worker: &Worker, job: &mut Job) -> Result<(), String> {
    let mut made = Made::default();
    let mut config = std::mem::take(&mut job.config);
    for (key, value) in config.iter_mut().filter(|(key, _)| is_drive(key)) {
        *value = job.drive(worker, key, value, &mut made).await?;
    }
    worker.middle().await?;
    let mut world = worker.cluster.world();
    if let Some(vm) = world.vms.get_mut(&job.new) {
        vm.config = config;
        vm.node.clone_from(&job.target);
    }
    if let Some(pool) = job.pool.take() {
        world.pools.entry(pool).or_default().insert(job.new);
    }
    drop(world);
    made.keep();
    Ok(())
}

impl Job {
    async fn drive(
        &self,
        worker: &Worker,
        key: &str,
        value: &str,
        made: &mut Made,
    ) -> Result<String, String> {
        let mut drive = Drive::parse(value);
        if !drive.has_volume() || drive.is_cdrom() && !drive.is_cloudinit() {
            return Ok(value.to_owned());
        }
        let cluster = &worker.cluster;
        let maker = Maker {
            cluster,
            node: &self.node,
            vmid: self.new,
            fault: worker.fault.as_ref(),
            worker: Some(worker),
        };
        let (store, volume) =
            storage::volume(cluster, &self.node, &drive.file).map_err(|failure| failure.reason)?;
        if drive.is_cloudinit() {
            let format = self.format.as_deref().unwrap_or(&volume.format);
            drive.file = format!("{}:cloudinit", store.name());
            drive.set("format", format);
            drive.unset("size");
            let made = maker.make(key, &drive.to_string(), made).await?;
            let mut drive = Drive::parse(&made);
            drive.set("size", &disk::size(volume.size));
            return Ok(drive.to_string());
        }
        // The state of a TPM is a file of its own in each machine.
        let path = match self.full || key == "tpmstate0" {
            true => {
                let to = self.storage.as_deref().unwrap_or(store.name());
                let to = Store::open(cluster, &self.node, to).map_err(|failure| failure.reason)?;
                worker.log(format!("create full clone of drive {key} ({})", volume.id));
                let format = self.format.as_deref().unwrap_or(&volume.format);
                let path = maker.copy(&to, &volume, format, made).await?;
                for percent in 0..=100 {
                    let done = volume.size / 100 * percent;
                    worker.log(format!(
                        "transferred {done} B of {} B ({percent}.00%)",
                        volume.size
                    ));
                }
                drive.file = to.id_of(&path)?;
                return Ok(drive.to_string());
            }
            false => linked(&store, &volume, self.new, worker, key, made).await?,
        };
        drive.file = store.id_of(&path)?;
        Ok(drive.to_string())
    }
}

async fn linked(
    store: &Store,
    base: &Volume,
    new: u32,
    worker: &Worker,
    key: &str,
    made: &mut Made,
) -> Result<std::path::PathBuf, String> {
    worker.log(format!("create linked clone of drive {key} ({})", base.id));
    store.room_for(0, worker.fault.as_ref())?;
    let path = store.new_disk(new, "disk", "qcow2")?;
    made.add(path.clone());
    let owner = base.owner.unwrap_or_default();
    let name = base.path.file_name().unwrap_or_default().to_string_lossy();
    image::overlay(&path, &format!("../{owner}/{name}"), &base.format).await?;
    Ok(path)
}
