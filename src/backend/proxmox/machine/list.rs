//! The machines and templates on the target's node.

use serde::Deserialize;

use super::lease;
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::Call;
use crate::backend::proxmox::error::Failure;

/// A machine or template, as the node lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub vmid: u32,
    pub name: String,
    pub tags: Vec<String>,
    pub is_template: bool,
}

impl Listed {
    pub fn has(&self, tag: &str) -> bool {
        self.tags.iter().any(|other| other == tag)
    }
}

impl Proxmox {
    /// Those that we may see, by id.
    pub async fn machines(&self) -> Result<Vec<Listed>, Failure> {
        #[derive(Deserialize)]
        struct Machine {
            vmid: u32,
            name: Option<String>,
            tags: Option<String>,
            template: Option<u8>,
        }
        let call = Call::get(self.node_path(&["qemu"]));
        let all: Vec<Machine> = self.client.call(call).await?;
        let all = all.into_iter().map(|machine| Listed {
            vmid: machine.vmid,
            name: machine.name.unwrap_or_default(),
            tags: lease::split(machine.tags.as_deref().unwrap_or_default())
                .map(str::to_owned)
                .collect(),
            is_template: machine.template == Some(1),
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|machine| machine.vmid);
        Ok(all)
    }
}
