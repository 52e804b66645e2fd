//! The nodes of a cluster: which there are, which has what, and which of them a build goes to.

mod choice;
mod slots;

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde::Deserialize;

use super::call::{Call, Path};
use super::error::Failure;
use super::machine::Extras;
use super::{Proxmox, Target, number, privilege};
use crate::error::{Error, Result};
use choice::{Candidate, Choice, choose};
use slots::{Slot, Slots};

/// A node, as the server lists it.
pub(super) struct Node {
    pub name: String,
    pub is_online: bool,
    /// Bytes that nobody uses; none where we may not know.
    memory: Option<u64>,
}

/// The nodes of a target.
pub struct Everywhere {
    /// What the project calls the target.
    pub name: String,
    /// The target on each node that can be asked.
    pub servers: Vec<Proxmox>,
    /// Those that cannot, by name.
    pub offline: Vec<String>,
}

impl Everywhere {
    /// Those on which one of the target's storages is to be looked at: where they share it, one of them has it all.
    pub async fn seeing(
        &self,
        storage: impl Fn(&Target) -> Option<&String>,
    ) -> Result<Vec<&Proxmox>, Failure> {
        let (mut chosen, mut is_seen) = (vec![], false);
        for server in &self.servers {
            let Some(storage) = storage(&server.target) else {
                continue;
            };
            let is_shared = self.servers.len() > 1 && server.is_shared(storage).await?;
            if !(is_shared && std::mem::replace(&mut is_seen, true)) {
                chosen.push(server);
            }
        }
        Ok(chosen)
    }
}

impl Proxmox {
    /// All nodes, by name.
    pub(super) async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        #[derive(Deserialize)]
        struct Listed {
            node: String,
            status: Option<String>,
            #[serde(default, deserialize_with = "number::maybe")]
            maxmem: Option<u64>,
            #[serde(default, deserialize_with = "number::maybe")]
            mem: Option<u64>,
        }
        let call = Call::get(Path::new(["nodes"]));
        let listed: Vec<Listed> = self.client.call(call).await?;
        let nodes = listed.into_iter().map(|node| Node {
            name: node.node,
            // `unknown` is one whose pvestatd has said nothing yet, or not for a while.
            is_online: node.status.as_deref() != Some("offline"),
            // Without `Sys.Audit` on the node neither is there.
            memory: Option::zip(node.maxmem, node.mem).map(|(all, used)| all.saturating_sub(used)),
        });
        let mut nodes: Vec<_> = nodes.collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    /// The target on each of its nodes: the one that the project names, or all of the cluster.
    pub async fn everywhere(&self) -> Result<Everywhere, Failure> {
        let mut found = Everywhere {
            name: self.target.name.clone(),
            servers: vec![],
            offline: vec![],
        };
        if !self.target.is_auto {
            found.servers.push(self.on(&self.target.node));
            return Ok(found);
        }
        for node in self.nodes().await? {
            match node.is_online {
                true => found.servers.push(self.on(&node.name)),
                false => found.offline.push(node.name),
            }
        }
        Ok(found)
    }

    /// The target on all nodes that its templates may be on: its own, and those that it copies them to. The one that the project
    /// names is taken for online.
    pub(super) async fn with_replicas(&self) -> Result<Everywhere, Failure> {
        let target = &self.target;
        let mut found = self.everywhere().await?;
        if target.is_auto || !target.has_several_nodes() {
            return Ok(found);
        }
        let is_wanted =
            |node: &Node| node.name != target.node && target.replicate.contains(&node.name);
        for node in self.nodes().await?.into_iter().filter(is_wanted) {
            match node.is_online {
                true => found.servers.push(self.on(&node.name)),
                false => found.offline.push(node.name),
            }
        }
        Ok(found)
    }

    /// The same on the node that has a machine of this id: this node, or any other. `None` if there is none.
    ///
    /// Errors: it is on a node that is offline; what the server says.
    pub(super) async fn with_machine(&self, vmid: u32, doing: &str) -> Result<Option<Proxmox>> {
        let own = self.target.node.as_str();
        let failed = |failure: Failure| failure.during(doing);
        let nodes = self.nodes().await.map_err(failed)?;
        if nodes.iter().all(|node| node.name != own) {
            let cause = format!("the cluster has no node {own} any more");
            return Err(Error::new(doing).cause(cause));
        }
        let (mut online, offline): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.is_online);
        online.sort_by_key(|node| node.name != own);
        for node in online {
            let there = self.on(&node.name);
            if there.machine_config(vmid).await.map_err(failed)?.is_some() {
                return Ok(Some(there));
            }
        }
        if offline.is_empty() {
            return Ok(None);
        }
        // A node that is off cannot be asked, but the others know what it has.
        let node = self.guests().await.map_err(failed)?.remove(&vmid);
        match node.filter(|name| offline.iter().any(|node| node.name == *name)) {
            Some(name) => {
                Err(Error::new(doing).cause(format!("it is on {name}, which is offline")))
            }
            None => Ok(None),
        }
    }

    /// The node of each machine that we may see, as the cluster tells, which may be some seconds late.
    pub(super) async fn guests(&self) -> Result<BTreeMap<u32, String>, Failure> {
        #[derive(Deserialize)]
        struct Guest {
            #[serde(default, deserialize_with = "number::maybe")]
            vmid: Option<u32>,
            node: String,
        }
        let call = Call::get(Path::new(["cluster", "resources"])).with("type", "vm");
        let guests: Vec<Guest> = self.client.call(call).await?;
        let guests = guests.into_iter();
        Ok(guests
            .filter_map(|guest| Some((guest.vmid?, guest.node)))
            .collect())
    }

    /// The same with what a build wants instead, to be looked at.
    fn with(&self, wish: &Wish) -> Proxmox {
        let mut server = self.on(&self.target.node);
        let target = &mut server.target;
        target.images = wish.images.clone().or(target.images.take());
        target.bridge = wish.bridge.clone().or(target.bridge.take());
        server
    }

    /// The target on those nodes that finished templates are copied to, which are those that `replicate` names and that do not
    /// see this node's disks. Those that do are told.
    ///
    /// Errors: one of them cannot be used now.
    pub async fn for_replicas(&self, wish: &Wish, tell: impl Fn(&str)) -> Result<Vec<Proxmox>> {
        let target = &self.target;
        let wanted = target.replicate.iter().filter(|name| **name != target.node);
        let mut copies = vec![];
        let nodes = match target.replicate.is_empty() {
            true => return Ok(copies),
            false => self.nodes().await,
        };
        let doing = |name: &str| format!("looking whether templates can be copied to {name}");
        let nodes = nodes.map_err(|failure| failure.during("looking at the nodes"))?;
        for name in wanted {
            let server = self.on(name);
            match nodes.iter().find(|node| node.name == *name) {
                None => {
                    let names = nodes.iter().map(|node| node.name.as_str());
                    return Err(Error::new(doing(name))
                        .cause("there is no such node")
                        .hint(crate::text::suggest(name, names)));
                }
                Some(node) if !node.is_online => {
                    return Err(Error::new(doing(name))
                        .cause("it is offline")
                        .hint("wait for it, or take it out of `replicate`"));
                }
                Some(_) => {}
            }
            let as_wished = server.with(wish);
            let why = as_wished.unfit(wish.extras.as_ref()).await;
            if !why.is_empty() {
                return Err(Error::new(doing(name)).cause(why.join("; ")));
            }
            let images = as_wished.target.images.as_deref().unwrap_or_default();
            let shared = server.is_shared(images).await;
            match shared.map_err(|failure| failure.during(doing(name)))? {
                true => tell(&format!(
                    "{name} sees the disks in {images}, so it gets no copy"
                )),
                false => copies.push(server),
            }
        }
        Ok(copies)
    }
}

/// A target as the builds of one command share it.
pub struct Cluster {
    server: Proxmox,
    slots: Slots,
}

/// What one build wants of a node.
#[derive(Debug, Default)]
pub struct Wish {
    /// The tags of layers that it could go on from, with how many of its steps are in each.
    pub layers: Vec<(String, usize)>,
    /// Bytes of memory.
    pub memory: u64,
    /// The storage of its disks, if that is not the target's.
    pub images: Option<String>,
    /// The bridge of its machines, if that is not the target's.
    pub bridge: Option<String>,
    /// What its template has besides.
    pub extras: Option<Extras>,
    /// The nodes that have the template that it begins from, if it begins from one.
    pub nodes: Option<Vec<String>>,
}

/// One build's place on a node.
pub struct Seat<'c> {
    /// The target on this node.
    pub server: Proxmox,
    _slot: Slot<'c>,
}

impl Cluster {
    /// Nothing is asked of the server yet.
    pub fn new(server: Proxmox) -> Self {
        Cluster {
            server,
            slots: Slots::default(),
        }
    }

    /// The target, on no node in particular.
    pub fn server(&self) -> &Proxmox {
        &self.server
    }

    /// A place on the best node that has one free, which may have to be waited for.
    ///
    /// Errors: no node can be used, with why for each.
    pub async fn seat(&self, wish: &Wish, tell: impl Fn(&str)) -> Result<Seat<'_>> {
        let limit = self.server.target.builds_per_node;
        let mut has_waited = false;
        loop {
            // Before they are looked at: one may be given back meanwhile.
            let freed = self.slots.freed();
            let all = self.candidates(wish).await;
            let mut all = all.map_err(|failure| failure.during("choosing a node"))?;
            for node in &mut all {
                let taken = self.slots.of(&node.name);
                (node.builds, node.promised) = (taken.builds, taken.memory);
            }
            match choose(&all, limit) {
                Choice::Node(node) => {
                    self.tell(node, &all, &tell);
                    return Ok(Seat {
                        server: self.server.on(&node.name),
                        _slot: self.slots.take(&node.name, wish.memory),
                    });
                }
                Choice::Nowhere => return Err(nowhere(&all)),
                Choice::Wait if !has_waited => {
                    has_waited = true;
                    tell(&format!(
                        "waiting for a node: {limit} builds of this command are on each"
                    ));
                }
                Choice::Wait => {}
            }
            freed.await;
        }
    }

    /// Tells which node was chosen, and which could not be looked at: that may be by mistake.
    fn tell(&self, chosen: &Candidate, all: &[Candidate], tell: impl Fn(&str)) {
        if !self.server.target.is_auto {
            return;
        }
        for node in all.iter().filter(|node| !node.unfit.is_empty()) {
            tell(&format!(
                "{} is not used: {}",
                node.name,
                node.unfit.join("; ")
            ));
        }
        tell(&format!("building on {}", chosen.name));
    }

    /// What is known of each node. The one that the project names is taken as it is.
    async fn candidates(&self, wish: &Wish) -> Result<Vec<Candidate>, Failure> {
        let server = &self.server;
        if !server.target.is_auto {
            return Ok(vec![Candidate {
                name: server.target.node.clone(),
                ..Candidate::default()
            }]);
        }
        let nodes = server.nodes().await?;
        let all = nodes.iter().map(|node| self.candidate(node, wish));
        Ok(join_all(all).await)
    }

    async fn candidate(&self, node: &Node, wish: &Wish) -> Candidate {
        let mut found = Candidate {
            name: node.name.clone(),
            memory: node.memory.unwrap_or_default(),
            ..Candidate::default()
        };
        if !node.is_online {
            found.unfit.push("it is offline".into());
            return found;
        }
        let nodes = wish.nodes.as_ref();
        if nodes.is_some_and(|nodes| !nodes.contains(&node.name)) {
            let why = "it does not have the template that is built on";
            found.unfit.push(why.into());
            return found;
        }
        if node.memory.is_none() {
            let (privilege, path) = ("Sys.Audit", format!("/nodes/{}", node.name));
            let grant = privilege::grant(privilege, &path, self.server.client.identity());
            found.unfit.push(format!(
                "it does not tell how much memory is free without {privilege} on {path}; {grant}"
            ));
        }
        let server = self.server.on(&node.name).with(wish);
        found.unfit.extend(server.unfit(wish.extras.as_ref()).await);
        if found.unfit.is_empty() && !wish.layers.is_empty() {
            match server.machines().await {
                Ok(machines) => {
                    let has = |tag: &str| machines.iter().any(|it| it.is_template && it.has(tag));
                    let there = wish.layers.iter().filter(|(tag, _)| has(tag));
                    found.steps = there.map(|(_, steps)| *steps).max().unwrap_or_default();
                }
                Err(failure) => found.unfit.push(failure.to_string()),
            }
        }
        found
    }
}

fn nowhere(all: &[Candidate]) -> Error {
    let why = all
        .iter()
        .map(|node| format!("{}: {}", node.name, node.unfit.join("; ")));
    Error::new("choosing a node")
        .cause("none can be used")
        .detail("the nodes, and why not", why.collect::<Vec<_>>().join("\n"))
        .hint("`imgbuild doctor --target NAME` looks at each")
}

impl Proxmox {
    /// The target on the node that a build which wants this would go to now; the one that the project names, if it names one.
    pub async fn chosen(&self, wish: &Wish, tell: impl Fn(&str)) -> Result<Proxmox> {
        let cluster = Cluster::new(self.on(&self.target.node));
        let seat = cluster.seat(wish, tell).await?;
        Ok(seat.server)
    }
}
