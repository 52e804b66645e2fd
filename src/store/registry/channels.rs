//! Channels: names that point to a version, and move.

use rusqlite::{Connection, OptionalExtension, params};

use super::history::{Action, Event, record};
use super::versions::{find, select};
use super::{Asked, Reference, Registry, Version, Wanted};
use crate::error::{Error, Kind, Result};

/// What a promotion did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promoted {
    pub version: Version,
    /// The number that the channel pointed to before.
    pub previous: Option<u32>,
    /// It pointed there already, and nothing was done.
    pub same: bool,
}

/// What going back did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledBack {
    pub version: Version,
    /// The number that the channel pointed to before; none if that is gone.
    pub previous: Option<u32>,
    /// Versions on the way that were revoked, or whose files are gone.
    pub skipped: Vec<String>,
}

impl Registry {
    /// Makes a channel point to a version.
    ///
    /// Errors: there is no such version ([`Kind::Usage`]); it was revoked ([`Kind::Verification`]); its file is gone.
    pub fn promote(&mut self, reference: &Reference, channel: &str) -> Result<Promoted> {
        let doing = || format!("promoting {reference} to {channel}");
        // Says what is wrong with the name; what counts is what the transaction finds.
        self.find(reference)?;
        let tx = self.begin()?;
        let Some(version) = find(&tx, reference)? else {
            return Err(Error::new(doing())
                .kind(Kind::Conflict)
                .cause("it was removed at this moment"));
        };
        version.refuse_revoked(doing())?;
        version.refuse_missing(doing())?;
        let image = image_of(&tx, &version)?;
        let before = pointer(&tx, image, channel)?;
        if before
            .as_ref()
            .is_some_and(|before| before.version == Some(version.id))
        {
            return Ok(Promoted {
                previous: Some(version.number),
                version,
                same: true,
            });
        }
        let text = "INSERT INTO promotion (version, before) VALUES (?1, ?2)";
        let promotion = before.as_ref().map(|before| before.promotion);
        tx.execute(text, params![version.id, promotion])
            .asked(doing)?;
        point(&tx, image, channel, tx.last_insert_rowid())?;
        let previous = before.and_then(|before| before.number);
        let event = Event {
            channel: Some(channel.to_owned()),
            previous,
            ..Event::new(Action::Promoted, &version.image, version.number)
        };
        record(&tx, &event)?;
        tx.commit().asked(doing)?;
        Ok(Promoted {
            version,
            previous,
            same: false,
        })
    }

    /// Makes a channel point to what it pointed to before, as often as that is asked for, or to the version of its past that
    /// is wanted. What was removed or revoked since then is passed over.
    ///
    /// Errors: there is no such channel, or nothing to go back to ([`Kind::Usage`]); the version that is wanted was revoked
    /// ([`Kind::Verification`]), or its file is gone.
    pub fn roll_back(
        &mut self,
        image: &str,
        channel: &str,
        to: Option<&Wanted>,
    ) -> Result<RolledBack> {
        let doing = || format!("rolling back {image}@{channel}");
        let reference = |wanted: &Wanted| Reference {
            image: image.to_owned(),
            wanted: wanted.clone(),
        };
        let to = match to {
            Some(wanted) => Some(self.find(&reference(wanted))?),
            None => None,
        };
        let now = self.find(&reference(&Wanted::Channel(channel.to_owned())))?;
        let tx = self.begin()?;
        let owner = image_of(&tx, &now)?;
        let Some(current) = pointer(&tx, owner, channel)? else {
            return Err(Error::new(doing()).cause("it was removed at this moment"));
        };
        if let Some(to) = &to {
            refuse_target(to, &current, doing())?;
        }
        let mut skipped = vec![];
        let mut next = current.before;
        let (promotion, version) = loop {
            let Some(promotion) = next else {
                return Err(nothing_before(
                    doing(),
                    image,
                    channel,
                    to.as_ref(),
                    &skipped,
                ));
            };
            let past = promotion_of(&tx, promotion)?;
            next = past.before;
            let Some(id) = past.version else {
                skipped.push("a version that was removed".to_owned());
                continue;
            };
            let Some(version) = select(&tx, "v.id = ?1", [id])?.into_iter().next() else {
                continue;
            };
            if to.as_ref().is_some_and(|to| to.id != id) {
                continue;
            }
            match (&version.revoked, version.is_there()) {
                (None, true) if Some(id) != current.version => break (promotion, version),
                (None, true) => {}
                (Some(_), _) => skipped.push(format!("{}, which was revoked", version.name())),
                (None, false) => skipped.push(format!("{}, whose file is gone", version.name())),
            }
        };
        point(&tx, owner, channel, promotion)?;
        let event = Event {
            channel: Some(channel.to_owned()),
            previous: current.number,
            ..Event::new(Action::RolledBack, image, version.number)
        };
        record(&tx, &event)?;
        tx.commit().asked(doing)?;
        Ok(RolledBack {
            version,
            previous: current.number,
            skipped,
        })
    }
}

impl Registry {
    /// Takes a channel away, with its past. Returns the version that it pointed to.
    ///
    /// Errors: there is no such channel ([`Kind::Usage`]).
    pub fn unpromote(&mut self, image: &str, channel: &str) -> Result<Version> {
        let doing = || format!("removing the channel {image}@{channel}");
        let reference = Reference {
            image: image.to_owned(),
            wanted: Wanted::Channel(channel.to_owned()),
        };
        let version = self.find(&reference)?;
        let tx = self.begin()?;
        let text = "DELETE FROM channel WHERE image = ?1 AND name = ?2";
        let removed = tx.execute(text, params![image_of(&tx, &version)?, channel]);
        if removed.asked(doing)? > 0 {
            let event = Event {
                channel: Some(channel.to_owned()),
                ..Event::new(Action::Unpromoted, image, version.number)
            };
            record(&tx, &event)?;
        }
        tx.commit().asked(doing)?;
        Ok(version)
    }
}

/// Refuses a version that there is no going back to, whatever the channel's past is.
fn refuse_target(to: &Version, current: &Pointer, doing: String) -> Result<()> {
    if Some(to.id) == current.version {
        return Err(Error::new(doing)
            .kind(Kind::Usage)
            .cause(format!("it points to {} already", to.name())));
    }
    to.refuse_revoked(doing.clone())?;
    to.refuse_missing(doing)
}

fn nothing_before(
    doing: String,
    image: &str,
    channel: &str,
    to: Option<&Version>,
    skipped: &[String],
) -> Error {
    let error = Error::new(doing).kind(Kind::Usage);
    match to {
        Some(to) => error
            .cause(format!("it has not pointed to {} before", to.name()))
            .hint(format!(
                "`imgbuild template promote {} {channel}` makes it point there",
                to.name()
            )),
        None => error
            .detail("passed over", skipped.join("\n"))
            .cause("it points to no earlier version that could be used")
            .hint(format!(
                "`imgbuild history {image}` tells what it has pointed to"
            )),
    }
}

/// What a channel points to, by way of its last promotion.
struct Pointer {
    promotion: i64,
    version: Option<i64>,
    number: Option<u32>,
    before: Option<i64>,
}

fn pointer(db: &Connection, image: i64, channel: &str) -> Result<Option<Pointer>> {
    let text = "SELECT promotion FROM channel WHERE image = ?1 AND name = ?2";
    let promotion = db
        .query_row(text, params![image, channel], |row| row.get(0))
        .optional()
        .asked(|| format!("reading the channel {channel} in the registry"))?;
    promotion
        .map(|promotion| promotion_of(db, promotion))
        .transpose()
}

fn promotion_of(db: &Connection, promotion: i64) -> Result<Pointer> {
    let text = "SELECT p.version, v.number, p.before FROM promotion p
        LEFT JOIN version v ON v.id = p.version WHERE p.id = ?1";
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Pointer {
            promotion,
            version: row.get(0)?,
            number: row.get(1)?,
            before: row.get(2)?,
        })
    };
    db.query_row(text, [promotion], read)
        .asked(|| "reading a promotion in the registry".to_owned())
}

fn point(db: &Connection, image: i64, channel: &str, promotion: i64) -> Result<()> {
    let text = "INSERT INTO channel (image, name, promotion) VALUES (?1, ?2, ?3)
        ON CONFLICT (image, name) DO UPDATE SET promotion = excluded.promotion";
    db.execute(text, params![image, channel, promotion])
        .map(drop)
        .asked(|| format!("moving the channel {channel} in the registry"))
}

fn image_of(db: &Connection, version: &Version) -> Result<i64> {
    let text = "SELECT image FROM version WHERE id = ?1";
    db.query_row(text, [version.id], |row| row.get(0))
        .asked(|| format!("looking up {} in the registry", version.name()))
}
