//! Machines that are made of others.

use super::claim::{Wanted, claim};
use super::lease::Lease;
use super::site::Site;
use super::{Start, hardware};
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
            match kind {
                // Where it is stored is not ours to say.
                Kind::Linked => call.with("full", "0"),
                Kind::Full => call.with("full", "1").with("storage", site.images),
            }
        },
    };
    claim(server, site, &lease.build, wanted, run).await
}

/// What a new clone must be told: whose it is, and its seed.
pub fn change(start: &Start<'_>, seed: &str) -> Vec<(&'static str, String)> {
    vec![
        ("tags", start.lease.tags()),
        ("description", start.description.to_owned()),
        (hardware::SEED, hardware::cd(seed)),
    ]
}
