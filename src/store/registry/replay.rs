//! What channels point to and which versions are revoked, from the history.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::{Connection, OptionalExtension, params};

use super::history::{Action, Event, record};
use super::{Asked, journal};
use crate::error::Result;

/// What was found again.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    pub channels: usize,
    pub revoked: usize,
    /// Channels whose version is not there any more.
    pub lost: Vec<String>,
}

/// Does again what the history tells, in a registry that has versions and no more.
pub(super) fn replay(db: &Connection, events: &[Event]) -> Result<Replayed> {
    let mut replayed = Replayed::default();
    // What each channel would go back to, the newest last.
    let mut channels: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
    let mut revoked: BTreeMap<(&str, u32), &Event> = BTreeMap::new();
    for event in events {
        record(db, event)?;
        pass(db, event)?;
        let version = (event.image.as_str(), event.number);
        let channel = event.channel.as_deref().unwrap_or_default();
        let past = channels.entry((&event.image, channel));
        match event.action {
            Action::Promoted => past.or_default().push(event.number),
            Action::RolledBack => go_back(past.or_default(), event.number),
            Action::Unpromoted => {
                if let Entry::Occupied(past) = past {
                    past.remove();
                }
            }
            Action::Revoked => drop(revoked.insert(version, event)),
            Action::Restored => drop(revoked.remove(&version)),
            Action::Built | Action::Removed => {}
        }
    }
    for ((image, number), event) in revoked {
        replayed.revoked += revoke(db, (image, number), event)?;
    }
    for ((image, channel), past) in channels {
        match point(db, image, channel, &past)? {
            true => replayed.channels += 1,
            false => replayed.lost.push(format!("{image}@{channel}")),
        }
    }
    // The file has these already.
    journal::mark(db, journal::newest(db)?)?;
    Ok(replayed)
}

/// Makes the version that a channel went back to the newest of its past.
fn go_back(past: &mut Vec<u32>, number: u32) {
    let before = past.len().saturating_sub(1);
    match past[..before]
        .iter()
        .rposition(|earlier| *earlier == number)
    {
        Some(at) => past.truncate(at + 1),
        None => past.push(number),
    }
}

/// Keeps a number from being used again, whatever became of its version.
fn pass(db: &Connection, event: &Event) -> Result<()> {
    let text = "UPDATE image SET next = max(next, ?2) WHERE name = ?1";
    let next = event.number.saturating_add(1);
    db.execute(text, params![event.image, next])
        .map(drop)
        .asked(doing)
}

/// Returns how many versions that are.
fn revoke(db: &Connection, (image, number): (&str, u32), event: &Event) -> Result<usize> {
    let text = "UPDATE version SET revoked = ?3, reason = ?4
        WHERE number = ?2 AND image = (SELECT id FROM image WHERE name = ?1)";
    let reason = event.reason.as_deref().unwrap_or_default();
    let at = event.at.as_millisecond();
    db.execute(text, params![image, number, at, reason])
        .asked(doing)
}

/// Makes a channel with its past, unless the version that it points to is not there.
fn point(db: &Connection, image: &str, channel: &str, past: &[u32]) -> Result<bool> {
    let version = |number: &u32| -> Result<Option<i64>> {
        let text = "SELECT v.id FROM version v JOIN image i ON i.id = v.image
            WHERE i.name = ?1 AND v.number = ?2";
        let found = db.query_row(text, params![image, number], |row| row.get(0));
        found.optional().asked(doing)
    };
    if past.last().map(version).transpose()?.flatten().is_none() {
        return Ok(false);
    }
    let mut before: Option<i64> = None;
    for number in past {
        let text = "INSERT INTO promotion (version, before) VALUES (?1, ?2)";
        db.execute(text, params![version(number)?, before])
            .asked(doing)?;
        before = Some(db.last_insert_rowid());
    }
    let text = "INSERT INTO channel (image, name, promotion)
        SELECT id, ?2, ?3 FROM image WHERE name = ?1";
    db.execute(text, params![image, channel, before])
        .asked(doing)?;
    Ok(true)
}

fn doing() -> String {
    "writing the history to the new registry".to_owned()
}
