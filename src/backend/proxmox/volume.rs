//! What is in a storage.

use std::time::Duration;

use serde::Deserialize;

use super::call::Call;
use super::error::Failure;
use super::task::{Ended, Upid};
use super::{Proxmox, number};
use crate::error::Result;

/// How long removing a volume may take.
const REMOVAL: Duration = Duration::from_secs(10 * 60);

/// A file or disk in a storage.
#[derive(Debug, Deserialize)]
pub struct Volume {
    /// `STORAGE:CONTENT/FILE`
    #[serde(rename = "volid")]
    pub id: String,
    /// Bytes.
    #[serde(default, deserialize_with = "number::maybe")]
    pub size: Option<u64>,
    /// The id of the machine that it belongs to, if to one.
    #[serde(default, deserialize_with = "number::maybe")]
    pub vmid: Option<u32>,
    /// What it is an overlay of, in the storage's own words.
    parent: Option<String>,
    /// When it was written last, in seconds since 1970 by the node's clock.
    #[serde(default, rename = "ctime", deserialize_with = "number::maybe")]
    pub changed: Option<i64>,
}

impl Volume {
    /// Whether it needs a disk of this template, which either its own name tells or what is said of its parent.
    pub fn is_clone_of(&self, template: u32) -> bool {
        let base = format!("base-{template}-");
        let names = [Some(&self.id), self.parent.as_ref()];
        let is_named = names.into_iter().flatten().any(|name| name.contains(&base));
        is_named && self.vmid.is_some_and(|owner| owner != template)
    }
}

impl Proxmox {
    /// The volumes of one kind of content in a storage of the target's node.
    pub async fn volumes(&self, storage: &str, content: &str) -> Result<Vec<Volume>, Failure> {
        let path = self.node_path(&["storage", storage, "content"]);
        let call = Call::get(path).with("content", content);
        self.client.call(call).await
    }

    /// Removes a volume. One that is gone already is success.
    pub async fn remove_volume(&self, storage: &str, content: &str, volume: &str) -> Result<()> {
        let doing = || format!("removing {volume} from {}", self.target.name);
        let path = self.node_path(&["storage", storage, "content", volume]);
        let removed = self.client.call::<Option<Upid>>(Call::delete(path)).await;
        let is_gone = async || -> Result<bool, Failure> {
            let volumes = self.volumes(storage, content).await?;
            Ok(volumes.iter().all(|other| other.id != volume))
        };
        let task = match removed {
            Ok(task) => task,
            // It may have been heard, or somebody else was first.
            Err(failure) => match is_gone().await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(failure.during(doing())),
                Err(again) => return Err(again.during(doing())),
            },
        };
        match task {
            None => Ok(()),
            Some(upid) => match self.follow(&upid, REMOVAL).await {
                Ok(()) => Ok(()),
                Err(Ended::Untold(error)) => Err(error),
                Err(Ended::Task(failed)) => match is_gone().await {
                    Ok(true) => Ok(()),
                    _ => Err(failed.during(doing(), &upid)),
                },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_a_template_are_known_on_every_kind_of_storage() {
        let volume = |id: &str, vmid, parent: Option<&str>| Volume {
            id: id.into(),
            size: None,
            vmid: Some(vmid),
            parent: parent.map(str::to_owned),
            changed: None,
        };
        // As directories, ZFS and thin LVM have them.
        for (id, parent) in [
            (
                "local:9000/base-9000-disk-0.qcow2/101/vm-101-disk-0.qcow2",
                Some("../9000/base-9000-disk-0.qcow2"),
            ),
            ("zfs:base-9000-disk-0/vm-101-disk-0", None),
            ("thin:vm-101-disk-0", Some("base-9000-disk-0")),
        ] {
            let clone = volume(id, 101, parent);
            assert!(clone.is_clone_of(9000), "{id}");
            assert!(!clone.is_clone_of(900), "{id}");
        }
        let own = volume("local:9000/base-9000-disk-0.qcow2", 9000, None);
        assert!(!own.is_clone_of(9000));
    }
}
