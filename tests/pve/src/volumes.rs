//! Calls about storages and what is on them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::context::Context;
use crate::image;
use crate::reply::{Failure, Reply};
use crate::storage::{self, Store};
use crate::task;
use crate::vm::disk;

/// `GET /nodes/{node}/storage`
pub async fn storages(context: Context) -> Reply {
    let params = &context.params;
    if let Some(name) = params.get("storage") {
        must_be_there(&context, name)?;
    }
    let wanted = |store: &Store| {
        let content = params.get("content");
        params
            .get("storage")
            .is_none_or(|name| name == store.name())
            && content.is_none_or(|all| all.split(',').any(|it| store.holds(it).is_ok()))
            && context.may(
                &path_of(store.name()),
                &["Datastore.Audit", "Datastore.AllocateSpace"],
            )
    };
    let all = storage::all(&context.cluster, context.node());
    let shown: Vec<Value> = all
        .iter()
        .filter(|&store| wanted(store))
        .map(Store::status)
        .collect();
    Ok(json!(shown).into())
}

/// `GET …/{storage}/status`
pub async fn status(context: Context) -> Reply {
    must_be_there(&context, context.params.text("storage"))?;
    Ok(store(&context)?.status().into())
}

/// What is said of a storage that no node has, where its state is asked for.
fn must_be_there(context: &Context, name: &str) -> Result<(), Failure> {
    let world = context.cluster.world();
    match world.storages.iter().any(|storage| storage.name == name) {
        true => Ok(()),
        false => Err(Failure::parameter("storage", "No such storage.")),
    }
}

/// `GET …/{storage}/content`
pub async fn list(context: Context) -> Reply {
    let (content, owner) = (context.params.get("content"), context.params.number("vmid"));
    let audits = context.may(
        &path_of(context.params.text("storage")),
        &["Datastore.Audit"],
    );
    let mut shown = vec![];
    for volume in store(&context)?.volumes() {
        // Without the right to see the storage, one's own disks are seen.
        let theirs = volume
            .owner
            .is_some_and(|vmid| context.may(&format!("/vms/{vmid}"), &["VM.Audit"]));
        let wanted = content.is_none_or(|kind| kind == volume.content)
            && owner.is_none_or(|vmid| volume.owner.is_some_and(|owner| u64::from(owner) == vmid));
        if wanted && (audits || theirs) {
            shown.push(volume.described());
        }
    }
    Ok(json!(shown).into())
}

/// `POST …/{storage}/content`: an empty disk.
pub async fn allocate(context: Context) -> Reply {
    let store = store(&context)?;
    store.holds("images")?;
    let params = &context.params;
    let format = params.get("format").unwrap_or("raw").to_owned();
    let size = disk::bytes(params.text("size"), 1 << 10)
        .ok_or_else(|| Failure::parameter("size", "unable to parse size"))?;
    let path = store.place("images", Some(context.params.vmid()));
    let path = path
        .map_err(|error| Failure::died(error.to_string()))?
        .join(params.text("filename"));
    if path.exists() {
        let path = path.display();
        return Err(Failure::died(format!("disk image '{path}' already exists")));
    }
    image::create(&path, &format, size)
        .await
        .map_err(Failure::died)?;
    Ok(json!(store.id_of(&path).map_err(Failure::died)?).into())
}

/// `GET …/content/{volume}`: its size is what a guest sees of it.
pub async fn show(context: Context) -> Reply {
    context.check(
        &path_of(context.params.text("storage")),
        &["Datastore.Audit", "Datastore.AllocateSpace"],
    )?;
    let id = id(&context);
    let unseen = || Failure::died(format!("volume_size_info on '{id}' failed - no format"));
    let volume = store(&context)?.find(&id).ok_or_else(unseen)?;
    let header = image::header(&volume.path);
    Ok(json!({
        "path": volume.path, "format": volume.format, "used": volume.used,
        "size": header.map_or(volume.size, |header| header.size),
    })
    .into())
}

/// `DELETE …/content/{volume}`: nobody looks whether a VM has it in its configuration, and one that is not there is
/// removed well. Only a template's disk with linked clones is safe.
pub async fn remove(context: Context) -> Reply {
    let id = id(&context);
    let (name, rest) = id.split_once(':').unwrap_or_default();
    let store = Store::open(&context.cluster, context.node(), name)?;
    context.check(&path_of(name), &["Datastore.Allocate"])?;
    let owner = rest
        .split('/')
        .next()
        .and_then(|owner| owner.parse::<u32>().ok());
    let subject = match owner {
        Some(owner) => format!("{owner}@{name}"),
        None => name.to_owned(),
    };
    let delay = context.params.number("delay").map(Duration::from_secs);
    let volume_id = id.clone();
    let upid = task::start(&context, "imgdel", &subject, |worker| async move {
        worker.middle().await?;
        match store.find(&volume_id) {
            None => {
                let path = store.file_of(&volume_id);
                worker.log(format!("disk image '{}' does not exist", path.display()));
            }
            Some(volume) => {
                if disk::is_cloned(&store, &volume) {
                    let (_, name) = volume_id.split_once(':').unwrap_or_default();
                    return Err(format!(
                        "base volume '{name}' is still in use by linked clones"
                    ));
                }
                let path = volume.path.display();
                volume
                    .free()
                    .map_err(|error| format!("unlink '{path}' failed - {error}"))?;
            }
        }
        worker.log(format!("Removed volume '{volume_id}'"));
        Ok(())
    });
    let Some(delay) = delay else {
        return Ok(json!(upid).into());
    };
    match task::exit(&context.cluster, &upid, delay).await {
        None => Ok(json!(upid).into()),
        Some(exit) if exit == "OK" => Ok(Value::Null.into()),
        Some(exit) => Err(Failure::died(exit)),
    }
}

fn store(context: &Context) -> Result<Store, Failure> {
    Store::open(
        &context.cluster,
        context.node(),
        context.params.text("storage"),
    )
}

/// The volume's id. In the path it stands with or without the storage's name.
fn id(context: &Context) -> String {
    let (storage, volume) = (
        context.params.text("storage"),
        context.params.text("volume"),
    );
    match volume.contains(':') {
        true => volume.to_owned(),
        false => format!("{storage}:{volume}"),
    }
}

fn path_of(storage: &str) -> String {
    format!("/storage/{storage}")
}
