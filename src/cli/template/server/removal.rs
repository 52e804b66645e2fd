//! Removing the templates of versions. They go before the registry's rows: what is left after a crash is then known, and the
//! same command completes it.

use std::collections::BTreeMap;

use super::{file, of};
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::machine::{Fate, Removal};
use crate::error::{Error, Kind, Result};
use crate::record::TemplateFile;
use crate::store::registry::{Pruned, Use, Version, needed, on_target};
use crate::ui::Screen;

/// Removes the template of a version, with its copies.
///
/// Errors: linked clones need one of them ([`Kind::Conflict`]).
pub async fn remove(version: &Version, screen: Screen) -> Result<()> {
    let Some(server) = of(&version.image).await? else {
        return Ok(());
    };
    let uses = remove_on(&server, version, screen).await?;
    match uses.is_empty() {
        true => Ok(()),
        false => Err(needed(version, &uses).hint(
            "nothing was changed. Remove these machines, or move their disks, which makes them whole",
        )),
    }
}

/// Removes the templates of those versions that are to go and are on targets. Those that cannot go are told apart.
pub async fn remove_all(chosen: &mut Pruned, screen: Screen) {
    let mut servers: BTreeMap<String, Proxmox> = BTreeMap::new();
    for version in std::mem::take(&mut chosen.removed) {
        match remove_one(&version, &mut servers, screen).await {
            Ok(uses) if uses.is_empty() => chosen.removed.push(version),
            Ok(uses) => chosen.needed.push((version, uses)),
            Err(error) => chosen.left.push((version, error)),
        }
    }
}

async fn remove_one(
    version: &Version,
    servers: &mut BTreeMap<String, Proxmox>,
    screen: Screen,
) -> Result<Vec<Use>> {
    let Some((target, _)) = on_target(&version.image) else {
        return Ok(vec![]);
    };
    if !servers.contains_key(target) {
        servers.extend(
            of(&version.image)
                .await?
                .map(|server| (target.to_owned(), server)),
        );
    }
    match servers.get(target) {
        Some(server) => remove_on(server, version, screen).await,
        None => Ok(vec![]),
    }
}

/// Removes the template of a version, unless machines need it: then these are returned.
async fn remove_on(server: &Proxmox, version: &Version, screen: Screen) -> Result<Vec<Use>> {
    let name = version.name();
    if !version.path.exists() {
        screen.note(&format!(
            "{} is gone, so nobody knows which template {name} was; if it is still there, `imgbuild template list --target {}` \
             lists it",
            version.path.display(),
            server.target.name
        ));
        return Ok(vec![]);
    }
    let file = file(server, version)?;
    refuse_other(&file, version)?;
    let fates = match server.remove_published(&file).await? {
        Removal::Done(fates) => fates,
        Removal::InUse(clones) if clones.is_empty() => {
            let unseen = "a machine that this login may not see";
            return Ok(vec![Use::Clone(unseen.into())]);
        }
        Removal::InUse(clones) => return Ok(clones.into_iter().map(Use::Clone).collect()),
    };
    for (place, fate) in fates {
        let vmid = place.vmid;
        match fate {
            Fate::Removed => {}
            Fate::Gone => screen.note(&format!("the template {vmid} of {name} was gone already")),
            Fate::Replaced(other) => screen.note(&format!(
                "{vmid} is {other} now, which has not the tag of the build of {name}: it stays"
            )),
        }
    }
    Ok(vec![])
}

/// A file that was put in the place of another one names another template.
fn refuse_other(file: &TemplateFile, version: &Version) -> Result<()> {
    match file.build == version.build {
        true => Ok(()),
        false => Err(Error::new(format!("removing {}", version.name()))
            .kind(Kind::Conflict)
            .cause(format!(
                "{} is of build {}, the version of build {}",
                version.path.display(),
                file.build,
                version.build
            ))
            .hint("put the right file back, or remove this one: then only the registry forgets the version")),
    }
}
