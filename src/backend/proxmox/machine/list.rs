//! The machines and templates on the target's nodes, and on the other nodes of their cluster.

use futures_util::future::try_join_all;
use serde::Deserialize;

use super::lease;
use crate::backend::proxmox::call::{Call, Path};
use crate::backend::proxmox::error::Failure;
use crate::backend::proxmox::{Everywhere, Proxmox, TEMPLATE, number};

/// A machine or template, as the node lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub node: String,
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
    /// Those on the target's nodes that are online, by id.
    pub here: Vec<Listed>,
    /// Those on other nodes. They are as they were some seconds ago, but for whether they are finished templates. Of those on
    /// nodes that are offline little is known.
    pub elsewhere: Vec<Listed>,
    /// The target's nodes that could not be asked.
    pub offline: Vec<String>,
}

impl Survey {
    /// All of them, those that are certain first.
    pub fn all(&self) -> impl Iterator<Item = &Listed> {
        self.here.iter().chain(&self.elsewhere)
    }
}

impl Listed {
    pub fn has(&self, tag: &str) -> bool {
        self.tags.iter().any(|other| other == tag)
    }
}

/// As the API has it.
#[derive(Deserialize)]
struct Machine {
    #[serde(deserialize_with = "number::number")]
    vmid: u32,
    name: Option<String>,
    tags: Option<String>,
    #[serde(default, deserialize_with = "number::maybe")]
    template: Option<u8>,
    #[serde(default, rename = "maxdisk", deserialize_with = "number::maybe")]
    disk: Option<u64>,
}

impl Machine {
    fn on(self, node: &str) -> Listed {
        let tags = self.tags.unwrap_or_default();
        Listed {
            node: node.to_owned(),
            vmid: self.vmid,
            name: self.name.unwrap_or_default(),
            tags: lease::split(&tags).map(str::to_owned).collect(),
            is_template: self.template == Some(1),
            disk: self.disk.filter(|size| *size > 0),
        }
    }
}

impl Proxmox {
    /// Those on this node that we may see, by id.
    pub async fn machines(&self) -> Result<Vec<Listed>, Failure> {
        let call = Call::get(self.node_path(&["qemu"]));
        let all: Vec<Machine> = self.client.call(call).await?;
        let node = &self.target.node;
        let mut all: Vec<Listed> = all.into_iter().map(|machine| machine.on(node)).collect();
        all.sort_by_key(|machine| machine.vmid);
        Ok(all)
    }

    /// Those on all nodes. What the target's nodes themselves say counts: the cluster's list is some seconds old.
    pub async fn survey(&self) -> Result<Survey, Failure> {
        #[derive(Deserialize)]
        struct Guest {
            node: String,
            #[serde(flatten)]
            machine: Machine,
        }
        let Everywhere {
            servers, offline, ..
        } = self.with_replicas().await?;
        let call = Call::get(Path::new(["cluster", "resources"])).with("type", "vm");
        let all: Vec<Guest> = self.client.call(call).await?;
        let is_asked = |node: &str| servers.iter().any(|server| server.target.node == node);
        let others = all.into_iter().filter(|guest| !is_asked(&guest.node));
        let here = try_join_all(servers.iter().map(Proxmox::machines)).await?;
        let mut here = here.concat();
        here.sort_by_key(|machine| machine.vmid);
        let mut elsewhere: Vec<_> = others.map(|guest| guest.machine.on(&guest.node)).collect();
        self.look_again(&mut elsewhere).await?;
        Ok(Survey {
            here,
            elsewhere,
            offline,
        })
    }

    /// Asks for the truth about those in the cluster's list that should be templates by their tags, which are always of today.
    /// That one is a template, and its name, are only said some seconds after it has become one. Nobody can be asked about those
    /// on nodes that are off, of which both are forgotten.
    async fn look_again(&self, all: &mut [Listed]) -> Result<(), Failure> {
        let mut doubtful: Vec<_> = all
            .iter_mut()
            .filter(|listed| !listed.is_template && listed.has(TEMPLATE))
            .collect();
        if doubtful.is_empty() {
            return Ok(());
        }
        let nodes = self.nodes().await?;
        doubtful.retain(|listed| {
            nodes
                .iter()
                .any(|node| node.is_online && node.name == listed.node)
        });
        for listed in doubtful {
            let config = self.on(&listed.node).machine_config(listed.vmid).await;
            if let Ok(Some(config)) = config {
                listed.is_template = config.is_template();
                listed.name = config.name.unwrap_or_default();
            }
        }
        Ok(())
    }
}
