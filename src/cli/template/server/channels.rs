//! Channels as tags: the template that a channel points to has a tag of its name.

use super::{channels_of, file, tags, versions};
use crate::backend::proxmox::machine::{Lease, Located, OURS, Survey};
use crate::backend::proxmox::{Proxmox, TEMPLATE};
use crate::error::{Error, Kind, Result};
use crate::record::{Place, TemplateFile};
use crate::store::registry::{Version, on_target};
use crate::store::{Dirs, Lock, Registry};
use crate::ui::Screen;

/// Refuses a channel whose tag would mean something else.
pub fn refuse_reserved(image: &str, channel: &str) -> Result<()> {
    let Some((target, name)) = on_target(image) else {
        return Ok(());
    };
    let number = channel.strip_prefix('v');
    let is_number = number.is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    if channel != name && !channel.starts_with(OURS) && !is_number {
        return Ok(());
    }
    Err(Error::new(format!("promoting to {image}@{channel}"))
        .kind(Kind::Usage)
        .cause(format!(
            "on {target} a channel is a tag, and the tag {channel} means something else there"
        ))
        .hint(format!(
            "call it neither {name}, nor v with a number, nor {OURS}…"
        )))
}

/// Makes the tags on the server what the registry says of an image's channels, whatever they were: a template gets a tag before
/// another one loses it, so that whoever looks for it finds one at any moment. All other tags stay.
///
/// Errors: the template that `moved` points to is not there; what the server says. The registry stays as it is.
pub async fn follow(
    server: &Proxmox,
    (registry, dirs): (&Registry, &Dirs),
    moved: (&Version, &str),
    screen: Screen,
) -> Result<()> {
    let (version, channel) = moved;
    let followed = agree(server, (registry, dirs), (&version.image, None), screen).await;
    followed.map_err(|error| untold(server, error, version, channel))
}

/// Takes the tag of a channel, which the registry is about to remove, off all templates of an image.
///
/// Errors: what the server says.
pub async fn take_off(
    server: &Proxmox,
    (registry, dirs): (&Registry, &Dirs),
    (image, channel): (&str, &str),
    screen: Screen,
) -> Result<()> {
    agree(server, (registry, dirs), (image, Some(channel)), screen).await
}

/// That the registry has what the server has not, and what to do.
fn untold(server: &Proxmox, error: Error, version: &Version, channel: &str) -> Error {
    let (image, name, target) = (&version.image, version.name(), &server.target.name);
    let again = format!(
        "in the registry {image}@{channel} is {name}, on {target} it is not yet; `imgbuild template promote {name} {channel}` makes \
         them agree"
    );
    let hint = match error.get_hint() {
        Some(hint) => format!("{hint}. Then: {again}"),
        None => again,
    };
    Error::new(format!("moving the tag {channel} on {target}"))
        .kind(error.get_kind())
        .cause(&error)
        .hint(hint)
}

/// A template that is there, and what is to be different about its tags.
struct Change<'f> {
    place: Place<'f>,
    add: Vec<String>,
    remove: Vec<String>,
}

async fn agree(
    server: &Proxmox,
    (registry, dirs): (&Registry, &Dirs),
    (image, gone): (&str, Option<&str>),
    screen: Screen,
) -> Result<()> {
    // Of two commands the one that comes last reads what the other has decided as well.
    let lock = format!("channels-{}", image.replace('/', "-"));
    let _lock = Lock::acquire(dirs.locks().join(lock)).await?;
    let mut versions = versions(registry, |other| other == image)?;
    for version in &mut versions {
        version
            .channels
            .retain(|channel| Some(channel.as_str()) != gone);
    }
    let survey = server.survey().await;
    let survey = survey.map_err(|failure| failure.during("looking for the templates"))?;
    let files = files(server, &versions, screen)?;
    let changes = changes(server, (&versions, &files), gone, &survey, screen).await?;
    for change in changes.iter().filter(|change| !change.add.is_empty()) {
        server.change_tags(&change.place, &change.add, &[]).await?;
    }
    for change in changes.iter().filter(|change| !change.remove.is_empty()) {
        let remove = &change.remove;
        server.change_tags(&change.place, &[], remove).await?;
    }
    tell_strangers(image, &versions, &survey, screen);
    Ok(())
}

/// What is written down of the templates of versions. Those of which it cannot be read are told.
///
/// Errors: that is so of a version which a channel points to.
fn files<'v>(
    server: &Proxmox,
    versions: &'v [Version],
    screen: Screen,
) -> Result<Vec<(&'v Version, TemplateFile)>> {
    let mut files = vec![];
    for version in versions {
        match file(server, version) {
            Ok(file) => files.push((version, file)),
            Err(error) if !version.channels.is_empty() => return Err(error),
            Err(error) => screen.note(&format!("{}: {error}", version.name())),
        }
    }
    Ok(files)
}

/// What is to be different, for each template of an image that can be reached. What cannot is told: a copy, or an older
/// version, is no reason to leave a channel where it was.
///
/// Errors: the template itself of a version which a channel points to is not there ([`Kind::Conflict`]).
async fn changes<'f>(
    server: &Proxmox,
    (versions, files): (&[Version], &'f [(&Version, TemplateFile)]),
    gone: Option<&str>,
    survey: &Survey,
    screen: Screen,
) -> Result<Vec<Change<'f>>> {
    let mut changes = vec![];
    for (version, file) in files {
        let (_, mut others) = tags(version, versions);
        others.extend(gone.map(str::to_owned));
        for place in file.places() {
            let located = survey.find(&place);
            let Located::Here(listed) = located else {
                let has_channel = !version.channels.is_empty();
                // One that is not there has no tags either.
                if has_channel || located == Located::Offline {
                    let missing = missing(server, version, &place, survey).await?;
                    if has_channel && !place.is_replica() {
                        return Err(missing);
                    }
                    screen.note(&format!("{missing}; its tags are left as they are"));
                }
                continue;
            };
            let lacks = |channel: &&String| !listed.has(channel);
            let extra = others.iter().filter(|tag| listed.has(tag));
            changes.push(Change {
                place,
                add: version.channels.iter().filter(lacks).cloned().collect(),
                remove: extra.cloned().collect(),
            });
        }
    }
    Ok(changes)
}

/// Why a channel cannot point to a version's template.
///
/// Errors: it may be there, and only not be seen.
async fn missing(
    server: &Proxmox,
    version: &Version,
    place: &Place<'_>,
    survey: &Survey,
) -> Result<Error> {
    if survey.find(place) == Located::Gone {
        server.confirm_gone(place).await?;
    }
    let drift = survey.drift(place, &[], &[]).into_iter();
    let drift: Vec<_> = drift.map(|drift| drift.of(place)).collect();
    Ok(
        Error::new(format!("looking for the template of {}", version.name()))
            .kind(Kind::Conflict)
            .cause(drift.join("; "))
            .hint(format!(
                "`imgbuild template rollback {}@CHANNEL` goes back to an earlier version",
                version.image
            )),
    )
}

/// Tells which templates have a channel's tag as well, but are versions in somebody else's registry.
fn tell_strangers(image: &str, versions: &[Version], survey: &Survey, screen: Screen) {
    let name = on_target(image).map_or(image, |(_, name)| name);
    let builds = versions.iter().map(|version| Lease::tag(&version.build));
    let builds: Vec<_> = builds.collect();
    let strangers = survey.here.iter().filter(|listed| {
        let is_known = builds.iter().any(|build| listed.has(build));
        listed.is_template && listed.has(TEMPLATE) && listed.has(name) && !is_known
    });
    for listed in strangers {
        let channels = channels_of(image, versions).into_iter();
        for channel in channels.filter(|channel| listed.has(channel)) {
            screen.note(&format!(
                "{} ({}), which this registry does not know, has the tag {channel} as well",
                listed.vmid, listed.name
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_on_a_target_is_no_tag_that_means_something_else() {
        for channel in ["web", "v3", "v", "imgbuild", "imgbuild-template"] {
            assert!(refuse_reserved("lab/web", channel).is_err(), "{channel}");
            assert!(refuse_reserved("web", channel).is_ok(), "{channel}");
        }
        for channel in ["stable", "vnext", "v3-rc", "webs"] {
            assert!(refuse_reserved("lab/web", channel).is_ok(), "{channel}");
        }
    }
}
