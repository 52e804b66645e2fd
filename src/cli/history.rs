//! `imgbuild history`.

use clap::Args;
use serde_json::json;

use crate::error::Result;
use crate::store::registry::{Action, Event};
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Only of this image
    image: Option<String>,
}

/// Tells what was done to versions and channels, the oldest first.
pub fn run(arguments: &Arguments, screen: Screen) -> Result<()> {
    let registry = super::template::open(screen)?;
    let events = registry.history(arguments.image.as_deref())?;
    let text: String = events.iter().map(line).collect();
    let text = match events.is_empty() {
        true => "nothing was done yet\n".to_owned(),
        false => text,
    };
    screen.result(&text, &json!({"event": "result", "history": events}));
    Ok(())
}

fn line(event: &Event) -> String {
    let at = event.at.strftime("%Y-%m-%d %H:%M:%S");
    let channel = event.channel.as_deref().unwrap_or_default();
    let was = event.previous;
    let was = was.map_or(String::new(), |was| format!(" (was {was})"));
    let done = match event.action {
        Action::Built => "built".to_owned(),
        Action::Promoted => format!("promoted to {channel}{was}"),
        Action::RolledBack => format!("{channel} rolled back to it{was}"),
        Action::Unpromoted => format!("{channel} removed, which pointed to it"),
        Action::Revoked => "revoked".to_owned(),
        Action::Restored => "restored".to_owned(),
        Action::Removed => "removed".to_owned(),
    };
    let reason = event.reason.as_ref();
    let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
    format!(
        "{at}  {}  {}@{}  {done}{reason}\n",
        event.who, event.image, event.number
    )
}
