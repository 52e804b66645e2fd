//! A server: its thread, its port, and what tests see of it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, held};
use crate::fault::Fault;
use crate::http::Connection;
use crate::inventory;
use crate::record::{Inventory, Request, TaskRecord};
use crate::setup::{SECRET, Setup, TOKEN};
use crate::tls;

/// A running server. See the [crate's documentation](crate).
pub struct Server {
    cluster: Arc<Cluster>,
    port: u16,
    pem: String,
    fingerprint: String,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    /// Keeps the guests' network ours.
    _network: StdListener,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one, and returns when it listens.
    ///
    /// # Panics
    ///
    /// When there is no room for its files, or no port.
    pub fn start(setup: Setup) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pve-lab-")
            .tempdir()
            .expect("a temporary folder can be made");
        // For downloads by the node. Another test's server may have done it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (network, reserved) = network();
        let port = setup.port;
        let cluster = Cluster::new(setup, folder.path(), network);
        let identity = tls::identity();
        let stop = CancellationToken::new();
        let (pem, fingerprint) = (identity.pem.clone(), identity.fingerprint.clone());
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let (cluster, stop) = (cluster.clone(), stop.clone());
            move || {
                // One thread: programs die with the thread that has started them.
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime can be made");
                runtime.block_on(serve(cluster, identity, port, stop, |port| {
                    let _ = tell.send(port);
                }));
            }
        });
        let port = told.recv().expect("the server found a port");
        Server {
            cluster,
            port,
            pem,
            fingerprint,
            stop,
            thread: Some(thread),
            _network: reserved,
            folder,
        }
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// In PEM.
    pub fn certificate(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the certificate, `AA:BB:…`.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The header `Authorization` for the token that [`Setup::new`] makes.
    pub fn authorization(&self) -> String {
        format!("PVEAPIToken={TOKEN}={SECRET}")
    }

    /// Where the guest of a VM is, or would be, reached.
    pub fn address(&self, vmid: u32) -> Ipv4Addr {
        self.cluster.address(vmid)
    }

    /// Where its files are; the guests' consoles are in `run/VMID/serial0`.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Lets something go wrong from now on.
    pub fn inject(&self, fault: Fault) {
        held(&self.cluster.faults).add(fault);
    }

    /// Lets nothing more go wrong. Tasks that hang go on.
    pub fn relent(&self) {
        held(&self.cluster.faults).clear();
        self.cluster.relents.send_replace(());
    }

    /// Switches a node off, or on again. What it has stays, and nobody reaches it.
    pub fn power(&self, node: &str, on: bool) {
        let offline = &mut self.cluster.world().offline;
        match on {
            true => offline.remove(node),
            false => offline.insert(node.into()),
        };
    }

    /// All calls so far.
    pub fn requests(&self) -> Vec<Request> {
        held(&self.cluster.requests).clone()
    }

    /// All tasks so far.
    pub fn tasks(&self) -> Vec<TaskRecord> {
        let world = self.cluster.world();
        world.tasks.iter().map(|task| task.record.clone()).collect()
    }

    /// All that there is now.
    pub fn inventory(&self) -> Inventory {
        inventory::take(&self.cluster)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Two bytes of loopback addresses that no other server on this machine uses, and what keeps them.
fn network() -> ([u8; 2], StdListener) {
    let (port, start) = (1024, crate::random::byte());
    for n in 0..=255u8 {
        let network = [127, start.wrapping_add(n).clamp(1, 254)];
        let address = Ipv4Addr::new(network[0], network[1], 0, 1);
        if let Ok(listener) = StdListener::bind((address, port)) {
            return (network, listener);
        }
    }
    panic!("254 servers run on this machine already");
}

async fn serve(
    cluster: Arc<Cluster>,
    identity: tls::Identity,
    port: u16,
    stop: CancellationToken,
    tell: impl FnOnce(u16),
) {
    // Bound, but not listening: the port stays ours while connections are refused.
    let reserved = bound(port);
    let address = reserved.local_addr().expect("it is bound");
    let acceptor = TlsAcceptor::from(identity.config);
    let (refuse, mut refused) = watch::channel(Duration::ZERO);
    let mut listener = listening(address);
    tell(address.port());
    for number in 1.. {
        let stream = loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = refused.changed() => {
                    let lasting = *refused.borrow_and_update();
                    if changed.is_ok() {
                        drop(listener);
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(lasting) => {}
                        }
                        listener = listening_again(address).await;
                    }
                }
                accepted = listener.accept() => if let Ok((stream, _)) = accepted { break stream },
            }
        };
        let connection = Connection {
            cluster: cluster.clone(),
            number,
            refuse: refuse.clone(),
        };
        tokio::spawn(converse(stream, acceptor.clone(), connection));
    }
}

/// As [`listening`], where a program that another thread is about to start may have the former listener a moment longer: what
/// is to be closed when it starts is still open before.
async fn listening_again(address: SocketAddr) -> tokio::net::TcpListener {
    loop {
        if let Ok(listener) = try_bound(address.port()).and_then(|socket| socket.listen(256)) {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn bound(port: u16) -> TcpSocket {
    try_bound(port).unwrap_or_else(|error| panic!("port {port}: {error}"))
}

fn try_bound(port: u16) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

fn listening(address: SocketAddr) -> tokio::net::TcpListener {
    bound(address.port()).listen(256).expect("the port is ours")
}

/// One connection, until either side has enough.
async fn converse(stream: TcpStream, acceptor: TlsAcceptor, connection: Connection) {
    let _ = stream.set_nodelay(true);
    let idle = connection.cluster.patience(Duration::from_secs(5));
    let accepted = tokio::time::timeout(idle, acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = accepted else {
        return;
    };
    let connection = Arc::new(connection);
    let service = service_fn(move |request| {
        let connection = connection.clone();
        async move { connection.answer(request).await }
    });
    // What ends badly is the client's affair, or was meant.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}
