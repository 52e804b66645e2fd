//! The tables, and how older files come to have them.

use rusqlite::{Connection, TransactionBehavior};

use super::{Asked, REBUILD};
use crate::error::{Error, Result};

/// One text for each version of the schema; `user_version` counts those that a file has seen. A text that has shipped is
/// never changed.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE image (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    -- The number of the next version. It is never used again, whatever becomes of that version.
    next INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE TABLE version (
    id INTEGER PRIMARY KEY,
    image INTEGER NOT NULL REFERENCES image (id),
    number INTEGER NOT NULL,
    label TEXT,
    state TEXT NOT NULL CHECK (state IN ('building', 'ready', 'removing')),
    -- The build's id: its lock tells whether it still lives.
    build TEXT NOT NULL,
    -- Bytes of the image's path, and of the link that points to the newest.
    path BLOB NOT NULL UNIQUE,
    link BLOB NOT NULL,
    -- Milliseconds since 1970.
    created INTEGER NOT NULL,
    sha256 TEXT NOT NULL DEFAULT '',
    size INTEGER NOT NULL DEFAULT 0,
    -- What it is built on, if that is a version, and what the recipe called it.
    parent INTEGER REFERENCES version (id),
    asked TEXT,
    revoked INTEGER,
    reason TEXT,
    UNIQUE (image, number),
    UNIQUE (image, label)
) STRICT;
CREATE INDEX version_parent ON version (parent) WHERE parent IS NOT NULL;
CREATE INDEX version_unfinished ON version (state) WHERE state <> 'ready';
CREATE INDEX version_link ON version (link);
CREATE INDEX version_sha256 ON version (sha256);
-- What a channel has pointed to: each promotion knows the one before it, so that going back twice goes back two.
CREATE TABLE promotion (
    id INTEGER PRIMARY KEY,
    version INTEGER REFERENCES version (id) ON DELETE SET NULL,
    before INTEGER REFERENCES promotion (id)
) STRICT;
CREATE INDEX promotion_version ON promotion (version);
CREATE TABLE channel (
    image INTEGER NOT NULL REFERENCES image (id),
    name TEXT NOT NULL,
    promotion INTEGER NOT NULL REFERENCES promotion (id),
    PRIMARY KEY (image, name)
) STRICT;
-- Names and numbers instead of references: what was done is told of versions that are gone, too.
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    image TEXT NOT NULL,
    number INTEGER NOT NULL,
    channel TEXT,
    previous INTEGER,
    reason TEXT
) STRICT;
CREATE INDEX event_image ON event (image);
", "
-- The last event that is in the file beside this one, too.
CREATE TABLE written (event INTEGER NOT NULL) STRICT;
INSERT INTO written VALUES (0);
"];

/// Makes the tables in a new file that nobody else knows yet.
pub(super) fn create(db: &mut Connection) -> Result<()> {
    let tx = db.transaction().asked(doing)?;
    apply(&tx, 0)?;
    tx.commit().asked(doing)
}

/// Brings a file up to this imgbuild's schema; refuses one that a newer imgbuild has made, and one without any tables: that
/// has lost them, since a file gets its name with them in it.
pub(super) fn migrate(db: &mut Connection) -> Result<()> {
    if seen(db)? == latest() {
        return Ok(());
    }
    let tx = db
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .asked(doing)?;
    // Another process may have been faster.
    let seen = seen(&tx)?;
    if seen == 0 {
        return Err(Error::new("opening the registry")
            .cause("it is damaged: there is nothing in it")
            .hint(REBUILD));
    }
    if seen > latest() {
        return Err(Error::new("opening the registry")
            .cause(format!(
                "a newer imgbuild has made it: its schema is {seen}, this one knows {}",
                latest()
            ))
            .hint(format!("use the newer imgbuild. Otherwise: {REBUILD}")));
    }
    apply(&tx, seen)?;
    tx.commit().asked(doing)
}

/// Does what a file has not seen yet.
fn apply(db: &Connection, seen: u32) -> Result<()> {
    for text in &MIGRATIONS[seen as usize..] {
        db.execute_batch(text).asked(doing)?;
    }
    db.pragma_update(None, "user_version", latest())
        .asked(doing)
}

fn doing() -> String {
    "preparing the registry".to_owned()
}

fn latest() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

fn seen(db: &Connection) -> Result<u32> {
    db.pragma_query_value(None, "user_version", |row| row.get(0))
        .asked(|| "reading the registry".to_owned())
}
