//! `--target NAME`: which place that images go to is meant.

use crate::backend::proxmox::{Everywhere, Proxmox, Wish};
use crate::error::{Context, Result};
use crate::project::{Project, Target};
use crate::ui::Screen;

/// The target of this name in the current folder's project file.
pub fn find(name: &str) -> Result<Target> {
    let folder = std::env::current_dir().doing(|| "finding the current folder")?;
    Project::load(&folder)?.target(name)
}

/// A client for it. Where a node is chosen for each build, none is chosen yet.
pub async fn connect(name: &str) -> Result<Proxmox> {
    find(name)?.connect().await
}

/// A client for it on one node: the one that a build would go to now.
pub async fn on_one_node(name: &str, screen: Screen) -> Result<Proxmox> {
    let server = connect(name).await?;
    let tell = |text: &str| screen.note(text);
    server.chosen(&Wish::default(), tell).await
}

/// Clients for it on each of its nodes, of which there are several where one is chosen for each build. Those that cannot be
/// asked now are told.
pub async fn on_all_nodes(name: &str, screen: Screen) -> Result<Everywhere> {
    all_nodes_of(&connect(name).await?, screen).await
}

/// The same of a client for it.
pub async fn all_nodes_of(server: &Proxmox, screen: Screen) -> Result<Everywhere> {
    let name = &server.target.name;
    let everywhere = server.everywhere().await;
    let everywhere =
        everywhere.map_err(|failure| failure.during(format!("looking for the nodes of {name}")))?;
    for node in &everywhere.offline {
        screen.note(&format!("{node} is offline, and not looked at"));
    }
    Ok(everywhere)
}
