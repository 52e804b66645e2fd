//! `imgbuild template promote`, `rollback`, `unpromote`, `revoke` and `restore`.

use serde_json::json;

use super::{Scope, names, server, value, values};
use crate::error::{Error, Kind, Result};
use crate::store::registry::{self, Reference, Wanted};
use crate::store::{Dirs, Registry};
use crate::ui::Screen;

pub async fn promote(
    registry: &mut Registry,
    dirs: &Dirs,
    (reference, channel): (&Reference, &str),
    screen: Screen,
) -> Result<()> {
    server::refuse_reserved(&reference.image, channel)?;
    let server = server::of(&reference.image).await?;
    if let Some(server) = &server {
        server::file(server, &registry.find(reference)?)?;
    }
    let promoted = registry.promote(reference, channel)?;
    if let Some(server) = &server {
        let moved = (&promoted.version, channel);
        server::follow(server, (registry, dirs), moved, screen).await?;
    }
    let (image, name) = (&promoted.version.image, promoted.version.name());
    let was = match promoted.previous {
        _ if promoted.same => " already".to_owned(),
        Some(number) => format!(" (was {image}@{number})"),
        None => String::new(),
    };
    screen.result(
        &format!("{image}@{channel} is {name}{was}\n"),
        &json!({
            "event": "result", "channel": channel, "version": value(&promoted.version),
            "previous": promoted.previous, "changed": !promoted.same,
        }),
    );
    Ok(())
}

pub async fn roll_back(
    registry: &mut Registry,
    dirs: &Dirs,
    (image, channel, to): (&str, &str, Option<&Wanted>),
    screen: Screen,
) -> Result<()> {
    let server = server::of(image).await?;
    let back = registry.roll_back(image, channel, to)?;
    for skipped in &back.skipped {
        screen.note(&format!("passed over {skipped}"));
    }
    if let Some(server) = &server {
        let moved = (&back.version, channel);
        server::follow(server, (registry, dirs), moved, screen).await?;
    }
    let was = back
        .previous
        .map(|number| format!(" (was {image}@{number})"));
    screen.result(
        &format!(
            "{image}@{channel} is {}{}\n",
            back.version.name(),
            was.unwrap_or_default()
        ),
        &json!({
            "event": "result", "channel": channel, "version": value(&back.version),
            "previous": back.previous, "changed": true,
        }),
    );
    Ok(())
}

pub async fn unpromote(
    registry: &mut Registry,
    dirs: &Dirs,
    (image, channel): (&str, &str),
    screen: Screen,
) -> Result<()> {
    // The name of no channel may be a tag that means something else.
    registry.find(&Reference {
        image: image.to_owned(),
        wanted: Wanted::Channel(channel.to_owned()),
    })?;
    // The tag first: the command can be given again as long as the registry has the channel.
    if let Some(server) = &server::of(image).await? {
        server::take_off(server, (registry, dirs), (image, channel), screen).await?;
    }
    let version = registry.unpromote(image, channel)?;
    screen.result(
        &format!("{image}@{channel} is no more (was {})\n", version.name()),
        &json!({"event": "result", "channel": channel, "version": value(&version), "removed": true}),
    );
    Ok(())
}

/// Revokes for a reason, or undoes that without one.
pub fn revoke(
    registry: &mut Registry,
    scope: &Scope,
    reason: Option<&String>,
    screen: Screen,
) -> Result<()> {
    if scope.since.is_some() && scope.reference.wanted != Wanted::Newest {
        return Err(Error::new("choosing versions")
            .kind(Kind::Usage)
            .cause("--since is about all versions of an image")
            .hint(format!("write `{}`", scope.reference.image)));
    }
    let meant = registry::Scope {
        reference: &scope.reference,
        since: scope.since,
        descendants: scope.descendants,
    };
    let (versions, done) = match reason {
        Some(reason) => (registry.revoke(&meant, reason)?, "revoked"),
        None => (registry.restore(&meant)?, "restored"),
    };
    let text = match versions.is_empty() {
        true => format!("nothing to be {done}\n"),
        false => format!("{done} {}\n", names(&versions)),
    };
    screen.result(&text, &json!({"event": "result", done: values(&versions)}));
    if reason.is_some() {
        for version in &versions {
            for channel in &version.channels {
                let image = &version.image;
                screen.note(&format!(
                    "{image}@{channel} still points to {}; `imgbuild template rollback {image}@{channel}` goes back",
                    version.name()
                ));
            }
        }
    }
    Ok(())
}
