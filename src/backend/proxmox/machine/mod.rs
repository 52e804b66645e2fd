//! A machine on a node that lives as long as what it is for, from its seed to its end.

mod address;
mod agent;
mod claim;
mod clone;
mod fixed;
pub mod hardware;
pub mod inspect;
mod lease;
mod left;
mod list;
mod making;
mod operate;
mod published;
mod remove;
mod replica;
mod site;
mod standing;
mod staying;
mod template;

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
use claim::{Claimed, Held};
pub use fixed::Copy;
use hardware::Change;
pub use hardware::{Board, Disk, Extras, Hardware, HostPci, Network};
pub use lease::{Lease, OURS, stamp, time as time_of};
pub use left::Found;
pub use list::{Listed, Survey};
pub use making::Asked;
use operate::OPERATION;
pub use published::{Drift, Located, fixed_tags};
pub use remove::{Fate, Removal, remove};
use site::Site;
pub use standing::Standing;
pub use template::{Label, Template};

/// How long the node may take to put a seed in its place.
const COPY: Duration = Duration::from_secs(5 * 60);

/// How much longer than the guest's own time a shutdown may take.
const MARGIN: Duration = Duration::from_secs(60);

/// What a machine's disk begins as.
pub enum Origin<'s> {
    /// A copy of a base image, or of a template's disk.
    Image(&'s StoredImage),
    /// An overlay on the disk of the layer of this id, which has a machine's hardware.
    Layer(u32),
    /// An overlay on the disk of the finished template of this id.
    Template(u32),
}

/// What a machine starts with.
pub struct Start<'s> {
    pub spec: &'s Spec,
    pub hardware: &'s Hardware,
    pub origin: Origin<'s>,
    /// The size of its disk in bytes; that of its origin if not given.
    pub disk: Option<u64>,
    /// The volume that tells the guest who it is.
    pub seed: &'s [u8],
    pub lease: Lease,
    /// For people who see it on the server.
    pub description: &'s str,
}

/// A machine. It is in the run's journal until it is removed, or has become a template.
pub struct Machine<'m> {
    server: &'m Proxmox,
    run: &'m Run,
    pub vmid: u32,
    _held: Held<'m>,
    lease: Lease,
    machine: Resource,
    /// None for one that has none any more.
    seed: Option<Resource>,
}

impl<'m> Machine<'m> {
    /// Makes a machine and starts it.
    ///
    /// Errors: the target does not say where ([`Kind::Usage`]), no id is free ([`Kind::Conflict`]), what the server says.
    pub async fn start(server: &'m Proxmox, start: Start<'_>, run: &'m Run) -> Result<Self> {
        let site = Site::of(&server.target)?.with(start.hardware);
        let (made, volume) = Machine::make(server, &site, &start, run).await?;
        if !matches!(start.origin, Origin::Image(_)) {
            let change = clone::change(&start, &site, &volume);
            let changing = server.configure(made.vmid, change);
            run.phase("set up clone", changing).await?;
        }
        if let Some(size) = start.disk {
            run.phase("grow disk", made.grow(size)).await?;
        }
        run.phase("start machine", made.power_on()).await?;
        Ok(made)
    }

    /// Makes a machine, and says what its seed is called there. A clone has not got the seed yet, and has its source's hardware.
    async fn make(
        server: &'m Proxmox,
        site: &Site<'_>,
        start: &Start<'_>,
        run: &'m Run,
    ) -> Result<(Self, String)> {
        let (file, build) = (start.lease.seed_file(), start.lease.build.as_str());
        let sending = send_seed(server, site, &file, start.seed, run);
        let seed = run.phase("upload seed", sending).await?;
        let volume = format!("{}:iso/{file}", site.iso);
        let Claimed { machine, held } = match start.origin {
            Origin::Image(image) => {
                let parameters = |vmid| hardware::parameters(vmid, start, image, site, &volume);
                let claiming = claim::claim(server, site, build, parameters, run);
                run.phase("create machine", claiming).await?
            }
            Origin::Layer(source) | Origin::Template(source) => {
                let pool = start.hardware.pool.as_deref();
                let linked = (source, clone::Kind::Linked);
                let cloning = clone::clone(server, site, linked, pool, build, run);
                run.phase("clone template", cloning).await?
            }
        };
        let made = Machine {
            server,
            run,
            vmid: held.vmid,
            _held: held,
            lease: start.lease.clone(),
            machine,
            seed: Some(seed),
        };
        Ok((made, volume))
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

    /// Asks the guest to power off, and makes it if it does not. Returns whether it had to be made.
    pub async fn power_off(&self, patience: Duration) -> Result<bool> {
        let doing = format!("shutting down the machine {}", self.vmid);
        let path = self.server.machine_path(self.vmid, &["status", "shutdown"]);
        let call = Call::post(path).with("timeout", patience.as_secs().to_string());
        let asked = self.server.operate(call, &doing, patience + MARGIN).await;
        let Err(error) = asked else {
            return Ok(false);
        };
        if error.get_kind() != Kind::Operation {
            return Err(error);
        }
        self.run.events.log_only(&error.to_string());
        self.stop().await?;
        Ok(true)
    }

    /// Stops it by force: the guest does not notice.
    pub async fn stop(&self) -> Result<()> {
        let doing = format!("stopping the machine {}", self.vmid);
        let call = Call::post(self.server.machine_path(self.vmid, &["status", "stop"]));
        self.server.operate(call, &doing, OPERATION).await
    }

    /// Takes the seed out of a machine that is off, and removes it.
    pub async fn drop_seed(&mut self) -> Result<()> {
        if let Some(seed) = &self.seed {
            let change = Change {
                delete: vec![hardware::SEED.into()],
                ..Change::default()
            };
            self.server.configure(self.vmid, change).await?;
            self.run.remove(seed).await?;
            self.seed = None;
        }
        Ok(())
    }

    /// Removes it with its disk and its seed, whatever it is doing.
    pub async fn remove(self) -> Result<()> {
        let run = self.run;
        let remove = async {
            run.remove(&self.machine).await?;
            match &self.seed {
                Some(seed) => run.remove(seed).await,
                None => Ok(()),
            }
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
    // Of its own: a build may send two at the same time.
    let folder = run.dirs.work().join(file);
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
    let begun = server.upload(&upload, &doing, &run.events).await?;
    let upid = begun.upid;
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
