//! The server by hand.

use clap::Parser;
use pve_lab::{BEHAVIOURS, Known, SECRET, Server, Setup, Storage, TOKEN};
use tokio::signal::unix::{SignalKind, signal};

/// A Proxmox VE API on loopback, for tests: it behaves like the real one and runs real QEMU guests.
#[derive(Parser)]
struct Arguments {
    /// Prints what it knows of Proxmox's behaviour, and ends.
    #[arg(long)]
    behaviours: bool,
    /// Where it listens on 127.0.0.1; any free port if it is not said.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// One more node (repeatable).
    #[arg(long, value_name = "NAME")]
    node: Vec<String>,
    /// One more storage for iso, import and images (repeatable).
    #[arg(long, value_name = "NAME")]
    storage: Vec<String>,
    /// Divides the server's own waits: 5 s idle, 10 s for locks, 30 s for a proxied call.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pace: u32,
}

fn main() {
    let arguments = Arguments::parse();
    if arguments.behaviours {
        for behaviour in BEHAVIOURS {
            let known = match behaviour.known {
                Known::Observed => "observed on 8.4",
                Known::Compared => "seen on the daemons of 9.2, outside a real node",
                Known::Read => "read in the source",
            };
            println!("{}: {} ({known})", behaviour.area, behaviour.id);
            println!("    {}", behaviour.says);
        }
        return;
    }
    let mut setup = Setup::new().listen(arguments.port).pace(arguments.pace);
    for name in &arguments.node {
        setup = setup.node(name);
    }
    for name in &arguments.storage {
        setup = setup.storage(Storage::new(name).holding(&["iso", "import", "images"]));
    }
    let server = Server::start(setup);
    let certificate = server.folder().join("pve.pem");
    if let Err(error) = std::fs::write(&certificate, server.certificate()) {
        eprintln!("{}: {error}", certificate.display());
    }
    println!("url          {}", server.url());
    println!("fingerprint  {}", server.fingerprint());
    println!("certificate  {}", certificate.display());
    println!("token        {TOKEN}={SECRET}");
    println!("Ctrl-C ends it and removes all that it has.");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let told = runtime.and_then(|runtime| runtime.block_on(told_to_end()));
    if let Err(error) = told {
        eprintln!("waiting for a signal: {error}");
    }
}

async fn told_to_end() -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = term.recv() => Ok(()),
    }
}
