//! `imgbuild template`.

mod change;
mod diff;
mod list;
mod remove;
pub(super) mod server;
mod show;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::target;
use crate::error::Result;
use crate::record::TemplateFile;
use crate::run::Interrupt;
use crate::store::registry::{Reference, State, Version, Wanted, reference};
use crate::store::{Dirs, Registry};
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the versions of all images, or of one
    List {
        image: Option<String>,
        /// The templates that are on this target of imgbuild.toml, whoever built them
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
    },
    /// Show what is known of a version
    Show {
        /// `NAME` for the newest, `NAME@7`, `NAME@LABEL`, `NAME@CHANNEL`
        #[arg(value_name = "VERSION")]
        reference: Reference,
    },
    /// Tell what is different between two versions
    Diff {
        /// The older one
        old: Reference,
        /// The newer one
        new: Reference,
        /// Compare the files on their disks, too
        #[arg(long)]
        files: bool,
    },
    /// Make a channel point to a version
    Promote {
        /// The version
        #[arg(value_name = "VERSION")]
        reference: Reference,
        /// A name such as `stable`; it is made if there is none
        #[arg(value_parser = channel)]
        channel: String,
    },
    /// Make a channel point to what it pointed to before
    Rollback {
        /// `NAME@CHANNEL`
        #[arg(value_name = "CHANNEL", value_parser = of_channel)]
        channel: (String, String),
        /// Go back to this version instead of the one before
        #[arg(long, value_name = "VERSION")]
        to: Option<Wanted>,
    },
    /// Remove a channel; the version that it points to stays
    Unpromote {
        /// `NAME@CHANNEL`
        #[arg(value_name = "CHANNEL", value_parser = of_channel)]
        channel: (String, String),
    },
    /// Keep builds and channels from using a version
    Revoke {
        #[command(flatten)]
        scope: Scope,
        /// Why; whoever wants to use it is told
        #[arg(long)]
        reason: String,
    },
    /// Undo a revocation
    Restore {
        #[command(flatten)]
        scope: Scope,
    },
    /// Remove old versions that nothing needs
    Prune {
        /// Only of this image
        image: Option<String>,
        /// How many of the newest of each image stay in any case
        #[arg(long, value_name = "N")]
        keep: std::num::NonZeroUsize,
        /// Only tell what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove a version that nothing needs
    Rm {
        /// The version
        #[arg(value_name = "VERSION")]
        reference: Reference,
    },
}

/// Which versions are meant.
#[derive(Debug, Args)]
struct Scope {
    /// The version; with --since, the image
    #[arg(value_name = "VERSION")]
    reference: Reference,
    /// All versions that were built on this day (UTC) or at this time, or later
    #[arg(long, value_name = "DATE", value_parser = date)]
    since: Option<Timestamp>,
    /// What is built on them, too
    #[arg(long)]
    descendants: bool,
}

fn channel(text: &str) -> Result<String, String> {
    match reference::is_channel(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("a channel has lower-case letters, digits and `-`, and begins with a letter".into())
        }
    }
}

fn of_channel(text: &str) -> Result<(String, String), String> {
    let reference: Reference = text.parse()?;
    match reference.wanted {
        Wanted::Channel(channel) => Ok((reference.image, channel)),
        _ => Err("write it as NAME@CHANNEL".into()),
    }
}

fn date(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let day: jiff::civil::Date = text
        .parse()
        .map_err(|_| "write it as 2026-11-25, or with a time as 2026-11-25T08:00:00Z".to_owned())?;
    let midnight = day.to_zoned(jiff::tz::TimeZone::UTC);
    let midnight = midnight.map_err(|error| error.to_string())?;
    Ok(midnight.timestamp())
}

pub async fn run(arguments: &Arguments, screen: Screen, interrupt: &Interrupt) -> Result<()> {
    let dirs = Dirs::from_env()?;
    let mut registry = open(screen)?;
    match &arguments.action {
        Action::List {
            image,
            target: Some(target),
        } => {
            let list = async {
                let server = target::connect(target).await?;
                server::list(&server, &registry, image.as_deref(), screen).await
            };
            interrupt.or(list).await
        }
        Action::List { image, .. } => list::run(&registry, image.as_deref(), screen),
        Action::Show { reference } => show::run(&registry, reference, screen),
        Action::Diff { old, new, files } => {
            let compared = diff::run(&registry, (old, new), *files, screen);
            interrupt.or(compared).await
        }
        Action::Promote { reference, channel } => {
            let promote = change::promote(&mut registry, &dirs, (reference, channel), screen);
            interrupt.or(promote).await
        }
        Action::Rollback {
            channel: (image, channel),
            to,
        } => {
            let wanted = (image.as_str(), channel.as_str(), to.as_ref());
            let roll_back = change::roll_back(&mut registry, &dirs, wanted, screen);
            interrupt.or(roll_back).await
        }
        Action::Unpromote {
            channel: (image, channel),
        } => {
            let wanted = (image.as_str(), channel.as_str());
            let unpromote = change::unpromote(&mut registry, &dirs, wanted, screen);
            interrupt.or(unpromote).await
        }
        Action::Revoke { scope, reason } => {
            change::revoke(&mut registry, scope, Some(reason), screen)
        }
        Action::Restore { scope } => change::revoke(&mut registry, scope, None, screen),
        Action::Prune {
            image,
            keep,
            dry_run,
        } => {
            let image = image.as_deref();
            let prune = remove::prune(&mut registry, image, keep.get(), *dry_run, screen);
            interrupt.or(prune).await
        }
        Action::Rm { reference } => {
            let rm = remove::rm(&mut registry, reference, screen);
            interrupt.or(rm).await
        }
    }
}

/// Opens the registry, and tells what of earlier commands still could not be brought to an end.
pub(super) fn open(screen: Screen) -> Result<Registry> {
    let registry = Registry::open(&Dirs::from_env()?)?;
    for left in &registry.unfinished {
        screen.note(&format!("still to be done: {left}"));
    }
    Ok(registry)
}

/// What is written down of a version's template, if it is one.
fn template(version: &Version) -> Option<TemplateFile> {
    let is_one = TemplateFile::is(&version.path);
    is_one.then(|| TemplateFile::read(&version.path).ok())?
}

/// Bytes of a version: of its file, or of the disk on a server that the file stands for.
fn disk_size(version: &Version) -> u64 {
    template(version).map_or(version.size, |template| template.size)
}

/// A version for programs.
fn value(version: &Version) -> Value {
    let revoked = version.revoked.as_ref();
    json!({
        "name": version.name(), "image": version.image, "version": version.number, "label": version.label,
        "state": match version.state {
            State::Building => "building",
            State::Ready => "ready",
            State::Removing => "removing",
        },
        "there": version.is_there(), "channels": version.channels, "path": version.path,
        "created": version.created, "size": version.size, "sha256": version.sha256,
        "build": version.build, "parent": version.parent, "asked": version.asked,
        "template": template(version),
        "revoked": revoked.map(|revoked| json!({"at": revoked.at, "reason": revoked.reason})),
    })
}

fn values(versions: &[Version]) -> Value {
    versions.iter().map(value).collect()
}

fn names<'v>(versions: impl IntoIterator<Item = &'v Version>) -> String {
    let names: Vec<String> = versions.into_iter().map(Version::name).collect();
    names.join(", ")
}
