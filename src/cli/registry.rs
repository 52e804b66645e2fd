//! `imgbuild registry`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::Result;
use crate::store::Dirs;
use crate::store::registry::rebuild;
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the registry anew from the build records beside images, and from its history
    Rebuild {
        /// Folders with images, besides those where imgbuild has built something before
        folders: Vec<PathBuf>,
    },
}

pub fn run(arguments: &Arguments, screen: Screen) -> Result<()> {
    let Action::Rebuild { folders } = &arguments.action;
    let rebuilt = rebuild(&Dirs::from_env()?, folders)?;
    for left in &rebuilt.left_out {
        screen.note(&format!("left out {left}"));
    }
    if let Some(old) = &rebuilt.old {
        screen.note(&format!("the old registry is now {}", old.display()));
    }
    let text = format!(
        "{} versions found in {} folders; {} channels and {} revocations are as they were\n",
        rebuilt.versions,
        rebuilt.folders.len(),
        rebuilt.channels,
        rebuilt.revoked
    );
    let value = json!({
        "event": "result", "versions": rebuilt.versions, "channels": rebuilt.channels,
        "revoked": rebuilt.revoked, "folders": rebuilt.folders, "left-out": rebuilt.left_out,
        "old": rebuilt.old,
    });
    screen.result(&text, &value);
    Ok(())
}
