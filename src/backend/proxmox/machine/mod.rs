//! A machine on a node that lives as long as what it is for, from its seed to its end.

mod address;
mod agent;
mod claim;
mod hardware;
mod lease;
mod left;
mod operate;
mod remove;
mod site;

use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::call::Call;
use super::leftover::What;
use super::task::Ended;
use super::upload::Upload;
use super::{Proxmox, StoredImage};
use crate::backend::Spec;
use crate::error::{Context, Error, Kind, Result};
use crate::run::{Resource, Run};
use crate::ssh::SshSession;
use crate::store;
use crate::text::hex;
pub use address::{Door, Whereabouts, static_addresses};
pub use lease::Lease;
pub use left::Found;
use operate::OPERATION;
pub use remove::remove;
use site::Site;

/// How long the node may take to put a seed in its place.
const COPY: Duration = Duration::from_secs(5 * 60);

/// What a machine starts with.
pub struct Start<'s> {
    pub spec: &'s Spec,
    /// What its disk is a copy of.
    pub image: &'s StoredImage,
    /// The size of its disk in bytes; that of the image if not given.
    pub disk: Option<u64>,
    /// The volume that tells the guest who it is.
    pub seed: &'s [u8],
    pub lease: Lease,
    /// For people who see it on the server.
    pub description: &'s str,
}

/// A machine. It is in the run's journal until it is removed.
pub struct Machine<'m> {
    server: &'m Proxmox,
    run: &'m Run,
    pub vmid: u32,
    machine: Resource,
    seed: Resource,
}

impl<'m> Machine<'m> {
    /// Makes a machine and starts it.
    ///
    /// Errors: the target does not say where ([`Kind::Usage`]), no id is free ([`Kind::Conflict`]), what the server says.
    pub async fn start(server: &'m Proxmox, start: Start<'_>, run: &'m Run) -> Result<Self> {
        let site = Site::of(&server.target)?;
        let file = start.lease.seed_file();
        let sending = send_seed(server, &site, &file, start.seed, run);
        let seed = run.phase("upload seed", sending).await?;
        let volume = format!("{}:iso/{file}", site.iso);
        let parameters = |vmid| hardware::parameters(vmid, &start, &site, &volume);
        let claiming = claim::claim(server, &site, &start.lease.build, parameters, run);
        let (vmid, machine) = run.phase("create machine", claiming).await?;
        let made = Machine {
            server,
            run,
            vmid,
            machine,
            seed,
        };
        if let Some(size) = start.disk {
            run.phase("grow disk", made.grow(size)).await?;
        }
        run.phase("start machine", made.power_on()).await?;
        Ok(made)
    }

    /// Makes the disk this many bytes large.
    async fn grow(&self, size: u64) -> Result<()> {
        let doing = format!("making the disk of the machine {} larger", self.vmid);
        let config = self.server.machine_config(self.vmid).await;
        let config = config.map_err(|failure| failure.during(doing.as_str()))?;
        let now = config.and_then(|config| config.disk());
        let now = now.ok_or_else(|| {
            Error::new(doing.as_str()).cause("the server does not say how large it is")
        })?;
        if now > size {
            let (least, wanted) = (indicatif::BinaryBytes(now), indicatif::BinaryBytes(size));
            return Err(Error::new(doing)
                .kind(Kind::Usage)
                .cause(format!(
                    "the base image needs {least}, the recipe asks for {wanted}"
                ))
                .hint("a disk can grow, not shrink: raise `[machine] disk` or leave it out"));
        }
        if now == size {
            return Ok(());
        }
        let call = Call::put(self.server.machine_path(self.vmid, &["resize"]))
            .with("disk", hardware::DISK)
            .with("size", size.to_string());
        self.server.operate(call, &doing, OPERATION).await
    }

    async fn power_on(&self) -> Result<()> {
        let call = Call::post(self.server.machine_path(self.vmid, &["status", "start"]));
        let doing = format!("starting the machine {}", self.vmid);
        self.server.operate(call, &doing, OPERATION).await
    }

    /// Waits until the guest can be worked in, and returns where that is.
    pub async fn enter(&self, door: &Door<'_>, patience: Duration) -> Result<(SshSession, IpAddr)> {
        let connect = address::connect(self.server, self.vmid, door, patience);
        self.run.phase("boot", connect).await
    }

    /// Removes it with its disk and its seed, whatever it is doing.
    pub async fn remove(self) -> Result<()> {
        let run = self.run;
        let remove = async {
            run.remove(&self.machine).await?;
            run.remove(&self.seed).await
        };
        run.phase("remove machine", remove).await
    }
}

/// Sends a seed to its storage, under a name of its own.
async fn send_seed(
    server: &Proxmox,
    site: &Site<'_>,
    file: &str,
    content: &[u8],
    run: &Run,
) -> Result<Resource> {
    let doing = format!("uploading the seed {file} to {}", server.target.name);
    let folder = run.dirs.work().join(&run.id);
    let guard = run.guard(Resource::Folder {
        path: folder.clone(),
    })?;
    store::create_private_folder(&folder)?;
    let path = folder.join("seed.img");
    tokio::fs::write(&path, content)
        .await
        .doing(|| doing.clone())?;
    let seed = run.guard(server.leftover(What::Seed { file: file.into() }))?;
    let upload = Upload {
        storage: site.iso,
        content: "iso",
        name: file,
        path: &path,
        sha256: &hex(&Sha256::digest(content)),
        size: content.len() as u64,
    };
    let upid = server.upload(&upload, &doing, &run.events).await?;
    let task = run.guard(server.leftover(What::Task { upid: upid.clone() }))?;
    match server.follow(&upid, COPY).await {
        Ok(()) => {}
        Err(Ended::Task(failed)) => return Err(failed.during(doing, &upid)),
        Err(Ended::Untold(error)) => return Err(error),
    }
    run.release(&task)?;
    run.remove(&guard).await?;
    Ok(seed)
}
