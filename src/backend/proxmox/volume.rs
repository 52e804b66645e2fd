//! What is in a storage.

use std::time::Duration;

use serde::Deserialize;

use super::Proxmox;
use super::call::Call;
use super::error::Failure;
use super::task::{Ended, Upid};
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
    pub size: Option<u64>,
    /// The machine that it belongs to, if it is a disk.
    pub vmid: Option<u32>,
    /// What it is an overlay of, in the storage's own words.
    pub parent: Option<String>,
    /// When it was written last, in seconds since 1970 by the node's clock.
    #[serde(rename = "ctime")]
    pub changed: Option<i64>,
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
