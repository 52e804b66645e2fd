//! Tasks: what goes on after a call was answered with a UPID.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::context::Context;
use crate::fault::What;
use crate::record::TaskRecord;
use crate::reply::{Answer, Failure, Reply};

/// One task, running or ended.
pub struct Task {
    pub record: TaskRecord,
    node: String,
    /// What it works on: a vmid, a file name, or nothing.
    id: String,
    user: String,
    started: u64,
    pid: u32,
    ended: Option<u64>,
    log: Vec<String>,
    abort: CancellationToken,
    done: CancellationToken,
}

/// A task's view of itself.
pub struct Worker {
    pub cluster: Arc<Cluster>,
    pub upid: String,
    pub fault: Option<What>,
    warnings: AtomicU32,
    /// Tells when the server relents after the task's beginning.
    relents: watch::Receiver<()>,
}

impl Worker {
    pub fn log(&self, line: impl Into<String>) {
        let line = line.into();
        self.cluster
            .world()
            .task(&self.upid, |task| task.log.push(line));
    }

    /// A warning lets the task end with `WARNINGS: n`, which is a success.
    pub fn warn(&self, message: &str) {
        self.warnings.fetch_add(1, Ordering::Relaxed);
        self.log(format!("WARN: {message}"));
    }

    /// The middle of the task's work, where a fault makes it fail or stay.
    pub async fn middle(&self) -> Result<(), String> {
        match &self.fault {
            Some(What::TaskError { message }) => Err(message.clone()),
            Some(What::TaskWarns { message }) => {
                self.warn(message);
                Ok(())
            }
            Some(What::TaskHangs | What::TaskUntold) => {
                // The cluster, which has the other end, is ours.
                let _ = self.relents.clone().changed().await;
                Ok(())
            }
            Some(What::TaskKilled) => Err(KILLED.into()),
            _ => Ok(()),
        }
    }
}

/// What is said of a task whose log does not end as it should.
const KILLED: &str = "unexpected status";

static PIDS: AtomicU32 = AtomicU32::new(0x7000);

/// Starts a task and gives its UPID. When it is aborted, its future is dropped: what it holds has to clean up then.
pub fn start<F, W>(context: &Context, kind: &str, id: &str, work: F) -> String
where
    F: FnOnce(Arc<Worker>) -> W,
    W: Future<Output = Result<(), String>> + Send + 'static,
{
    let cluster = context.cluster.clone();
    let (node, user) = (context.node(), context.who.as_str());
    let pid = PIDS.fetch_add(1, Ordering::Relaxed);
    let started = now();
    let uptime = cluster.born.elapsed().as_millis() / 10;
    let upid = format!("UPID:{node}:{pid:08X}:{uptime:08X}:{started:08X}:{kind}:{id}:{user}:");
    let abort = CancellationToken::new();
    cluster.world().tasks.push(Task {
        record: TaskRecord {
            upid: upid.clone(),
            kind: kind.into(),
            began: Instant::now(),
            ended: None,
            exit: None,
        },
        node: node.into(),
        id: id.into(),
        user: user.into(),
        started,
        pid,
        ended: None,
        log: vec![],
        abort: abort.clone(),
        done: CancellationToken::new(),
    });
    let worker = Arc::new(Worker {
        relents: cluster.relents.subscribe(),
        cluster,
        upid: upid.clone(),
        fault: context.fault.clone(),
        warnings: AtomicU32::new(0),
    });
    let work = work(worker.clone());
    tokio::spawn(async move {
        let result = tokio::select! {
            result = work => result,
            () = abort.cancelled() => Err("received interrupt".into()),
        };
        worker.end(result);
    });
    upid
}

impl Worker {
    fn end(&self, result: Result<(), String>) {
        let warnings = self.warnings.load(Ordering::Relaxed);
        let (exit, last) = match result {
            Ok(()) if warnings == 0 => ("OK".to_owned(), "TASK OK".to_owned()),
            Ok(()) => (
                format!("WARNINGS: {warnings}"),
                format!("TASK WARNINGS: {warnings}"),
            ),
            Err(message) => (message.clone(), format!("TASK ERROR: {message}")),
        };
        let says_so = exit != KILLED;
        self.cluster.world().task(&self.upid, |task| {
            if says_so {
                task.log.push(last);
            }
            task.ended = Some(now());
            task.record.exit = Some(exit);
            task.record.ended = Some(Instant::now());
            task.done.cancel();
        });
    }
}

impl Task {
    /// A token's tasks belong to the token.
    fn described(&self) -> Value {
        let (user, token) = match self.user.split_once('!') {
            Some((user, token)) => (user, Some(token)),
            None => (self.user.as_str(), None),
        };
        let mut shown = json!({
            "upid": self.record.upid, "node": self.node, "type": self.record.kind, "id": self.id, "user": user,
            "pid": self.pid, "pstart": 0, "starttime": self.started,
        });
        if let Some(token) = token {
            shown["tokenid"] = json!(token);
        }
        shown
    }

    fn status(&self) -> Value {
        let mut shown = self.described();
        shown["status"] = json!(if self.ended.is_some() {
            "stopped"
        } else {
            "running"
        });
        if let Some(exit) = &self.record.exit {
            shown["exitstatus"] = json!(exit);
        }
        shown
    }

    /// As it stands in a list of tasks.
    fn listed(&self) -> Value {
        let mut shown = self.described();
        shown["status"] = json!(self.record.exit.as_deref().unwrap_or("RUNNING"));
        if let Some(ended) = self.ended {
            shown["endtime"] = json!(ended);
            return shown;
        }
        // The list of those that run tells users and tokens in one.
        shown["user"] = json!(self.user);
        shown["saved"] = json!("0");
        if let Some(shown) = shown.as_object_mut() {
            shown.remove("tokenid");
        }
        shown
    }
}

/// Whether the UPID that the call names is that of a task of the caller's, of which nothing is left.
fn is_forgotten(context: &Context) -> bool {
    let upid = context.params.text("upid");
    let world = context.cluster.world();
    upid.split(':').nth(7) == Some(context.who.as_str())
        && !world.tasks.iter().any(|task| task.record.upid == upid)
}

/// Calls `look` with the task that the call names, if it is the caller's or the caller has the privilege.
fn with<T>(
    context: &Context,
    privilege: &str,
    look: impl FnOnce(&Task) -> T,
) -> Result<T, Failure> {
    let (upid, node) = (context.params.text("upid"), context.node());
    if upid.matches(':').count() != 8 || !upid.starts_with("UPID:") {
        return Err(Failure::parameter("upid", "unable to parse worker upid"));
    }
    let world = context.cluster.world();
    let task = world
        .tasks
        .iter()
        .find(|task| task.record.upid == upid && task.node == node);
    let task = task.ok_or_else(|| Failure::parameter("upid", "no such task"))?;
    if task.user != context.who {
        let path = format!("/nodes/{node}");
        if !world
            .access
            .privileges(&context.who, &path)
            .contains(privilege)
        {
            return Err(Failure::forbidden(&path, privilege));
        }
    }
    Ok(look(task))
}

/// How a task ended, if it does so in time.
pub async fn exit(cluster: &Cluster, upid: &str, patience: Duration) -> Option<String> {
    let mut done = None;
    cluster
        .world()
        .task(upid, |task| done = Some(task.done.clone()));
    let in_time = tokio::time::timeout(patience, done?.cancelled()).await;
    in_time.ok()?;
    let mut exit = None;
    cluster
        .world()
        .task(upid, |task| exit.clone_from(&task.record.exit));
    exit
}

/// `GET …/tasks/{upid}/status`
pub async fn status(context: Context) -> Reply {
    Ok(with(&context, "Sys.Audit", Task::status)?.into())
}

/// `GET …/tasks/{upid}/log`
pub async fn log(context: Context) -> Reply {
    let start = context.params.number("start").unwrap_or(0) as usize;
    let limit = match context.params.number("limit").unwrap_or(50) {
        0 => usize::MAX,
        limit => limit as usize,
    };
    if is_forgotten(&context) {
        let line = json!({"n": 1, "t": "unable to open file - No such file or directory"});
        return Ok(Answer {
            data: json!([line]),
            total: Some(1),
        });
    }
    with(&context, "Sys.Audit", |task| {
        let lines = task.log.iter().enumerate().skip(start).take(limit);
        let mut lines: Vec<Value> = lines
            .map(|(n, line)| json!({"n": n + 1, "t": line}))
            .collect();
        if task.log.is_empty() {
            lines.push(json!({"n": 1, "t": "no content"}));
        }
        Answer {
            data: json!(lines),
            total: Some(task.log.len().max(1)),
        }
    })
}

/// `DELETE …/tasks/{upid}`
pub async fn abort(context: Context) -> Reply {
    with(&context, "Sys.Modify", |task| task.abort.cancel())?;
    Ok(Value::Null.into())
}

/// `GET /nodes/{node}/tasks`, the newest first.
pub async fn list(context: Context) -> Reply {
    let world = context.cluster.world();
    let all = world
        .access
        .privileges(&context.who, &format!("/nodes/{}", context.node()))
        .contains("Sys.Audit");
    let running = match context.params.get("source") {
        Some("all") => None,
        source => Some(source == Some("active")),
    };
    let params = &context.params;
    let wanted = |task: &&Task| {
        task.node == context.node()
            && (all || task.user == context.who)
            && running.is_none_or(|running| running == task.ended.is_none())
            && params.get("vmid").is_none_or(|vmid| vmid == task.id)
            && params
                .get("typefilter")
                .is_none_or(|kind| kind == task.record.kind)
            && params
                .number("since")
                .is_none_or(|since| task.started >= since)
    };
    let found: Vec<&Task> = world.tasks.iter().rev().filter(wanted).collect();
    let start = params.number("start").unwrap_or(0) as usize;
    let limit = params.number("limit").unwrap_or(50) as usize;
    let shown: Vec<Value> = found
        .iter()
        .skip(start)
        .take(limit)
        .map(|task| task.listed())
        .collect();
    Ok(Answer {
        data: json!(shown),
        total: (running != Some(true)).then_some(found.len()),
    })
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}
