//! What an import may leave on a server, as the journal knows it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::task::Upid;
use super::{Proxmox, Target};
use crate::error::{Error, Kind, Result};
use crate::run::Resource;

/// Something on a server that must not outlive the work that it was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Leftover {
    pub place: Place,
    pub what: What,
}

/// Where on which server. The project file may mean another one by the target's name when it is read again.
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
    /// A download that was asked for, whose task is not known yet. What it leaves under this name is whole: the server renames
    /// it when its digest is right.
    Download { file: String },
    /// A task.
    Task { upid: Upid },
    /// A file that is sent. It is copied under its name, so one of another size is half of it.
    Upload { file: String, size: u64 },
}

impl Place {
    /// That of a target.
    pub fn of(target: &Target) -> Self {
        Place {
            endpoint: target.endpoint.to_string(),
            node: target.node.clone(),
            storage: target.import.clone(),
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
                place: Place::of(&self.target),
                what,
            },
        }
    }
}

impl Leftover {
    /// Removes it. What was never made, is gone already, or has become a whole image, which every build shares, is success.
    pub async fn remove(&self, server: &Proxmox) -> Result<()> {
        let now = Place::of(&server.target);
        if now != self.place {
            return Err(Error::new(format!("removing {self}"))
                .kind(Kind::Conflict)
                .cause(format!(
                    "by {} the project means {now} today",
                    server.target.name
                ))
                .hint("remove it by hand, then delete the folder of the build that left it"));
        }
        match &self.what {
            What::Task { upid } => server.abort(upid).await,
            What::Download { file } => self.abort_downloads(file, server).await,
            What::Upload { file, size } => {
                let doing = || format!("removing {self}");
                let found = server.image(file).await;
                match found.map_err(|failure| failure.during(doing()))? {
                    Some(image) if image.size != *size => server.remove_image(&image).await,
                    _ => Ok(()),
                }
            }
        }
    }

    async fn abort_downloads(&self, file: &str, server: &Proxmox) -> Result<()> {
        let tasks = server.tasks("download").await;
        let tasks = tasks.map_err(|failure| failure.during(format!("removing {self}")))?;
        for upid in tasks.iter().filter(|upid| upid.about() == file) {
            server.abort(upid).await?;
        }
        Ok(())
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Leftover { place, what } = self;
        match what {
            What::Download { file } => write!(f, "the download of {file} to {place}"),
            What::Task { upid } => write!(f, "the task {upid} on {}", place.endpoint),
            What::Upload { file, .. } => write!(f, "the upload of {file} to {place}"),
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
