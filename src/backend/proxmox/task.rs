//! Tasks: what the server does after it has answered. They are followed to their end, and aborted when nobody wants them
//! any more.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Proxmox;
use super::call::{Call, Path};
use super::client::Answer;
use super::error::Failure;
use crate::error::{Error, Result};
use crate::text::printable;

/// A task is looked at again when it has become twice as old, but at least this often while it is young, so that the end of a
/// short one is seen within 200 ms.
const YOUNG_PACE: Duration = Duration::from_millis(150);

/// How soon it is looked at again at the earliest: an answer takes about as long.
const FIRST: Duration = Duration::from_millis(20);

/// How long a task is young.
const YOUNG: Duration = Duration::from_secs(2);

/// How often an older one is looked at.
const PACE: Duration = Duration::from_secs(1);

/// How long an aborted task may take to end. Proxmox VE gives it 5 s before it kills it.
const ABORT: Duration = Duration::from_secs(30);

/// How many lines of a failed task's log are shown.
const SHOWN: u64 = 10;

/// What is before the path in the log of an upload's task (PVE::API2::Storage::Status in pve-storage).
const TARGET: &str = "target file: ";

/// How long the node may take to compare an upload's checksum.
const CHECKSUM: Duration = Duration::from_secs(10 * 60);

/// The name of a task: `UPID:NODE:PID:PSTART:STARTTIME:TYPE:ID:USER:`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upid(String);

impl Upid {
    fn part(&self, index: usize) -> &str {
        self.0.split(':').nth(index).unwrap_or_default()
    }

    /// The node that it runs on.
    pub fn node(&self) -> &str {
        self.part(1)
    }

    /// What kind of task it is, such as `download`.
    pub fn kind(&self) -> &str {
        self.part(5)
    }

    /// What it is about; may be empty.
    pub fn about(&self) -> &str {
        self.part(6)
    }

    /// Who started it.
    pub fn user(&self) -> &str {
        self.part(7)
    }
}

impl FromStr for Upid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let named = parts.len() == 9 && parts[0] == "UPID" && !parts[1].is_empty();
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        match named && printable && text.len() < 1024 {
            true => Ok(Upid(text.to_owned())),
            false => Err("it is no name of a task".into()),
        }
    }
}

impl TryFrom<String> for Upid {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Upid> for String {
    fn from(upid: Upid) -> Self {
        upid.0
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a task ended that did not end well.
#[derive(Debug, PartialEq, Eq)]
pub struct TaskFailure {
    /// What the task itself says.
    pub exit: String,
    /// The end of its log.
    pub log: String,
}

#[derive(Deserialize)]
struct Status {
    status: String,
    exitstatus: Option<String>,
}

impl Status {
    /// How it ended; `None` while it runs. A task that ends with warnings has done what it was for.
    fn ended(&self) -> Option<Result<(), &str>> {
        if self.status != "stopped" {
            return None;
        }
        Some(match self.exitstatus.as_deref() {
            Some("OK") => Ok(()),
            Some(exit) if exit.starts_with("WARNINGS:") => Ok(()),
            Some(exit) => Err(exit),
            None => Err("it is gone without a word: killed, or its node was restarted"),
        })
    }
}

#[derive(Deserialize)]
struct Line {
    t: String,
}

/// How one who waits for a task fails.
#[derive(Debug)]
pub enum Ended {
    /// The task did.
    Task(TaskFailure),
    /// The server does not tell, or it takes too long.
    Untold(Error),
}

impl TaskFailure {
    /// As an error of what was `doing`.
    pub fn during(self, doing: impl Into<String>, upid: &Upid) -> Error {
        Error::new(doing)
            .cause(format!("the task {upid} failed: {}", self.exit))
            .detail("the end of the task's log", self.log)
    }
}

impl Proxmox {
    /// Waits for the end of a task. After `deadline` it is an error; aborting the task is its guard's affair.
    pub async fn follow(&self, upid: &Upid, deadline: Duration) -> Result<(), Ended> {
        let began = Instant::now();
        let doing = || format!("waiting for the task {upid}");
        loop {
            let status = self.task_status(upid).await;
            let status = status.map_err(|failure| Ended::Untold(failure.during(doing())))?;
            match status.ended() {
                Some(Ok(())) => return Ok(()),
                Some(Err(exit)) => {
                    let exit = printable(exit.trim());
                    let log = self.end_of_log(upid).await;
                    return Err(Ended::Task(TaskFailure { exit, log }));
                }
                None => {}
            }
            let elapsed = began.elapsed();
            if elapsed > deadline {
                let text = format!("it did not end within {} s", deadline.as_secs());
                return Err(Ended::Untold(Error::new(doing()).cause(text)));
            }
            tokio::time::sleep(pace(elapsed)).await;
        }
    }

    /// Sees to it that a task does not run any more. One that has ended, or is not known any more, does not.
    pub async fn abort(&self, upid: &Upid) -> Result<()> {
        let doing = || format!("aborting the task {upid}");
        match self.task_status(upid).await {
            Ok(status) if status.ended().is_some() => return Ok(()),
            Err(failure) if failure.why.status() == Some(400) => return Ok(()),
            Err(failure) => return Err(failure.during(doing())),
            Ok(_) => {}
        }
        let path = Path::new(["nodes", upid.node(), "tasks", &upid.0]);
        let aborted = self.client.call::<()>(Call::delete(path)).await;
        // Whether a lost request was heard shows below.
        if let Err(failure) = aborted
            && !failure.why.is_uncertain()
        {
            return Err(failure.during(doing()));
        }
        match self.follow(upid, ABORT).await {
            Ok(()) | Err(Ended::Task(_)) => Ok(()),
            Err(Ended::Untold(error)) => Err(error),
        }
    }

    /// Our tasks of one kind on the target's node, those that have ended included.
    pub async fn tasks(&self, kind: &str) -> Result<BTreeSet<Upid>, Failure> {
        let call = Call::get(self.node_path(&["tasks"]))
            .with("source", "all")
            .with("typefilter", kind);
        let upids = self.listed_tasks(call).await?;
        let ours = |upid: &Upid| upid.user() == self.client.identity() && upid.kind() == kind;
        Ok(upids.into_iter().filter(ours).collect())
    }

    /// Our tasks about a machine that run on the target's node.
    pub async fn tasks_about(&self, vmid: u32) -> Result<Vec<Upid>, Failure> {
        let call = Call::get(self.node_path(&["tasks"]))
            .with("source", "active")
            .with("vmid", vmid.to_string());
        let upids = self.listed_tasks(call).await?;
        let about = vmid.to_string();
        let wanted = |upid: &Upid| upid.user() == self.client.identity() && upid.about() == about;
        Ok(upids.into_iter().filter(wanted).collect())
    }

    async fn listed_tasks(&self, call: Call) -> Result<Vec<Upid>, Failure> {
        #[derive(Deserialize)]
        struct Listed {
            upid: String,
        }
        let listed: Vec<Listed> = self.client.call(call).await?;
        Ok(listed
            .iter()
            .filter_map(|task| task.upid.parse().ok())
            .collect())
    }

    /// The one of these tasks that puts `file` in its place. The name of such a task does not tell, but its log does as soon as
    /// the checksum has been compared.
    pub async fn copying<'u>(
        &self,
        file: &str,
        tasks: impl IntoIterator<Item = &'u Upid>,
    ) -> Result<Option<Upid>, Failure> {
        for upid in tasks {
            if self.copied(upid).await?.as_deref() == Some(file) {
                return Ok(Some(upid.clone()));
            }
        }
        Ok(None)
    }

    /// The name of the file that an upload's task copies; `None` if it ends before, or is silent for as long as that takes.
    async fn copied(&self, upid: &Upid) -> Result<Option<String>, Failure> {
        let began = Instant::now();
        loop {
            // Before its log, which is whole then.
            let ended = self.task_status(upid).await?.ended().is_some();
            let log = self.log(upid, 0).await?.data;
            let mut targets = log.iter().filter_map(|line| line.t.strip_prefix(TARGET));
            if let Some(path) = targets.next() {
                return Ok(path.rsplit('/').next().map(str::to_owned));
            }
            let elapsed = began.elapsed();
            if ended || elapsed > CHECKSUM {
                return Ok(None);
            }
            tokio::time::sleep(pace(elapsed)).await;
        }
    }

    async fn task_status(&self, upid: &Upid) -> Result<Status, Failure> {
        let path = Path::new(["nodes", upid.node(), "tasks", &upid.0, "status"]);
        self.client.call(Call::get(path)).await
    }

    /// Some lines of a task's log, from `start` on.
    async fn log(&self, upid: &Upid, start: u64) -> Result<Answer<Vec<Line>>, Failure> {
        let path = Path::new(["nodes", upid.node(), "tasks", &upid.0, "log"]);
        let call = Call::get(path)
            .with("start", start.to_string())
            .with("limit", SHOWN.to_string());
        self.client.answer(call).await
    }

    /// What cannot be had is left out: the task's own word is the cause, this is evidence.
    async fn end_of_log(&self, upid: &Upid) -> String {
        let Ok(mut answer) = self.log(upid, 0).await else {
            return String::new();
        };
        if let Some(total) = answer.total.filter(|total| *total > SHOWN)
            && let Ok(end) = self.log(upid, total - SHOWN).await
        {
            answer = end;
        }
        // The server may have sent more than it was asked for.
        let lines = answer.data.iter().take(SHOWN as usize);
        let lines = lines.map(|line| printable(&line.t));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// How long to wait before a task of this age is looked at again.
fn pace(age: Duration) -> Duration {
    match age < YOUNG {
        true => age.clamp(FIRST, YOUNG_PACE),
        false => PACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPID: &str = "UPID:pve:000074FA:0004990D:6B006EB4:download:imgbuild-0a.qcow2:me@pve!ci:";

    #[test]
    fn the_parts_of_a_task_s_name() {
        let upid: Upid = UPID.parse().unwrap();
        assert_eq!((upid.node(), upid.kind()), ("pve", "download"));
        assert_eq!(
            (upid.about(), upid.user()),
            ("imgbuild-0a.qcow2", "me@pve!ci")
        );
        for wrong in [
            "",
            "UPID:pve",
            &UPID.replace("UPID", "X"),
            &format!("{UPID}\n"),
        ] {
            wrong.parse::<Upid>().unwrap_err();
        }
    }

    #[test]
    fn warnings_are_success_and_silence_is_not() {
        let status = |status: &str, exit: Option<&str>| Status {
            status: status.into(),
            exitstatus: exit.map(str::to_owned),
        };
        assert!(status("running", None).ended().is_none());
        assert_eq!(status("stopped", Some("OK")).ended(), Some(Ok(())));
        assert_eq!(status("stopped", Some("WARNINGS: 1")).ended(), Some(Ok(())));
        assert_eq!(
            status("stopped", Some("no space")).ended(),
            Some(Err("no space"))
        );
        assert!(status("stopped", None).ended().unwrap().is_err());
    }

    #[test]
    fn a_short_task_is_seen_at_once_and_a_long_one_costs_a_request_a_second() {
        assert!(pace(Duration::ZERO) < Duration::from_millis(50));
        assert!(pace(Duration::from_millis(1999)) < Duration::from_millis(200));
        assert_eq!(pace(Duration::from_secs(2)), Duration::from_secs(1));
    }
}
