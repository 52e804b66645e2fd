//! `imgbuild status --target`: what imgbuild has on a server, by what the server says.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::{target, template};
use crate::backend::proxmox::machine::{Found, Survey};
use crate::backend::proxmox::{Everywhere, Failure, LayerNote, Proxmox, StoredImage};
use crate::error::Result;
use crate::run::Interrupt;
use crate::ui::{Screen, ago, bytes};

#[derive(Debug, Args)]
pub struct Arguments {
    /// A target of imgbuild.toml
    #[arg(long, value_name = "NAME")]
    target: String,
}

/// Tells what is there, and changes nothing.
pub async fn run(arguments: &Arguments, screen: Screen, interrupt: &Interrupt) -> Result<()> {
    let server = interrupt.or(target::connect(&arguments.target)).await?;
    let everywhere = target::all_nodes_of(&server, screen);
    let everywhere = interrupt.or(everywhere).await?;
    let registry = template::open(screen)?;
    let status = interrupt.or(Status::of(&server, &everywhere)).await?;
    let templates = template::server::all(&server, &registry, &status.survey);
    let templates = interrupt.or(templates).await?;
    let templates = template::server::told(&server, &templates);
    screen.result_of(
        || status.text(&templates.0),
        || status.value(&server.target.name, &templates.1),
    );
    Ok(())
}

/// What a server has besides templates.
struct Status {
    survey: Survey,
    layers: Vec<Layer>,
    of_builds: Vec<Found>,
    images: Vec<(Node, StoredImage)>,
    spaces: Vec<Space>,
}

struct Layer {
    node: Node,
    vmid: u32,
    used: jiff::Timestamp,
    note: Option<LayerNote>,
}

/// The node that something is on, which is told where there are several.
#[derive(Clone)]
struct Node {
    name: String,
    is_told: bool,
}

impl Node {
    fn of(server: &Proxmox) -> Self {
        Node {
            name: server.target.node.clone(),
            is_told: server.target.is_auto,
        }
    }

    /// For the end of a line.
    fn told(&self) -> String {
        match self.is_told {
            true => format!(", on {}", self.name),
            false => String::new(),
        }
    }
}

/// A storage that the target names.
struct Space {
    /// None for one that all nodes share.
    node: Option<Node>,
    name: String,
    /// What it is for.
    roles: Vec<&'static str>,
    /// Free bytes, and bytes in all; none if it is not there.
    bytes: Option<(u64, u64)>,
}

impl Status {
    async fn of(server: &Proxmox, everywhere: &Everywhere) -> Result<Self> {
        let doing = format!("looking at {}", server.target.name);
        let asked = async {
            let (mut layers, mut images, mut spaces) = (vec![], vec![], vec![]);
            for server in &everywhere.servers {
                let node = Node::of(server);
                for (vmid, used) in server.layers().await? {
                    let note = server.layer_note(vmid).await?;
                    let node = node.clone();
                    layers.push(Layer {
                        node,
                        vmid,
                        used,
                        note,
                    });
                }
                add_spaces(server, &mut spaces).await?;
            }
            for server in everywhere.seeing(|target| Some(&target.import)).await? {
                let images_there = server.images().await?.into_iter();
                images.extend(images_there.map(|image| (Node::of(server), image)));
            }
            Ok(Status {
                survey: server.survey().await?,
                layers,
                of_builds: everywhere.of_builds().await?,
                images,
                spaces,
            })
        };
        let asked: Result<Status, Failure> = asked.await;
        asked.map_err(|failure| failure.during(doing))
    }

    fn text(&self, templates: &str) -> String {
        let mut text = String::new();
        let mut section = |title: &str, lines: String| {
            let lines = match lines.is_empty() {
                true => "none\n".to_owned(),
                false => lines,
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{title}");
            for line in lines.lines() {
                let _ = writeln!(text, "  {line}");
            }
        };
        section("templates", templates.to_owned());
        section("layers", self.layers.iter().map(Layer::line).collect());
        let of_builds = self.of_builds.iter().map(|found| {
            let until = found.lease.until.strftime("%F %R UTC");
            format!("{}, until {until}\n", found.resource)
        });
        section("machines and seeds of builds", of_builds.collect());
        let images = self.images.iter().map(|(node, image)| {
            format!(
                "{}  {:>10}  {}{}\n",
                image.digest,
                bytes(image.size),
                image.volume,
                node.told()
            )
        });
        section("base images", images.collect());
        section("storages", self.spaces.iter().map(Space::line).collect());
        text
    }

    fn value(&self, target: &str, templates: &Value) -> Value {
        let of_builds = self.of_builds.iter().map(|found| {
            let lease = &found.lease;
            json!({"what": found.resource.to_string(), "build": lease.build, "until": lease.until})
        });
        let images = self.images.iter().map(|(node, image)| {
            json!({
                "node": node.name, "volume": image.volume, "digest": image.digest, "size": image.size,
            })
        });
        json!({
            "event": "result", "target": target, "templates": templates,
            "layers": self.layers.iter().map(Layer::value).collect::<Value>(),
            "of-builds": of_builds.collect::<Value>(), "images": images.collect::<Value>(),
            "storages": self.spaces.iter().map(Space::value).collect::<Value>(),
        })
    }
}

impl Layer {
    fn line(&self) -> String {
        let after = match &self.note {
            Some(note) => format!("after `{}` of {}", note.step, note.image),
            None => "of which nothing is known".to_owned(),
        };
        format!(
            "{:>5}  {after}, used {} ago{}\n",
            self.vmid,
            ago(self.used.into()),
            self.node.told()
        )
    }

    fn value(&self) -> Value {
        let note = self.note.as_ref();
        json!({
            "node": self.node.name, "vmid": self.vmid, "used": self.used, "image": note.map(|note| &note.image),
            "step": note.map(|note| &note.step), "created": note.map(|note| note.created),
            "expires": note.and_then(|note| note.expires),
        })
    }
}

impl Space {
    fn line(&self) -> String {
        let space = match self.bytes {
            Some((free, total)) => format!("{} of {} free", bytes(free), bytes(total)),
            None => "not there".to_owned(),
        };
        let on = self.node.as_ref().map(Node::told).unwrap_or_default();
        format!("{}  {space} ({}){on}\n", self.name, self.roles.join(", "))
    }

    fn value(&self) -> Value {
        let (free, total) = self.bytes.unzip();
        json!({
            "node": self.node.as_ref().map(|node| &node.name), "name": self.name, "for": self.roles, "free": free, "total": total,
        })
    }
}

/// Adds the target's storages on a node. One that nodes share is the same for all.
async fn add_spaces(server: &Proxmox, spaces: &mut Vec<Space>) -> Result<(), Failure> {
    let known = server.storages().await?;
    let there = spaces.len();
    for (name, role) in server.target.storages() {
        let storage = known.iter().find(|storage| storage.name == name);
        let is_shared = storage.is_some_and(|storage| storage.is_shared());
        let (others, own) = spaces.split_at_mut(there);
        if is_shared
            && others
                .iter()
                .any(|space| space.node.is_none() && space.name == name)
        {
            continue;
        }
        if let Some(space) = own.iter_mut().find(|space| space.name == name) {
            space.roles.push(role);
            continue;
        }
        let storage = storage.filter(|storage| storage.is_active());
        spaces.push(Space {
            node: (!is_shared).then(|| Node::of(server)),
            name: name.to_owned(),
            roles: vec![role],
            bytes: storage.and_then(|storage| storage.avail.zip(storage.total)),
        });
    }
    Ok(())
}
