//! What imports and machines may leave on a server, as the journal knows it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::{self, Asked};
use super::task::Upid;
use super::{Proxmox, Target};
use crate::error::{Error, Kind, Result};
use crate::run::Resource;

/// How often removing is tried: whatever is left is in somebody's way.
const ATTEMPTS: u32 = 3;

/// The pause before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Something on a server that must not outlive the work that it was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Leftover {
    pub place: Place,
    pub what: What,
}

/// Where on which server. The project file may mean another one by the target's name when it is read again; the node is the
/// one that the thing was made on, whichever the project names or a build would choose by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Place {
    pub endpoint: String,
    pub node: String,
    pub storage: String,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A task. One that downloads an image gives it its name when it is whole, so nothing else is left of it.
    Task { upid: Upid },
    /// A task that copies a file that was sent, of this many bytes, to its name. The name is the image's digest, so others may
    /// do the same.
    Copy { upid: Upid, file: String, size: u64 },
    /// The seed of a machine, or a part of it. Its name has the build's id, so nobody else writes it.
    Seed { file: String },
    /// A machine, if this build is the one that has made it.
    Machine {
        vmid: u32,
        build: String,
        /// When it was asked for, see [`Asked::at`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<i64>,
    },
    /// A template that this build has made, unless it is published: then there is this file.
    Template {
        vmid: u32,
        build: String,
        published: PathBuf,
    },
}

impl Place {
    /// Where such a thing is on a target.
    fn of(what: &What, target: &Target) -> Self {
        let storage = match what {
            What::Task { .. } | What::Copy { .. } => Some(&target.import),
            What::Seed { .. } => target.iso.as_ref(),
            What::Machine { .. } | What::Template { .. } => target.images.as_ref(),
        };
        Place {
            endpoint: target.endpoint.to_string(),
            node: target.node.clone(),
            storage: storage.cloned().unwrap_or_default(),
        }
    }
}

impl Proxmox {
    /// Something on the target, as the journal knows it.
    pub fn leftover(&self, what: What) -> Resource {
        Resource::Remote {
            project: self.target.project.clone(),
            target: self.target.name.clone(),
            leftover: Leftover {
                place: Place::of(&what, &self.target),
                what,
            },
        }
    }
}

impl Leftover {
    /// Removes it, wherever in the cluster it is by now. What was never made, is gone already, or has become a whole image,
    /// which every build shares, is success.
    pub async fn remove(&self, server: &Proxmox) -> Result<()> {
        let server = &server.on(&self.place.node);
        let now = Place::of(&self.what, &server.target);
        if now != self.place {
            return Err(Error::new(format!("removing {self}"))
                .kind(Kind::Conflict)
                .cause(format!(
                    "by {} the project means {now} today",
                    server.target.name
                ))
                .hint("remove it by hand, then delete the folder of the build that left it"));
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.try_to_remove(server).await {
                // What somebody else is doing takes longer than another attempt.
                Err(error) if attempt < ATTEMPTS && error.get_kind() != Kind::Conflict => {
                    tracing::debug!("{error}; trying again");
                }
                done => return done,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_to_remove(&self, server: &Proxmox) -> Result<()> {
        match &self.what {
            What::Task { upid } => server.abort(upid).await,
            What::Copy { upid, file, size } => server.undo_copying(upid, file, *size).await,
            What::Seed { file } => {
                // A build that was killed may not have known its task yet.
                server.abort_copying(file).await?;
                let storage = &self.place.storage;
                let volume = format!("{storage}:iso/{file}");
                server.remove_volume(storage, "iso", &volume).await
            }
            What::Machine { vmid, build, asked } => {
                let (vmid, at) = (*vmid, *asked);
                machine::remove(server, &Asked { vmid, build, at }).await
            }
            What::Template { published, .. } if published.exists() => Ok(()),
            What::Template { vmid, build, .. } => {
                let (vmid, at) = (*vmid, None);
                machine::remove(server, &Asked { vmid, build, at }).await
            }
        }
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Leftover { place, what } = self;
        match what {
            What::Task { upid } => write!(f, "the task {upid} on {}", place.endpoint),
            What::Copy { upid, file, .. } => {
                write!(f, "the upload of {file} to {place} by the task {upid}")
            }
            What::Seed { file } => write!(f, "the seed {file} in {place}"),
            What::Machine { vmid, build, .. } | What::Template { vmid, build, .. } => write!(
                f,
                "the machine {vmid} of build {build} on {} of {}",
                place.node, place.endpoint
            ),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place {
            endpoint,
            node,
            storage,
        } = self;
        write!(f, "{storage} of {node} on {endpoint}")
    }
}
