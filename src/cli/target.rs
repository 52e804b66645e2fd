//! `--target NAME`: which place that images go to is meant.

use crate::backend::proxmox::Proxmox;
use crate::error::{Context, Result};
use crate::project::{Project, Target};

/// The target of this name in the current folder's project file.
pub fn find(name: &str) -> Result<Target> {
    let folder = std::env::current_dir().doing(|| "finding the current folder")?;
    Project::load(&folder)?.target(name)
}

/// A client for it.
pub async fn connect(name: &str) -> Result<Proxmox> {
    find(name)?.connect().await
}
