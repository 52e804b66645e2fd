//! Letting the node download an image itself.

use std::time::Duration;

use serde_json::Value;

use super::Import;
use crate::backend::proxmox::StoredImage;
use crate::backend::proxmox::call::Call;
use crate::backend::proxmox::error::{Failure, Why};
use crate::backend::proxmox::leftover::What;
use crate::backend::proxmox::task::{Begun, Ended};
use crate::error::Result;
use crate::source::Offered;

/// How long the node may take.
const DOWNLOAD: Duration = Duration::from_secs(2 * 60 * 60);

/// The kind of the task, as Proxmox VE names it.
const TASK: &str = "download";

impl Import<'_> {
    /// Lets the node download an image, if it can. Why it did not is told.
    pub(super) async fn by_node(
        &self,
        offered: &Offered,
        file: &str,
    ) -> Result<Option<StoredImage>> {
        if !self.is_within_reach(&offered.url).await? {
            return Ok(None);
        }
        let download = self.run.phase("download", self.download(offered, file));
        match download.await? {
            Ok(image) => Ok(Some(image)),
            // What is wrong with the image, if that is it, shows when we bring it as well.
            Err(error) => {
                let text = format!("{error}; sending it instead");
                self.run.events.warn(text);
                Ok(None)
            }
        }
    }

    /// Whether the node can download from there. Why it cannot is told: uploading costs time that this would save.
    async fn is_within_reach(&self, url: &str) -> Result<bool> {
        let call = Call::get(self.server.node_path(&["query-url-metadata"])).with("url", url);
        let asked = async { Ok(self.server.client.call::<Value>(call.once()).await) };
        match self.run.unless_interrupted(asked).await? {
            Ok(_) => Ok(true),
            Err(failure) => {
                let hint = failure.hint().map(|hint| format!("; {hint}"));
                self.run.events.note(format!(
                    "the node cannot download {url} itself ({failure}), so it is sent{}",
                    hint.unwrap_or_default()
                ));
                Ok(false)
            }
        }
    }

    /// Lets the node download an image. That it failed to is told by the inner error.
    async fn download(&self, offered: &Offered, file: &str) -> Result<Result<StoredImage>> {
        let doing = format!("downloading {file} to {}", self.server.target.name);
        let begun = match self.ask_for_download(offered, file).await {
            Ok(begun) => begun,
            Err(failure) => {
                let uncertain = failure.why.is_uncertain();
                return match failure.why {
                    Why::Refused(_) if !uncertain => Ok(Err(failure.during(doing))),
                    _ => Err(failure.during(doing)),
                };
            }
        };
        let upid = begun.upid.clone();
        let task = self.guard(&begun, What::Task { upid })?;
        let failed = match self.server.follow(&begun.upid, DOWNLOAD).await {
            Ok(()) => None,
            Err(Ended::Task(failed)) => Some(failed),
            // It stays in the journal, and is aborted when this has been told.
            Err(Ended::Untold(error)) => return Err(error),
        };
        self.release(task)?;
        match failed {
            None => self.result(file, offered.size).await.map(Ok),
            Some(failed) => Ok(Err(failed.during(doing, &begun.upid))),
        }
    }

    /// Asks for a download, and returns its task.
    async fn ask_for_download(&self, offered: &Offered, file: &str) -> Result<Begun, Failure> {
        let server = self.server;
        let path = server.node_path(&["storage", &server.target.import, "download-url"]);
        let call = Call::post(path)
            .with("content", "import")
            .with("filename", file)
            .with("url", offered.url.as_str())
            .with("checksum-algorithm", offered.digest.algorithm.name())
            .with("checksum", offered.digest.hex.as_str());
        server.ask(call, TASK, file).await
    }
}
