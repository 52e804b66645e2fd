//! Calls that only tell.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::World;
use crate::context::Context;
use crate::reply::{Failure, Reply};
use crate::setup::FREE;
use crate::storage;

/// How long `/cluster/resources` says what it said before: nodes tell each other every 10 s how their guests are. Which guests there
/// are, where, with which tags and locks is in their configurations, which all nodes have at once.
const LAG: Duration = Duration::from_secs(10);

/// The memory of every node, in bytes.
const MEMORY: u64 = 64 << 30;

/// `GET /version`
pub async fn version(context: Context) -> Reply {
    let (version, release) = match context.cluster.release {
        ..9 => ("8.4.1", "8.4"),
        9.. => ("9.0.3", "9.0"),
    };
    Ok(json!({"version": version, "release": release, "repoid": "2a5fa54a8503f96d"}).into())
}

/// `POST /access/ticket`
pub async fn ticket(context: Context) -> Reply {
    let params = &context.params;
    let name = params.text("username");
    let user = match params.get("realm") {
        Some(realm) if !name.contains('@') => format!("{name}@{realm}"),
        _ => name.to_owned(),
    };
    let (ticket, kept) = context
        .cluster
        .world()
        .access
        .log_in(&user, params.text("password"))?;
    Ok(json!({"username": kept.user, "ticket": ticket, "CSRFPreventionToken": kept.csrf}).into())
}

/// `GET /access/permissions`: of one path, or of all that grants name.
pub async fn permissions(context: Context) -> Reply {
    let world = context.cluster.world();
    let asked = context.params.get("path");
    let paths = match asked {
        Some(path) => [path.to_owned()].into(),
        None => {
            let mut paths = world.access.paths(&context.who);
            paths.extend(
                [
                    "/", "/access", "/nodes", "/pool", "/sdn", "/storage", "/vms",
                ]
                .map(str::to_owned),
            );
            paths
        }
    };
    let mut all = serde_json::Map::new();
    for path in paths {
        let privileges = world.access.privileges(&context.who, &path);
        if asked.is_some() || !privileges.is_empty() {
            let named = privileges.into_iter().map(|name| (name, json!(1)));
            all.insert(path, Value::Object(named.collect()));
        }
    }
    Ok(Value::Object(all).into())
}

/// `GET /nodes`: how busy they are is for those who may look into them.
pub async fn nodes(context: Context) -> Reply {
    let names = context.cluster.world().nodes.clone();
    let shown = names.iter().map(|name| {
        let told = context.may(&format!("/nodes/{name}"), &["Sys.Audit"]);
        let mut shown = node(&context.cluster.world(), name);
        if let Some(shown) = shown.as_object_mut().filter(|_| !told) {
            shown
                .retain(|key, _| ["node", "id", "type", "status", "level"].contains(&key.as_str()));
        }
        shown
    });
    Ok(json!(shown.collect::<Vec<Value>>()).into())
}

/// `GET /nodes/{node}/status`
pub async fn node_status(context: Context) -> Reply {
    let world = context.cluster.world();
    let shown = node(&world, context.node());
    let memory = json!({
        "total": shown["maxmem"], "used": shown["mem"],
        "free": shown["maxmem"].as_u64().unwrap_or(0) - shown["mem"].as_u64().unwrap_or(0),
    });
    Ok(json!({
        "memory": memory, "cpuinfo": {"cpus": shown["maxcpu"]}, "uptime": shown["uptime"],
        "pveversion": "pve-manager/8.4.1/2a5fa54a8503f96d",
    })
    .into())
}

/// A node of 64 GiB, of which its running guests use what they have.
fn node(world: &World, name: &str) -> Value {
    if world.offline.contains(name) {
        return json!({"node": name, "id": format!("node/{name}"), "type": "node", "status": "offline"});
    }
    let free = world.memory.get(name).copied().unwrap_or(FREE);
    let here = world
        .vms
        .values()
        .filter(|vm| vm.node == name && vm.is_running());
    let used: u64 = here.map(|vm| vm.memory()).sum();
    json!({
        "node": name, "id": format!("node/{name}"), "type": "node", "status": "online", "level": "",
        "maxmem": MEMORY, "mem": MEMORY.saturating_sub(free) + used, "maxcpu": 16, "cpu": 0.1, "uptime": 86400,
    })
}

/// `GET /nodes/{node}/network`
pub async fn network(context: Context) -> Reply {
    let bridges = context.cluster.world().bridges.clone();
    let path = |name: &str| format!("/sdn/zones/localnetwork/{name}");
    let seen = bridges
        .iter()
        .filter(|name| context.may(&path(name), &["SDN.Audit", "SDN.Use"]));
    let shown: Vec<Value> = seen
        .map(|name| json!({"iface": name, "type": "bridge", "active": 1, "autostart": 1}))
        .collect();
    Ok(json!(shown).into())
}

/// `GET /cluster/nextid`: the lowest id that is free now. It is not reserved.
pub async fn next_id(context: Context) -> Reply {
    let world = context.cluster.world();
    match context.params.number("vmid") {
        Some(vmid) if world.vms.keys().any(|&it| u64::from(it) == vmid) => Err(Failure::parameter(
            "vmid",
            format!("VM {vmid} already exists"),
        )),
        Some(vmid) => Ok(json!(vmid.to_string()).into()),
        None => {
            let free = (100..).find(|vmid| !world.vms.contains_key(vmid));
            Ok(json!(free.unwrap_or_default().to_string()).into())
        }
    }
}

/// `GET /cluster/resources`: what was so a while ago.
pub async fn resources(context: Context) -> Reply {
    let kind = context.params.get("type");
    let mut shown = vec![];
    if kind.is_none_or(|kind| kind == "vm") {
        let lag = context.cluster.wait(LAG);
        let vms = guests(&mut context.cluster.world(), lag);
        let seen = |vm: &Value| context.may(&format!("/vms/{}", vm["vmid"]), &["VM.Audit"]);
        shown.extend(vms.into_iter().filter(|vm| seen(vm)));
    }
    let nodes = context.cluster.world().nodes.clone();
    if kind.is_none_or(|kind| kind == "node") {
        let world = context.cluster.world();
        shown.extend(nodes.iter().map(|name| node(&world, name)));
    }
    if kind.is_none_or(|kind| kind == "storage") {
        for name in &nodes {
            for store in storage::all(&context.cluster, name) {
                let path = format!("/storage/{}", store.name());
                if context.may(&path, &["Datastore.Audit", "Datastore.AllocateSpace"]) {
                    let status = store.status();
                    shown.push(json!({
                        "type": "storage", "id": format!("storage/{name}/{}", store.name()), "node": name,
                        "storage": store.name(), "status": "available", "plugintype": "dir",
                        "content": status["content"], "shared": status["shared"],
                        "maxdisk": status["total"], "disk": status["used"],
                    }));
                }
            }
        }
    }
    Ok(json!(shown).into())
}

fn guests(world: &mut World, lag: Duration) -> Vec<Value> {
    let old = match &world.resources {
        Some((since, _)) => since.elapsed() >= lag,
        None => true,
    };
    if old {
        let states = world
            .vms
            .iter()
            .map(|(&vmid, vm)| (vmid, vm.resource(vmid)));
        world.resources = Some((Instant::now(), states.collect()));
    }
    let states = world.resources.as_ref().map(|(_, states)| states);
    let guests = world.vms.iter().map(|(vmid, vm)| {
        let untold = json!({
            "id": format!("qemu/{vmid}"), "vmid": vmid, "type": "qemu", "status": "unknown",
        });
        let told = states.and_then(|states| states.get(vmid).cloned());
        let mut shown = match world.offline.contains(&vm.node) {
            true => untold,
            false => told.unwrap_or(untold),
        };
        shown["node"] = json!(vm.node);
        for key in ["tags", "lock"] {
            shown[key] = json!(vm.config.get(key));
        }
        if let Some(shown) = shown.as_object_mut() {
            shown.retain(|_, value| !value.is_null());
        }
        shown
    });
    guests.collect()
}
