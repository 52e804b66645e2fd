//! Tasks: what the server does after it has answered. They are followed to their end, and aborted when nobody wants them
//! any more.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::call::{Call, Path};
use super::client::Answer;
use super::error::Failure;
use super::{Proxmox, number};
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

/// How long the server may be away while a task is waited for: its daemons are restarted by updates and by its own log rotation.
const OUTAGE: Duration = Duration::from_secs(60);

/// How long an aborted task may take to end. Proxmox VE gives it 5 s before it kills it.
const ABORT: Duration = Duration::from_secs(30);

/// How often something is asked for when connections break, the first time included.
const ATTEMPTS: u32 = 3;

/// How many lines of a failed task's log are shown.
const SHOWN: u64 = 10;

/// How many lines of a log are read where all are wanted.
const WHOLE: u64 = 500;

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

    /// When it began, in seconds since 1970 by its node's clock.
    pub fn began(&self) -> i64 {
        i64::from_str_radix(self.part(4), 16).unwrap_or_default()
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

/// A task that was begun for us.
#[derive(Debug)]
pub struct Begun {
    pub upid: Upid,
    /// The answer with its name was lost, and this one does what was asked for. It may be another build's, so that whoever only
    /// knows this must not abort it: without one who waits for it, it ends by itself.
    pub may_be_anothers: bool,
}

impl Begun {
    /// The one that the server has answered with.
    pub fn told(upid: Upid) -> Self {
        let may_be_anothers = false;
        Begun {
            upid,
            may_be_anothers,
        }
    }

    /// One that was found.
    pub fn found(upid: Upid) -> Self {
        let may_be_anothers = true;
        Begun {
            upid,
            may_be_anothers,
        }
    }
}

/// A task in a list.
pub struct Listed {
    pub upid: Upid,
    /// When it ended, in seconds since 1970 by its node's clock; `None` while it runs.
    pub ended: Option<i64>,
    exit: String,
}

impl Listed {
    /// Whether it has done what it was for.
    pub fn ended_well(&self) -> bool {
        self.ended.is_some() && is_good(&self.exit)
    }
}

/// A task that ends with warnings has done what it was for.
fn is_good(exit: &str) -> bool {
    exit == "OK" || exit.starts_with("WARNINGS:")
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
    /// How it ended; `None` while it runs.
    fn ended(&self) -> Option<Result<(), &str>> {
        if self.status != "stopped" {
            return None;
        }
        Some(match self.exitstatus.as_deref() {
            Some(exit) if is_good(exit) => Ok(()),
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
    /// Waits for the end of a task. After `deadline` it is an error; aborting the task is its guard's affair. A server that
    /// cannot be reached for a moment does not matter: the task goes on meanwhile.
    pub async fn follow(&self, upid: &Upid, deadline: Duration) -> Result<(), Ended> {
        let began = Instant::now();
        let mut heard = began;
        let doing = || format!("waiting for the task {upid}");
        loop {
            let status = match self.task_status(upid).await {
                Ok(status) => status,
                Err(failure) if failure.why.may_pass() && heard.elapsed() < OUTAGE => {
                    tracing::debug!("{failure}; asking again");
                    tokio::time::sleep(pace(began.elapsed())).await;
                    continue;
                }
                Err(failure) => return Err(Ended::Untold(failure.during(doing()))),
            };
            heard = Instant::now();
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

    /// Asks for something that a task of this kind about this does, and returns the task, which is looked for if the answer is
    /// lost.
    pub async fn ask(&self, call: Call, kind: &str, about: &str) -> Result<Begun, Failure> {
        let before = self.tasks(kind).await?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let failure = match self.client.call::<Upid>(call.clone()).await {
                Ok(upid) => return Ok(Begun::told(upid)),
                Err(failure) => failure,
            };
            if !failure.why.is_uncertain() {
                return Err(failure);
            }
            // It may have been heard.
            let after = self.tasks(kind).await?;
            let mut new = after.difference(&before);
            match new.find(|upid| upid.about() == about) {
                Some(upid) => return Ok(Begun::found(upid.clone())),
                None if attempt < ATTEMPTS => {}
                None => return Err(failure),
            }
        }
    }

    /// Our tasks of one kind on the target's node, those that have ended included.
    pub async fn tasks(&self, kind: &str) -> Result<BTreeSet<Upid>, Failure> {
        let call = self.task_list("all").with("typefilter", kind);
        let ours = |task: &Listed| self.is_ours(&task.upid) && task.upid.kind() == kind;
        let tasks = self.listed_tasks(call).await?.into_iter();
        Ok(tasks.filter(ours).map(|task| task.upid).collect())
    }

    /// Our tasks about a machine that run on the target's node.
    pub async fn tasks_about(&self, vmid: u32) -> Result<Vec<Upid>, Failure> {
        let about = vmid.to_string();
        let call = self.task_list("active").with("vmid", about.as_str());
        let wanted = |task: &Listed| self.is_ours(&task.upid) && task.upid.about() == about;
        let tasks = self.listed_tasks(call).await?.into_iter();
        Ok(tasks.filter(wanted).map(|task| task.upid).collect())
    }

    /// Asks for the tasks on the target's node: those that run (`active`), or `all`.
    pub fn task_list(&self, source: &str) -> Call {
        Call::get(self.node_path(&["tasks"])).with("source", source)
    }

    /// The tasks in such a list that we may see.
    pub async fn listed_tasks(&self, call: Call) -> Result<Vec<Listed>, Failure> {
        #[derive(Deserialize)]
        struct Entry {
            upid: String,
            #[serde(default, deserialize_with = "number::maybe")]
            endtime: Option<i64>,
            status: Option<String>,
        }
        let entries: Vec<Entry> = self.client.call(call).await?;
        let listed = entries.into_iter().filter_map(|entry| {
            Some(Listed {
                upid: entry.upid.parse().ok()?,
                ended: entry.endtime,
                exit: entry.status.unwrap_or_default(),
            })
        });
        Ok(listed.collect())
    }

    /// Whether it was begun with our login.
    pub fn is_ours(&self, upid: &Upid) -> bool {
        upid.user() == self.client.identity()
    }

    /// The log of a task, if it is no longer than logs are.
    pub async fn whole_log(&self, upid: &Upid) -> Result<Vec<String>, Failure> {
        let lines = self.log(upid, 0, WHOLE).await?.data.into_iter();
        Ok(lines.map(|line| line.t).collect())
    }

    /// Whether it does not run any more, and what its log begins with.
    pub async fn head_of_log(&self, upid: &Upid) -> Result<(bool, Vec<String>), Failure> {
        // Before its log, which is whole then.
        let ended = self.task_status(upid).await?.ended().is_some();
        let lines = self.log(upid, 0, SHOWN).await?.data.into_iter();
        Ok((ended, lines.map(|line| line.t).collect()))
    }

    async fn task_status(&self, upid: &Upid) -> Result<Status, Failure> {
        let path = Path::new(["nodes", upid.node(), "tasks", &upid.0, "status"]);
        self.client.call(Call::get(path)).await
    }

    /// So many lines of a task's log at most, from `start` on.
    async fn log(&self, upid: &Upid, start: u64, limit: u64) -> Result<Answer<Vec<Line>>, Failure> {
        let path = Path::new(["nodes", upid.node(), "tasks", &upid.0, "log"]);
        let call = Call::get(path)
            .with("start", start.to_string())
            .with("limit", limit.to_string());
        self.client.answer(call).await
    }

    /// What cannot be had is left out: the task's own word is the cause, this is evidence.
    async fn end_of_log(&self, upid: &Upid) -> String {
        let Ok(mut answer) = self.log(upid, 0, SHOWN).await else {
            return String::new();
        };
        if let Some(total) = answer.total.filter(|total| *total > SHOWN)
            && let Ok(end) = self.log(upid, total - SHOWN, SHOWN).await
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
pub fn pace(age: Duration) -> Duration {
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
        assert_eq!(upid.began(), 0x6B00_6EB4);
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
