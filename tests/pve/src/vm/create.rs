//! `POST /nodes/{node}/qemu`

use std::sync::Arc;

use serde_json::json;

use crate::cluster::Cluster;
use crate::context::Context;
use crate::options::OPTIONS;
use crate::params::Params;
use crate::reply::{Failure, Reply};
use crate::task::{self, Worker};
use crate::vm::disk::{Drive, Made, Maker, is_drive};
use crate::vm::rights::{self, Place};
use crate::vm::{CREATE_LOCK, Config, LOCK, Vm, config, life};

/// Makes a VM. Its disks are made by the task, so whether their sources are there is not known before.
pub async fn create(context: Context) -> Reply {
    let vmid = context.params.vmid();
    let pool = context.params.get("pool").map(str::to_owned);
    let options = options(&context.params);
    may_create(&context, vmid, pool.as_deref())?;
    let place = Place {
        vmid,
        pool: pool.as_deref(),
    };
    rights::check(&context, &place, &options, &[])?;
    if context.params.flag("start") {
        place.check(&context, &["VM.PowerMgmt"])?;
    }
    config::check_values(&options)?;
    let unable = move |error: String| format!("unable to create VM {vmid} - {error}");
    let patience = context.cluster.wait(CREATE_LOCK);
    let lock = context.cluster.locks.exclusive(vmid, patience).await;
    let lock = lock.map_err(|error| Failure::died(unable(error)))?;
    let claimed = claim(&context.cluster, context.node(), vmid, "create");
    let claimed = claimed.map_err(|error| Failure::died(unable(error)))?;
    drop(lock);
    let start = context.params.flag("start");
    let (node, who) = (context.node().to_owned(), context.who.clone());
    let upid = task::start(
        &context,
        "qmcreate",
        &vmid.to_string(),
        move |worker| async move {
            let made = make(&worker, &node, vmid, options).await;
            made.map_err(unable)?;
            claimed.keep();
            if let Some(pool) = pool {
                let mut world = worker.cluster.world();
                world.pools.entry(pool).or_default().insert(vmid);
            }
            if start {
                life::start_task(&worker.cluster, &node, &who, vmid);
            }
            Ok(())
        },
    );
    Ok(json!(upid).into())
}

/// A VM that goes again unless it is kept: its name is taken, and there is nothing to it yet.
pub struct Claim {
    cluster: Arc<Cluster>,
    vmid: Option<u32>,
}

impl Claim {
    pub fn keep(mut self) {
        self.vmid = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(vmid) = self.vmid {
            self.cluster.world().vms.remove(&vmid);
        }
    }
}

/// Takes an id, with a mark in the configuration. Of two at the same time one is too late.
pub fn claim(cluster: &Arc<Cluster>, node: &str, vmid: u32, mark: &str) -> Result<Claim, String> {
    let mut world = cluster.world();
    if let Some(other) = world.vms.get(&vmid) {
        let node = &other.node;
        return Err(format!("VM {vmid} already exists on node '{node}'"));
    }
    let vm = Vm {
        node: node.to_owned(),
        config: [("lock".to_owned(), mark.to_owned())].into(),
        ..Vm::default()
    };
    world.vms.insert(vmid, vm);
    Ok(Claim {
        cluster: cluster.clone(),
        vmid: Some(vmid),
    })
}

/// The options of a configuration among the parameters.
pub fn options(params: &Params) -> Config {
    let names = params
        .names()
        .filter(|name| OPTIONS.iter().any(|option| option.names(name)));
    names
        .map(|name| (name.to_owned(), params.text(name).to_owned()))
        .collect()
}

fn may_create(context: &Context, vmid: u32, pool: Option<&str>) -> Result<(), Failure> {
    if let Some(pool) = pool
        && !context.cluster.world().pools.contains_key(pool)
    {
        return Err(crate::pool::no_pool_to_use(pool));
    }
    Place { vmid, pool }.check(context, &["VM.Allocate"])
}

async fn make(worker: &Worker, node: &str, vmid: u32, mut options: Config) -> Result<(), String> {
    let cluster = &worker.cluster;
    let _lock = cluster.locks.exclusive(vmid, cluster.wait(LOCK)).await?;
    let maker = Maker {
        cluster,
        node,
        vmid,
        fault: worker.fault.as_ref(),
        worker: Some(worker),
    };
    let mut made = Made::default();
    for (name, value) in options.iter_mut().filter(|(name, _)| is_drive(name)) {
        *value = maker.make(name, value, &mut made).await?;
    }
    worker.middle().await?;
    for (_, value) in options
        .iter_mut()
        .filter(|(name, _)| name.starts_with("net"))
    {
        *value = config::with_mac(value);
    }
    if let Some(tags) = options.get_mut("tags") {
        *tags = config::unique_tags(tags);
    }
    let order = boot_order(&options);
    options.entry("boot".into()).or_insert(order);
    let uuid = crate::random::uuid();
    options
        .entry("smbios1".into())
        .or_insert(format!("uuid={uuid}"));
    options
        .entry("vmgenid".into())
        .or_insert_with(crate::random::uuid);
    let created = format!("creation-qemu=9.2.0,ctime={}", task::now());
    options.entry("meta".into()).or_insert(created);
    if let Some(vm) = cluster.world().vms.get_mut(&vmid) {
        vm.config = options;
    }
    made.keep();
    Ok(())
}

/// The first disk, CD-ROM and network card.
fn boot_order(options: &Config) -> String {
    let drives = || options.iter().filter(|(name, _)| is_drive(name));
    let bootable = |name: &&String| !name.starts_with("efidisk") && !name.starts_with("tpmstate");
    let cdrom = |wanted: bool| {
        let kind = drives().filter(move |(_, value)| Drive::parse(value).is_cdrom() == wanted);
        kind.map(|(name, _)| name).find(bootable)
    };
    let card = options.keys().find(|name| name.starts_with("net"));
    let all: Vec<&str> = [cdrom(false), cdrom(true), card]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    format!("order={}", all.join(";"))
}
