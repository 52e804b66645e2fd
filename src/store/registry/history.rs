//! What was done: one event for each change, in the transaction that made it.

use jiff::Timestamp;
use rusqlite::{Connection, Params, Row, params};
use serde::{Deserialize, Serialize};

use super::{Asked, Registry, milliseconds};
use crate::error::Result;

/// Something that was done to a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// To the millisecond.
    pub at: Timestamp,
    pub who: String,
    pub action: Action,
    pub image: String,
    #[serde(rename = "version")]
    pub number: u32,
    /// The channel that was moved.
    pub channel: Option<String>,
    /// The number of the version that the channel pointed to before.
    pub previous: Option<u32>,
    pub reason: Option<String>,
}

/// What can be done to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Built,
    Promoted,
    RolledBack,
    Unpromoted,
    Revoked,
    Restored,
    Removed,
}

impl Action {
    const ALL: [Action; 7] = [
        Action::Built,
        Action::Promoted,
        Action::RolledBack,
        Action::Unpromoted,
        Action::Revoked,
        Action::Restored,
        Action::Removed,
    ];

    /// The word for it in the registry, the same as in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Action::Built => "built",
            Action::Promoted => "promoted",
            Action::RolledBack => "rolled-back",
            Action::Unpromoted => "unpromoted",
            Action::Revoked => "revoked",
            Action::Restored => "restored",
            Action::Removed => "removed",
        }
    }
}

impl Event {
    /// Something that this user does now.
    pub(super) fn new(action: Action, image: &str, number: u32) -> Self {
        Event {
            at: Timestamp::now(),
            who: who(),
            action,
            image: image.to_owned(),
            number,
            channel: None,
            previous: None,
            reason: None,
        }
    }
}

/// Writes an event down.
pub(super) fn record(db: &Connection, event: &Event) -> Result<()> {
    let doing = || "writing the history in the registry".to_owned();
    let text = "INSERT INTO event (at, who, action, image, number, channel, previous, reason)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let values = params![
        event.at.as_millisecond(),
        event.who,
        event.action.name(),
        event.image,
        event.number,
        event.channel,
        event.previous,
        event.reason,
    ];
    let mut statement = db.prepare_cached(text).asked(doing)?;
    statement.execute(values).map(drop).asked(doing)
}

impl Registry {
    /// All that was done, or what was done to one image, the oldest first.
    pub fn history(&self, image: Option<&str>) -> Result<Vec<Event>> {
        events(&self.db, "?1 IS NULL OR image = ?1", [image])
    }
}

/// The events for which a condition holds, the oldest first.
pub(super) fn events(db: &Connection, which: &str, values: impl Params) -> Result<Vec<Event>> {
    let doing = || "reading the history in the registry".to_owned();
    let text = format!(
        "SELECT at, who, action, image, number, channel, previous, reason FROM event
        WHERE {which} ORDER BY id"
    );
    let mut statement = db.prepare(&text).asked(doing)?;
    let rows = statement.query_map(values, event).asked(doing)?;
    rows.collect::<rusqlite::Result<_>>().asked(doing)
}

fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let word: String = row.get(2)?;
    let action = Action::ALL.into_iter().find(|action| action.name() == word);
    Ok(Event {
        at: milliseconds(row.get(0)?),
        who: row.get(1)?,
        action: action.ok_or(rusqlite::Error::InvalidQuery)?,
        image: row.get(3)?,
        number: row.get(4)?,
        channel: row.get(5)?,
        previous: row.get(6)?,
        reason: row.get(7)?,
    })
}

/// The user's name: by the environment, else by the list of users, else the number.
fn who() -> String {
    let named = std::env::var("USER").ok().filter(|name| !name.is_empty());
    named.unwrap_or_else(|| {
        let uid = rustix::process::getuid().as_raw().to_string();
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mut names = users.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid).then(|| name.to_owned())
        });
        names.next().unwrap_or(format!("uid {uid}"))
    })
}
