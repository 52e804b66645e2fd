//! The server by hand.

use clap::Parser;
use pve_lab::{BEHAVIOURS, SECRET, Server, Setup, Storage, TOKEN};

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
            println!(
                "{}: {}\n    {}",
                behaviour.area, behaviour.id, behaviour.says
            );
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
    match runtime.map(|runtime| runtime.block_on(tokio::signal::ctrl_c())) {
        Ok(Ok(())) => {}
        Ok(Err(error)) | Err(error) => eprintln!("waiting for Ctrl-C: {error}"),
    }
}
