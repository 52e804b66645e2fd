//! The task that puts an upload in its place: which one it is, and what is left of it when it did not come to its end.
//!
//! It copies the file to its name, over what is there, and removes what it has copied when it fails or is aborted
//! (PVE::API2::Storage::Status in pve-storage). Half a file stays only if it is killed, as by a loss of power. The name of a
//! base image is its digest, so other builds copy to the same name: what is there is ours to remove only if nobody else can
//! have written it.

use std::time::Duration;

use tokio::time::Instant;

use super::Proxmox;
use super::error::Failure;
use super::task::{Upid, pace};
use super::volume::Volume;
use crate::error::Result;

/// The kind of the task, as Proxmox VE names it.
pub const TASK: &str = "imgcopy";

/// What is before the path in its log.
const TARGET: &str = "target file: ";

/// How long the node may take to compare an upload's checksum.
const CHECKSUM: Duration = Duration::from_secs(10 * 60);

impl Proxmox {
    /// The one of these tasks that copies to `file`. The name of such a task does not tell, but its log does as soon as the
    /// checksum has been compared.
    pub async fn copying<'u>(
        &self,
        file: &str,
        tasks: impl IntoIterator<Item = &'u Upid>,
    ) -> Result<Option<Upid>, Failure> {
        for upid in tasks {
            if self.copies_to(upid).await?.as_deref() == Some(file) {
                return Ok(Some(upid.clone()));
            }
        }
        Ok(None)
    }

    /// The name of the file that a task copies to; `None` if it ends before, or is silent for as long as that takes.
    async fn copies_to(&self, upid: &Upid) -> Result<Option<String>, Failure> {
        let began = Instant::now();
        loop {
            let (ended, log) = self.head_of_log(upid).await?;
            let target = target(&log);
            let elapsed = began.elapsed();
            if target.is_some() || ended || elapsed > CHECKSUM {
                return Ok(target.map(str::to_owned));
            }
            tokio::time::sleep(pace(elapsed)).await;
        }
    }

    /// Aborts the copying to a name that only one build can mean.
    pub async fn abort_copying(&self, file: &str) -> Result<()> {
        let doing = || format!("looking for the upload of {file} to {}", self.target.name);
        let call = self.task_list("active").with("typefilter", TASK);
        let running = self.listed_tasks(call).await;
        let running = running.map_err(|failure| failure.during(doing()))?;
        let running = running.into_iter().map(|task| task.upid);
        let ours: Vec<_> = running.filter(|upid| self.is_ours(upid)).collect();
        let copying = self.copying(file, &ours).await;
        match copying.map_err(|failure| failure.during(doing()))? {
            Some(upid) => self.abort(&upid).await,
            None => Ok(()),
        }
    }

    /// Sees to it that a copying of ours does not run any more, and has not left half of a base image. `size` is that of the
    /// whole.
    pub async fn undo_copying(&self, upid: &Upid, file: &str, size: u64) -> Result<()> {
        let doing = || format!("removing the upload of {file} to {}", self.target.name);
        let others = self.is_written_by_others(upid, file).await;
        if others.map_err(|failure| failure.during(doing()))? {
            // An abort removes what is under the name, and so would take it from them. Ours ends by itself.
            return Ok(());
        }
        self.abort(upid).await?;
        let half = self.half_of_ours(upid, file, size).await;
        match half.map_err(|failure| failure.during(doing()))? {
            Some(half) => {
                let storage = &self.target.import;
                self.remove_volume(storage, "import", &half.id).await
            }
            None => Ok(()),
        }
    }

    /// Whether another task is copying to this name right now.
    async fn is_written_by_others(&self, ours: &Upid, file: &str) -> Result<bool, Failure> {
        let call = self.task_list("active").with("typefilter", TASK);
        for task in self.listed_tasks(call).await? {
            if task.upid != *ours && self.has_begun_to_copy(&task.upid, file).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The part of a file that a task of ours has left, if nobody else can have written it.
    async fn half_of_ours(
        &self,
        ours: &Upid,
        file: &str,
        size: u64,
    ) -> Result<Option<Volume>, Failure> {
        let volumes = self.volumes(&self.target.import, "import").await?;
        let name = self.volume(file);
        let mut volumes = volumes.into_iter();
        let part = volumes.find(|volume| volume.id == name && volume.size != Some(size));
        let Some(part) = part else {
            return Ok(None);
        };
        let call = self.task_list("all").with("typefilter", TASK);
        let since = call.with("since", ours.began().to_string());
        let mut ended = None;
        for task in self.listed_tasks(since).await? {
            match self.has_begun_to_copy(&task.upid, file).await? {
                true if task.upid == *ours && !task.ended_well() => ended = task.ended,
                true => return Ok(None),
                false => {}
            }
        }
        // Tasks that we may not see write, too.
        Ok(was_there(ours, ended, part.changed).then_some(part))
    }

    async fn has_begun_to_copy(&self, upid: &Upid, file: &str) -> Result<bool, Failure> {
        let (_, log) = self.head_of_log(upid).await?;
        Ok(target(&log) == Some(file))
    }
}

/// Whether a task was there when something was written. The node's clock has all the times, in seconds.
fn was_there(upid: &Upid, ended: Option<i64>, written: Option<i64>) -> bool {
    let (Some(ended), Some(written)) = (ended, written) else {
        return false;
    };
    (upid.began()..=ended).contains(&written)
}

/// The name of the file that is copied to, by the log of the task.
fn target(log: &[String]) -> Option<&str> {
    let path = log.iter().find_map(|line| line.strip_prefix(TARGET))?;
    path.rsplit('/').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_or_after_a_task_is_not_of_it() {
        let upid: Upid = "UPID:pve:00000001:00000001:00000064:imgcopy::me@pve!ci:"
            .parse()
            .unwrap();
        let of_it = |ended, written| was_there(&upid, ended, written);
        assert!(of_it(Some(120), Some(100)) && of_it(Some(120), Some(120)));
        assert!(!of_it(Some(120), Some(99)) && !of_it(Some(120), Some(121)));
        assert!(!of_it(None, Some(110)), "when it ended is not known");
        assert!(!of_it(Some(120), None));
    }

    #[test]
    fn the_name_that_is_copied_to_is_in_the_log() {
        let log = ["starting", "target file: /var/lib/vz/import/a.qcow2"].map(str::to_owned);
        assert_eq!(target(&log), Some("a.qcow2"));
        assert_eq!(target(&log[..1]), None);
    }
}
