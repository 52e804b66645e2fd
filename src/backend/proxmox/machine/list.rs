//! The machines and templates on the target's node, and on the other nodes of its cluster.

use serde::Deserialize;

use super::lease;
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::{Call, Path};
use crate::backend::proxmox::error::Failure;

/// A machine or template, as the node lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub vmid: u32,
    pub name: String,
    pub tags: Vec<String>,
    pub is_template: bool,
    /// Bytes of its disk, if the server says.
    pub disk: Option<u64>,
}

/// All machines and templates of the target's cluster that we may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Those on the target's node, by id.
    pub here: Vec<Listed>,
    /// Those on other nodes, each with the node's name. They are as they were some seconds ago.
    pub elsewhere: Vec<(String, Listed)>,
}

impl Listed {
    pub fn has(&self, tag: &str) -> bool {
        self.tags.iter().any(|other| other == tag)
    }
}

/// As the API has it.
#[derive(Deserialize)]
struct Machine {
    vmid: u32,
    name: Option<String>,
    tags: Option<String>,
    template: Option<u8>,
    #[serde(rename = "maxdisk")]
    disk: Option<u64>,
}

impl From<Machine> for Listed {
    fn from(machine: Machine) -> Self {
        let tags = machine.tags.unwrap_or_default();
        Listed {
            vmid: machine.vmid,
            name: machine.name.unwrap_or_default(),
            tags: lease::split(&tags).map(str::to_owned).collect(),
            is_template: machine.template == Some(1),
            disk: machine.disk.filter(|size| *size > 0),
        }
    }
}

impl Proxmox {
    /// Those that we may see, by id.
    pub async fn machines(&self) -> Result<Vec<Listed>, Failure> {
        let call = Call::get(self.node_path(&["qemu"]));
        let all: Vec<Machine> = self.client.call(call).await?;
        let mut all: Vec<Listed> = all.into_iter().map(Listed::from).collect();
        all.sort_by_key(|machine| machine.vmid);
        Ok(all)
    }

    /// Those on all nodes. What the node itself says counts: the cluster's list is some seconds old.
    pub async fn survey(&self) -> Result<Survey, Failure> {
        #[derive(Deserialize)]
        struct Guest {
            node: String,
            #[serde(flatten)]
            machine: Machine,
        }
        let call = Call::get(Path::new(["cluster", "resources"])).with("type", "vm");
        let all: Vec<Guest> = self.client.call(call).await?;
        let others = all
            .into_iter()
            .filter(|guest| guest.node != self.target.node);
        Ok(Survey {
            elsewhere: others
                .map(|guest| (guest.node, guest.machine.into()))
                .collect(),
            here: self.machines().await?,
        })
    }
}
