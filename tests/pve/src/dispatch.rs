//! From a call to its handler: which row of the table, may the caller, is the node there, are the parameters right.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;

use crate::calls::{CALLS, Call, Needs};
use crate::cluster::Cluster;
use crate::context::Context;
use crate::fault::What;
use crate::params::Params;
use crate::reply::{Body, Failure, Reply};
use crate::vm::{LOCK, Vm};

/// A call whose body was read.
pub struct Incoming<'c> {
    pub method: &'c Method,
    pub path: &'c str,
    pub who: String,
    pub params: Params,
    pub upload: Option<PathBuf>,
    pub fault: Option<What>,
}

/// Removes an upload that no handler took.
struct Unclaimed(Option<PathBuf>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The storage that an upload is for; none if the call is no upload.
pub fn upload_storage<'p>(method: &Method, path: &'p str) -> Option<&'p str> {
    let path = (method == Method::POST).then_some(path)?;
    let segments: Vec<&str> = path.split('/').collect();
    match segments[..] {
        ["", "nodes", _, "storage", storage, "upload"] => Some(storage),
        _ => None,
    }
}

/// Whether a call needs no credentials.
pub fn is_open(method: &Method, path: &str) -> bool {
    let found = CALLS
        .iter()
        .find(|call| call.method == method.as_str() && call.path == path);
    found.is_some_and(|call| matches!(call.needs, Needs::Nothing))
}

/// Answers a call.
pub async fn dispatch(cluster: &Arc<Cluster>, incoming: Incoming<'_>) -> Reply {
    let found = row(&incoming);
    let mut unclaimed = Unclaimed(incoming.upload);
    let (call, in_path) = found?;
    let mut params = incoming.params;
    for (name, value) in in_path {
        if params.get(name).is_some_and(|other| other != value) {
            let wrong = "duplicate parameter (already defined in URI) with conflicting values!";
            return Err(Failure::parameter(name, wrong));
        }
        params.set(name, &value);
    }
    let mut context = Context {
        cluster: cluster.clone(),
        who: incoming.who,
        params,
        fault: incoming.fault,
        upload: None,
    };
    may_call(call, &context)?;
    let node = context.params.get("node");
    if let Some(node) = node.filter(|&node| !cluster.world().nodes.iter().any(|it| it == node)) {
        return Err(Failure::died(format!(
            "hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known"
        )));
    }
    if node.is_some_and(|node| cluster.world().offline.contains(node)) {
        return Err(Failure::new(595, "No route to host").with_body(Body::Empty));
    }
    context.params.verify(call.params)?;
    if context.params.flag("skiplock") && context.who != "root@pam" {
        return Err(Failure::parameter(
            "skiplock",
            "Only root may use this option.",
        ));
    }
    context.upload = unclaimed.0.take();
    meddle(&context).await;
    within_the_gateway(call, context).await
}

/// The privilege that the table asks for.
fn may_call(call: &Call, context: &Context) -> Result<(), Failure> {
    let vmid = context.params.vmid();
    match call.needs {
        Needs::Nothing | Needs::Name => Ok(()),
        Needs::One(path, any) => context.check(&filled(path, &context.params), any),
        Needs::Agent(_) if context.cluster.release < 9 => context.check_vm(vmid, &["VM.Monitor"]),
        Needs::Agent(privilege) => {
            let mut any = vec![privilege, "VM.GuestAgent.Unrestricted"];
            any.dedup();
            context.check_vm(vmid, &any)
        }
    }
}

/// A call that a daemon works on is cut after 30 s, or at once by a fault, and the work goes on.
async fn within_the_gateway(call: &Call, context: Context) -> Reply {
    let patience = context.cluster.wait(Duration::from_secs(30));
    let cut = matches!(context.fault, Some(What::GatewayTimeout | What::TaskUntold));
    let mut work = tokio::spawn((call.handler)(context));
    let timed_out = || Failure::new(596, "Connection timed out").with_body(Body::Empty);
    if cut {
        tokio::time::sleep(patience).await;
        return Err(timed_out());
    }
    match tokio::time::timeout(patience, &mut work).await {
        Err(_) => Err(timed_out()),
        Ok(Ok(reply)) => reply,
        Ok(Err(panicked)) => Err(Failure::died(format!("the test server: {panicked}"))),
    }
}

/// Names and values.
type Captured = Vec<(&'static str, String)>;

/// The variable parts of a path, if it is this one of the table.
fn captured(pattern: &'static str, path: &str) -> Option<Captured> {
    let (mut want, mut have) = (pattern.split('/'), path.split('/'));
    let mut found = vec![];
    loop {
        match (want.next(), have.next()) {
            (None, None) => return Some(found),
            // A volume's name may have slashes.
            (Some("{volume}"), Some(first)) => {
                let rest: Vec<&str> = std::iter::once(first).chain(have).collect();
                found.push(("volume", rest.join("/")));
                return Some(found);
            }
            (Some(name), Some(value)) if name.starts_with('{') && !value.is_empty() => {
                found.push((name.trim_matches(['{', '}']), value.to_owned()));
            }
            (Some(want), Some(have)) if want == have => {}
            _ => return None,
        }
    }
}

/// The row for a call, and the variable parts of its path.
fn row(incoming: &Incoming<'_>) -> Result<(&'static Call, Captured), Failure> {
    let (method, path) = (incoming.method, incoming.path);
    let mut rows = CALLS.iter().filter(|call| call.method == method.as_str());
    let found = rows.find_map(|call| Some((call, captured(call.path, path)?)));
    found.ok_or_else(|| Failure::new(501, format!("Method '{method} {path}' not implemented")))
}

/// A path of an access control list with its variable parts filled in.
fn filled(path: &str, params: &Params) -> String {
    let segment = |segment: &str| match segment.strip_prefix('{') {
        Some(name) => params.text(name.trim_end_matches('}')).to_owned(),
        None => segment.to_owned(),
    };
    let segments: Vec<String> = path.split('/').map(segment).collect();
    segments.join("/")
}

/// Faults that are somebody else's doing.
async fn meddle(context: &Context) {
    let vmid = context.params.vmid();
    match context.fault {
        Some(What::LockTimeout) => {
            // Longer than any operation waits.
            let held = context.cluster.wait(LOCK) * 2;
            if let Ok(lock) = context.cluster.locks.exclusive(vmid, held).await {
                tokio::spawn(async move {
                    tokio::time::sleep(held).await;
                    drop(lock);
                });
            }
        }
        Some(What::VmidTaken) => {
            let new = context
                .params
                .number("newid")
                .and_then(|id| u32::try_from(id).ok());
            let vm = Vm {
                node: context.node().to_owned(),
                config: [("name".to_owned(), "somebody-elses".to_owned())].into(),
                ..Vm::default()
            };
            let mut world = context.cluster.world();
            world.vms.entry(new.unwrap_or(vmid)).or_insert(vm);
        }
        _ => {}
    }
}
