//! The parts of a target that machines need.

use std::ops::RangeInclusive;

use super::Hardware;
use crate::backend::proxmox::Target;
use crate::error::{Error, Kind, Result};

/// Where on a server machines are made.
pub struct Site<'t> {
    /// The storage for disks.
    pub images: &'t str,
    /// The storage for seeds.
    pub iso: &'t str,
    pub bridge: &'t str,
    pub vmids: RangeInclusive<u32>,
}

impl<'t> Site<'t> {
    /// That of a target.
    ///
    /// Errors: the project file does not say all of it ([`Kind::Usage`]).
    pub fn of(target: &'t Target) -> Result<Self> {
        let (images, iso) = (target.images.as_deref(), target.iso.as_deref());
        let (bridge, vmids) = (target.bridge.as_deref(), target.vmids.clone());
        if let (Some(images), Some(iso), Some(bridge), Some(vmids)) = (images, iso, bridge, vmids) {
            return Ok(Site {
                images,
                iso,
                bridge,
                vmids,
            });
        }
        let all = [
            ("storages.images", images.is_some()),
            ("storages.iso", iso.is_some()),
            ("bridge", bridge.is_some()),
            ("vmid-range", target.vmids.is_some()),
        ];
        let missing = all.iter().filter(|(_, is_said)| !is_said);
        let missing: Vec<_> = missing.map(|(key, _)| format!("`{key}`")).collect();
        Err(Error::new(format!("making a machine on {}", target.name))
            .kind(Kind::Usage)
            .cause(format!("the target has no {}", missing.join(", ")))
            .hint("docs/proxmox.md says what they are for"))
    }

    /// With what the recipe says instead.
    pub fn with(self, hardware: &'t Hardware) -> Self {
        Site {
            images: hardware.storage.as_deref().unwrap_or(self.images),
            bridge: hardware.bridge.as_deref().unwrap_or(self.bridge),
            ..self
        }
    }
}
