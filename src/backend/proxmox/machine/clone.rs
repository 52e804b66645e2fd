//! Machines that are made of others.

use super::claim::{Wanted, claim};
use super::hardware::{self, Change};
use super::lease::Lease;
use super::site::Site;
use super::{Origin, Start};
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::Call;
use crate::error::Result;
use crate::run::{Resource, Run};

/// How much of its source a clone needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its disks are overlays on those of its source, which is a template.
    Linked,
    /// It has copies.
    Full,
}

/// Clones a machine that is off, or a template. The clone has the source's configuration, but a name of this build.
pub async fn clone(
    server: &Proxmox,
    site: &Site<'_>,
    source: u32,
    kind: Kind,
    pool: Option<&str>,
    lease: &Lease,
    run: &Run,
) -> Result<(u32, Resource)> {
    let wanted = Wanted {
        task: "qmclone",
        // Proxmox VE names the task after the source.
        source: Some(source),
        call: |vmid: u32| {
            let call = Call::post(server.machine_path(source, &["clone"]))
                .with("newid", vmid.to_string())
                .with("name", Lease::name(&lease.build));
            let call = match pool {
                Some(pool) => call.with("pool", pool),
                None => call,
            };
            match kind {
                // Where it is stored is not ours to say.
                Kind::Linked => call.with("full", "0"),
                Kind::Full => call.with("full", "1").with("storage", site.images),
            }
        },
    };
    claim(server, site, &lease.build, wanted, run).await
}

/// What a new clone must be told: whose it is, and its seed. One of a finished template gets a machine's hardware.
pub fn change(start: &Start<'_>, site: &Site<'_>, seed: &str) -> Change {
    let mut change = match start.origin {
        Origin::Template(_) => hardware::tested(start.hardware, site),
        Origin::Image(_) | Origin::Layer(_) => Change::default(),
    };
    change.set("tags", start.lease.tags());
    change.set("description", start.description);
    change.set(hardware::SEED, hardware::cd(seed));
    change
}
