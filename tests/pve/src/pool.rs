//! Calls about pools.

use serde_json::{Value, json};

use crate::context::Context;
use crate::reply::{Failure, Reply};

/// `GET /pools`
pub async fn list(context: Context) -> Reply {
    let pools = context.cluster.world().pools.clone();
    let wanted = context.params.get("poolid");
    let mut shown = vec![];
    for (name, members) in &pools {
        let seen = context.may(&format!("/pool/{name}"), &["Pool.Audit"]);
        if !seen || wanted.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let mut pool = json!({"poolid": name});
        if wanted.is_some() {
            let world = context.cluster.world();
            let members = members
                .iter()
                .filter_map(|vmid| Some(world.vms.get(vmid)?.resource(*vmid)));
            pool["members"] = members.collect();
        }
        shown.push(pool);
    }
    match wanted {
        Some(name) if shown.is_empty() => Err(no_pool(name)),
        _ => Ok(json!(shown).into()),
    }
}

/// `POST /pools`
pub async fn create(context: Context) -> Reply {
    let name = context.params.text("poolid");
    let mut world = context.cluster.world();
    if world.pools.contains_key(name) {
        return Err(Failure::died(format!(
            "create pool failed: pool '{name}' already exists"
        )));
    }
    world.pools.insert(name.to_owned(), Default::default());
    Ok(Value::Null.into())
}

/// `PUT /pools`: members come or go.
pub async fn update(context: Context) -> Reply {
    let name = context.params.text("poolid");
    let vmids: Vec<u32> = context
        .params
        .text("vms")
        .split([',', ';'])
        .filter_map(|vmid| vmid.parse().ok())
        .collect();
    for &vmid in &vmids {
        context.check_vm(vmid, &["VM.Allocate"])?;
    }
    let mut world = context.cluster.world();
    if !world.pools.contains_key(name) {
        return Err(no_pool(name));
    }
    let delete = context.params.flag("delete");
    for (pool, members) in &mut world.pools {
        for vmid in &vmids {
            if pool == name && !delete {
                members.insert(*vmid);
            } else if pool == name || context.params.flag("allow-move") {
                members.remove(vmid);
            }
        }
    }
    Ok(Value::Null.into())
}

/// `DELETE /pools`
pub async fn remove(context: Context) -> Reply {
    let name = context.params.text("poolid");
    let mut world = context.cluster.world();
    match world.pools.get(name) {
        None => Err(no_pool(name)),
        Some(members) if !members.is_empty() => {
            let guests: Vec<String> = members.iter().map(|vmid| format!("VM {vmid}")).collect();
            Err(Failure::died(format!(
                "delete pool failed: pool '{name}' is not empty (contains {})",
                guests.join(", ")
            )))
        }
        Some(_) => {
            world.pools.remove(name);
            Ok(Value::Null.into())
        }
    }
}

/// What is said to who wants something made in a pool that is not there.
pub fn no_pool_to_use(name: &str) -> Failure {
    Failure::new(
        403,
        format!("Permission check failed (pool '{name}' does not exist)"),
    )
}

fn no_pool(name: &str) -> Failure {
    Failure::died(format!("pool '{name}' does not exist"))
}
