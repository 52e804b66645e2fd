//! The serial console over the API: a terminal is asked for, and a WebSocket leads to it.
//!
//! On a node these are four programs: pveproxy, which has the WebSocket; termproxy, which asks who it is; `qm terminal`, which
//! looks for the machine's socket; and socat, which reads it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper::upgrade::OnUpgrade;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::cluster::Cluster;
use crate::context::Context;
use crate::fault::What;
use crate::reply::{Failure, Reply};
use crate::task::{self, Worker};
use crate::vm::agent::BELIEVED;
use crate::websocket;

/// The ports that terminals get (PVE::Tools, `next_vnc_port`).
const PORTS: std::ops::RangeInclusive<u16> = 5900..=5999;

/// How long termproxy waits for a connection, and then for the first line on it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a ticket is good for (PVE::AccessControl, `verify_short_lived_ticket`).
const TICKET: Duration = Duration::from_secs(40);

/// A ticket for a port, and what listens there.
pub struct Terminal {
    port: u16,
    ticket: String,
    user: String,
    vmid: u32,
    since: Instant,
    /// Until somebody has connected.
    listener: Option<oneshot::Sender<Connected>>,
}

/// What termproxy gets.
pub struct Connected {
    upgrade: OnUpgrade,
    fault: Option<What>,
}

/// `POST …/termproxy`
pub async fn open(context: Context) -> Reply {
    let (node, vmid, user) = (context.node(), context.params.vmid(), context.who.clone());
    let iface = context.params.get("serial").map(str::to_owned);
    context.cluster.world().vm(node, vmid)?;
    let (tell, connected) = oneshot::channel();
    let ticket = format!("PVEVNC:{:08X}::{}", task::now(), crate::random::hex(64));
    let port = {
        let mut world = context.cluster.world();
        world
            .terminals
            .retain(|it| it.since.elapsed() < TICKET || it.listener.is_some());
        let taken = |port: &u16| world.terminals.iter().any(|it| it.port == *port);
        let port = PORTS.into_iter().find(|port| !taken(port));
        let port = port.ok_or_else(|| Failure::died("unable to find free port (5900-6000)"))?;
        world.terminals.push(Terminal {
            port,
            ticket: ticket.clone(),
            user: user.clone(),
            vmid,
            since: Instant::now(),
            listener: Some(tell),
        });
        port
    };
    let login = format!("{user}:{ticket}");
    let node = node.to_owned();
    let upid = task::start(
        &context,
        "vncproxy",
        &vmid.to_string(),
        |worker| async move {
            let proxy = Proxy {
                worker: &worker,
                node: &node,
                vmid,
                iface: iface.as_deref(),
            };
            let served = proxy.serve(connected, &login).await;
            close(&worker.cluster, port);
            served.map_err(|said| {
                worker.log(said);
                format!("command '/usr/bin/termproxy {port}' failed: exit code 1")
            })
        },
    );
    Ok(json!({"user": user, "ticket": ticket, "port": port.to_string(), "upid": upid}).into())
}

/// Nobody listens any more.
fn close(cluster: &Cluster, port: u16) {
    let mut world = cluster.world();
    let terminals = world.terminals.iter_mut();
    terminals
        .filter(|it| it.port == port)
        .for_each(|it| it.listener = None);
}

/// `GET …/vncwebsocket`
pub async fn verify(context: Context) -> Reply {
    let (params, world) = (&context.params, context.cluster.world());
    let port = params.number("port").unwrap_or_default();
    let is_good = |it: &&Terminal| {
        u64::from(it.port) == port
            && it.ticket == params.text("vncticket")
            && it.user == context.who
            && it.vmid == params.vmid()
            && it.since.elapsed() < context.cluster.wait(TICKET)
    };
    match world.terminals.iter().find(is_good) {
        Some(_) => Ok(json!({"port": port.to_string()}).into()),
        None => Err(Failure::unauthorized(
            "permission denied - invalid PVEVNC ticket",
        )),
    }
}

/// Connects a WebSocket to a port; false if nobody listens there.
pub fn connect(cluster: &Cluster, port: &str, upgrade: OnUpgrade, fault: Option<What>) -> bool {
    let mut world = cluster.world();
    let terminals = world.terminals.iter_mut();
    let mut here = terminals.filter(|it| it.port.to_string() == port);
    let listener = here.find_map(|it| it.listener.take());
    listener.is_some_and(|listener| listener.send(Connected { upgrade, fault }).is_ok())
}

/// One termproxy.
struct Proxy<'p> {
    worker: &'p Worker,
    node: &'p str,
    vmid: u32,
    iface: Option<&'p str>,
}

impl Proxy<'_> {
    async fn serve(
        &self,
        connected: oneshot::Receiver<Connected>,
        login: &str,
    ) -> Result<(), String> {
        let patience = self.worker.cluster.wait(PATIENCE);
        let connected = tokio::time::timeout(patience, connected).await;
        let Ok(Ok(Connected { upgrade, fault })) = connected else {
            return Err("failed waiting for client: timed out".into());
        };
        let upgraded = upgrade.await.map_err(|error| error.to_string())?;
        let (mut receiver, mut sender) = websocket::halves(upgraded);
        let mut line = vec![];
        let reading = async {
            while !line.ends_with(b"\n") {
                let Ok(Some(data)) = receiver.next().await else {
                    return Err("connection closed before authentication");
                };
                line.extend(data);
            }
            Ok(())
        };
        let read = tokio::time::timeout(patience, reading).await;
        read.map_err(|_| "failed reading ticket: timed out")??;
        let is_known = line.strip_suffix(b"\n") == Some(login.as_bytes());
        if !is_known || fault == Some(What::NoConsoleForTokens) {
            return Err("authentication request failed".into());
        }
        let gone = |error: std::io::Error| format!("error writing to tcp : {error}");
        sender.send(b"OK").await.map_err(gone)?;
        let (socket, iface) = match self.terminal() {
            Ok(found) => found,
            Err(said) => {
                return sender
                    .send(format!("{said}\r\n").as_bytes())
                    .await
                    .map_err(gone);
            }
        };
        let banner = format!("starting serial terminal on interface {iface}\r\n");
        sender.send(banner.as_bytes()).await.map_err(gone)?;
        let reached = self.worker.cluster.address(self.vmid).to_string();
        let mut translation = Translation::new(reached);
        let Ok(mut socket) = UnixStream::connect(socket).await else {
            return Ok(());
        };
        let telling = async {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                let told = translation.feed(&buffer[..read]);
                sender.send(&told).await.map_err(gone)?;
                if fault == Some(What::CutAnswer) {
                    break;
                }
            }
            Ok(())
        };
        // What is typed goes nowhere: nothing types here.
        let listening = async { while let Ok(Some(_)) = receiver.next().await {} };
        tokio::select! {
            told = telling => told,
            () = listening => Ok(()),
        }
    }

    /// The machine's socket, and the device behind it; or what `qm terminal` says.
    fn terminal(&self) -> Result<(PathBuf, String), String> {
        let mut world = self.worker.cluster.world();
        let vm = world
            .vm(self.node, self.vmid)
            .map_err(|failure| failure.reason)?;
        let is_socket = |iface: &str| vm.config.get(iface).is_some_and(|kind| kind == "socket");
        let iface = match self.iface {
            Some(iface) if !vm.config.contains_key(iface) => {
                return Err(format!("serial interface '{iface}' is not configured"));
            }
            Some(iface) if !is_socket(iface) => {
                return Err(format!("wrong serial type on interface '{iface}'"));
            }
            Some(iface) => iface,
            None => ["serial0", "serial1", "serial2", "serial3"]
                .into_iter()
                .find(|iface| is_socket(iface))
                .ok_or("unable to find a serial interface")?,
        };
        if !vm.is_running() {
            return Err(format!("VM {} not running", self.vmid));
        }
        let folder = self.worker.cluster.folder(&format!("run/{}", self.vmid));
        let folder = folder.map_err(|error| error.to_string())?;
        Ok((folder.join(format!("{iface}.socket")), iface.to_owned()))
    }
}

/// The guest's own address is nobody's on this side of the user network, so the one at which it is reached stands in its place.
struct Translation {
    reached: String,
    /// What may be the beginning of the address.
    held: Vec<u8>,
}

impl Translation {
    fn new(reached: String) -> Self {
        Translation {
            reached,
            held: vec![],
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut told = vec![];
        for byte in bytes {
            self.held.push(*byte);
            while !BELIEVED.as_bytes().starts_with(&self.held) {
                told.push(self.held.remove(0));
            }
            if self.held == BELIEVED.as_bytes() {
                told.extend(self.reached.bytes());
                self.held.clear();
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_s_address_is_the_one_at_which_it_is_reached() {
        let text = b"1010.0.2.15 10.0.2.1\n10.0.2.15";
        for pieces in 1..text.len() {
            let mut translation = Translation::new("127.1.0.9".into());
            let told = text.chunks(pieces).map(|piece| translation.feed(piece));
            let told = told.collect::<Vec<_>>().concat();
            assert_eq!(told, b"10127.1.0.9 10.0.2.1\n127.1.0.9", "{pieces}");
        }
    }
}
