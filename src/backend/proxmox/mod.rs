//! Proxmox VE, over its HTTP API alone: a client, tasks, and the base images that are kept on a node.

mod call;
pub mod check;
mod client;
mod cluster;
mod console;
mod copy;
mod credentials;
mod error;
mod image;
mod import;
mod layer;
pub mod leftover;
pub mod machine;
mod number;
mod privilege;
mod storage;
mod task;
mod tls;
mod upload;
mod volume;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use reqwest::Url;

use crate::error::Result;
use crate::run::Events;
use call::Path;
use client::Client;
pub use cluster::{Cluster, Everywhere, Seat, Wish};
pub use credentials::Credentials;
pub use error::Failure;
pub use image::{StoredImage, image_of};
pub use import::{Brought, Identified, identify, import};
pub use layer::{LIMIT as LAYERS, LayerNote, LayerTags};
pub use tls::{Fingerprint, Trust};

/// What is used of a server. Names are safe in a path.
#[derive(Debug, Clone)]
pub struct Target {
    /// What the project calls it.
    pub name: String,
    /// The project file that says so.
    pub project: PathBuf,
    /// The server, without the API's path.
    pub endpoint: Url,
    /// The node that is worked on; [`AUTO`] as long as one is still to be chosen.
    pub node: String,
    /// Whether a node is chosen for each build.
    pub is_auto: bool,
    /// How many builds one command has on a node at the same time.
    pub builds_per_node: u32,
    /// The nodes that finished templates are copied to.
    pub replicate: Vec<String>,
    pub trust: Trust,
    /// The storage for base images.
    pub import: String,
    /// The storage for the disks of machines.
    pub images: Option<String>,
    /// The storage for the seed volumes of machines.
    pub iso: Option<String>,
    /// The bridge that machines are connected to.
    pub bridge: Option<String>,
    /// The ids that machines get.
    pub vmids: Option<RangeInclusive<u32>>,
    /// How many layers there may be.
    pub layers: u32,
}

impl Target {
    /// Whether its templates may be on more than one node.
    pub fn has_several_nodes(&self) -> bool {
        self.is_auto || self.replicate.iter().any(|name| *name != self.node)
    }
}

#[cfg(test)]
impl Target {
    /// The node `pve` of a server, with all that machines need.
    pub(crate) fn for_tests(endpoint: &str, trust: Trust) -> Self {
        Target {
            name: "lab".into(),
            project: "/p/imgbuild.toml".into(),
            endpoint: self::endpoint(endpoint).unwrap(),
            node: "pve".into(),
            is_auto: false,
            builds_per_node: 1,
            replicate: vec![],
            trust,
            import: "local".into(),
            images: Some("local".into()),
            iso: Some("local".into()),
            bridge: Some("vmbr0".into()),
            vmids: Some(9000..=9009),
            layers: 0,
        }
    }
}

#[cfg(test)]
impl Proxmox {
    /// [`Target::for_tests`] on a test server.
    pub(crate) fn of_lab(lab: &pve_lab::Server) -> Self {
        let trust = Trust::Fingerprint(lab.fingerprint().parse().unwrap());
        let target = Target::for_tests(&lab.url(), trust);
        let token = format!("{}={}", pve_lab::TOKEN, pve_lab::SECRET);
        Proxmox::new(target, Credentials::token(&token.into()).unwrap()).unwrap()
    }
}

/// What stands in the place of a node that is chosen for each build.
pub const AUTO: &str = "auto";

/// How many builds one command has on a node at the same time, if the project does not say.
pub const BUILDS_PER_NODE: u32 = 2;

/// What all finished templates are tagged with.
pub const TEMPLATE: &str = "imgbuild-template";

/// What the copies under fixed ids are tagged with instead.
pub const COPY: &str = "imgbuild-copy";

/// What copies of finished templates on other nodes are tagged with besides.
pub const REPLICA: &str = "imgbuild-replica";

/// A target and a client for it.
pub struct Proxmox {
    pub target: Target,
    client: Arc<Client>,
    /// The ids of machines that this process has, or is about to have, on whichever node.
    held: Arc<Mutex<BTreeSet<u32>>>,
}

impl Proxmox {
    /// Nothing is asked of the server yet.
    pub fn new(target: Target, credentials: Credentials) -> Result<Self> {
        Ok(Proxmox {
            client: Arc::new(Client::new(
                target.endpoint.clone(),
                &target.trust,
                credentials,
            )?),
            held: Arc::default(),
            target,
        })
    }

    /// The same on another node of the cluster.
    pub fn on(&self, node: &str) -> Proxmox {
        Proxmox {
            target: Target {
                node: node.to_owned(),
                ..self.target.clone()
            },
            client: self.client.clone(),
            held: self.held.clone(),
        }
    }

    /// Masks the login in what is told from now on.
    pub fn mask_login(&self, events: &Events) {
        self.client.mask(events);
    }

    /// A path below that of the target's node.
    fn node_path(&self, rest: &[&str]) -> Path {
        Path::new(["nodes", self.target.node.as_str()]).join(rest)
    }
}

/// Reads an endpoint: `https://HOST:PORT`, where the API's own path may follow, as other tools want it.
pub fn endpoint(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("it is no address: {error}"))?;
    if url.scheme() != "https" {
        return Err(
            "an endpoint is an https address: a login must not go over the network in clear".into(),
        );
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an endpoint holds no user and no password".into());
    }
    let path = url.path().trim_end_matches('/');
    if !matches!(path, "" | "/api2/json" | "/api2") || url.query().is_some() {
        return Err(format!(
            "`{path}` behind the host is no part of an endpoint"
        ));
    }
    url.set_path("/");
    url.set_fragment(None);
    Ok(url)
}
