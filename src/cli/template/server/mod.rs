//! The part of `imgbuild template` that is about servers: versions on targets are templates there.
//!
//! The registry decides, and the server is made to agree with it.

mod channels;
mod list;
mod removal;

use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::machine::fixed_tags;
use crate::cli::target;
use crate::error::{Error, Kind, Result};
use crate::record::TemplateFile;
use crate::store::Registry;
use crate::store::registry::{State, Version, on_target};
pub use channels::{follow, refuse_reserved, take_off};
pub use list::{all, list, newest, told};
pub use removal::{remove, remove_all};

/// The server that an image is on; none for one on this machine. Nothing is asked of it yet.
///
/// Errors: the project file does not say which that is ([`Kind::Usage`]).
pub async fn of(image: &str) -> Result<Option<Proxmox>> {
    match on_target(image) {
        Some((name, _)) => target::connect(name).await.map(Some),
        None => Ok(None),
    }
}

/// What is written down of a version's template.
///
/// Errors: it was made on another server than the target of its name is today ([`Kind::Usage`]).
pub fn file(server: &Proxmox, version: &Version) -> Result<TemplateFile> {
    let file = TemplateFile::read(&version.path)?;
    match server.difference(&file) {
        None => Ok(file),
        Some(difference) => Err(
            Error::new(format!("finding the template of {}", version.name()))
                .kind(Kind::Usage)
                .cause(difference)
                .hint("use the imgbuild.toml that it was made with"),
        ),
    }
}

/// The versions of an image, or of all images on a target, that are there by the registry.
fn versions(registry: &Registry, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Version>> {
    let mut versions = registry.list(None)?;
    versions.retain(|version| version.state == State::Ready && is_wanted(&version.image));
    Ok(versions)
}

/// The channels of an image.
fn channels_of<'v>(image: &str, versions: &'v [Version]) -> Vec<&'v String> {
    let same = versions.iter().filter(|version| version.image == image);
    same.flat_map(|version| &version.channels).collect()
}

/// The tags that a version's template has by the registry, and those that are other versions'.
pub fn tags(version: &Version, versions: &[Version]) -> (Vec<String>, Vec<String>) {
    let name = on_target(&version.image).map_or(version.image.as_str(), |(_, name)| name);
    let label = version.label.as_deref();
    let mut wanted = fixed_tags(&version.build, name, version.number, label);
    wanted.extend(version.channels.iter().cloned());
    let all = channels_of(&version.image, versions).into_iter();
    let others = all.filter(|channel| !version.channels.contains(channel));
    (wanted, others.cloned().collect())
}
