//! Calls that the guest's agent answers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::context::Context;
use crate::fault::What;
use crate::machine::{Machine, has_agent};
use crate::reply::{Failure, Reply};

/// Where QEMU's user network lets a guest believe to be.
pub const BELIEVED: &str = "10.0.2.15";

/// How long the agent has for the first word, and for an answer.
const PING: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(30);

/// `POST …/agent/ping`
pub async fn ping(context: Context) -> Reply {
    available(&context).await?;
    Ok(json!({"result": {}}).into())
}

/// `GET …/agent/network-get-interfaces`. The guest's own address is nobody's on this side of the user network, so the one
/// at which it is reached stands in its place.
pub async fn interfaces(context: Context) -> Reply {
    let mut found = ask(&context, "guest-network-get-interfaces", json!({})).await?;
    let reached = context.cluster.address(context.params.vmid()).to_string();
    let interfaces = found.as_array_mut().into_iter().flatten();
    let addresses =
        interfaces.filter_map(|interface| interface.get_mut("ip-addresses")?.as_array_mut());
    for address in addresses.flatten() {
        if address["ip-address"] == BELIEVED {
            address["ip-address"] = json!(reached);
        }
    }
    Ok(json!({"result": found}).into())
}

/// `POST …/agent/exec`
pub async fn exec(context: Context) -> Reply {
    let command = context.params.list("command");
    let mut arguments = json!({"capture-output": true});
    if let Some((path, rest)) = command.split_first() {
        arguments["path"] = json!(path);
        arguments["arg"] = json!(rest);
    }
    Ok(ask(&context, "guest-exec", arguments).await?.into())
}

/// `GET …/agent/exec-status`
pub async fn exec_status(context: Context) -> Reply {
    let pid = context.params.number("pid").unwrap_or_default();
    let mut status = ask(&context, "guest-exec-status", json!({"pid": pid})).await?;
    for value in status
        .as_object_mut()
        .into_iter()
        .flat_map(|object| object.values_mut())
    {
        if let Some(flag) = value.as_bool() {
            *value = json!(u8::from(flag));
        }
    }
    for key in ["out-data", "err-data"] {
        if let Some(text) = status.get(key).and_then(Value::as_str).and_then(decoded) {
            status[key] = json!(text);
        }
    }
    Ok(status.into())
}

async fn ask(context: &Context, name: &str, arguments: Value) -> Result<Value, Failure> {
    let machine = available(context).await?;
    match machine.agent(name, arguments, ANSWER).await {
        Some(Ok(value)) => Ok(value),
        Some(Err(said)) => Err(Failure::died(format!("Agent error: {said}"))),
        None => Err(Failure::died(format!(
            "VM {} qmp command '{name}' failed - got timeout",
            context.params.vmid()
        ))),
    }
}

/// The machine, if its agent is there.
async fn available(context: &Context) -> Result<Arc<Machine>, Failure> {
    let vmid = context.params.vmid();
    let machine = {
        let mut world = context.cluster.world();
        let vm = world.vm(context.node(), vmid)?;
        if !has_agent(&vm.config) {
            return Err(Failure::died("No QEMU guest agent configured"));
        }
        vm.machine.clone()
    };
    let machine = machine.ok_or_else(|| Failure::died(format!("VM {vmid} is not running")))?;
    let patience = context.cluster.wait(PING);
    let silent = context.fault == Some(What::AgentSilent);
    match !silent
        && machine
            .agent("guest-ping", json!({}), patience)
            .await
            .is_some()
    {
        true => Ok(machine),
        false => Err(Failure::died("QEMU guest agent is not running")),
    }
}

/// What base64 stands for.
fn decoded(text: &str) -> Option<String> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
