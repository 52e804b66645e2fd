//! The history once more, as a file of lines beside the registry: it has what no build record tells, should the registry be
//! lost. A change is written there after it was committed; where that was cut off, the next command does it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::Connection;

use super::Asked;
use super::history::{Event, events};
use crate::error::{Context, Result};

/// Adds what the file has not yet.
pub(super) fn complete(db: &Connection, path: &Path) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    if newest(db)? <= written(db)? {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    let options = options.read(true).append(true).create(true).mode(0o600);
    let mut file = options.open(path).doing(doing)?;
    // Others would write the same lines.
    file.lock().doing(doing)?;
    let (newest, written) = (newest(db)?, written(db)?);
    let mut text = unended(&mut file).doing(doing)?.to_owned();
    for event in events(db, "id > ?1 AND id <= ?2", [written, newest])? {
        text += &serde_json::to_string(&event).doing(doing)?;
        text.push('\n');
    }
    file.write_all(text.as_bytes()).doing(doing)?;
    file.sync_data().doing(doing)?;
    mark(db, newest)
}

/// What ends a line that was cut off, if the last one was.
fn unended(file: &mut File) -> std::io::Result<&'static str> {
    let mut last = [b'\n'];
    if file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok(if last == [b'\n'] { "" } else { "\n" })
}

/// What a file tells.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub events: Vec<Event>,
    /// How many lines could not be understood.
    pub unread: usize,
}

/// Reads a file; `None` if there is none. What is there twice, since writing it was cut off, counts once.
pub(super) fn read(path: &Path) -> Result<Option<Told>> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.doing(|| format!("reading {}", path.display()))?,
    };
    let text = String::from_utf8_lossy(&text);
    let mut told = Told::default();
    let mut seen = HashSet::new();
    for line in text.lines().filter(|line| seen.insert(*line)) {
        match serde_json::from_str(line) {
            Ok(event) => told.events.push(event),
            Err(_) => told.unread += 1,
        }
    }
    Ok(Some(told))
}

/// The number of the newest event.
pub(super) fn newest(db: &Connection) -> Result<i64> {
    let text = "SELECT coalesce(max(id), 0) FROM event";
    let newest = db.query_row(text, [], |row| row.get(0));
    newest.asked(|| "reading the history in the registry".to_owned())
}

/// The number of the last event that is in the file.
fn written(db: &Connection) -> Result<i64> {
    let written = db.query_row("SELECT event FROM written", [], |row| row.get(0));
    written.asked(|| "reading the history in the registry".to_owned())
}

/// Says that the file has all events up to one.
pub(super) fn mark(db: &Connection, event: i64) -> Result<()> {
    let done = db.execute("UPDATE written SET event = max(event, ?1)", [event]);
    done.map(drop)
        .asked(|| "writing the history in the registry".to_owned())
}
