//! Making the registry anew from the build records that lie beside images, and from the history.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::replay::replay;
use super::{Asked, connect, create_aside, journal, lock};
use crate::error::{Context, Error, Kind, Result};
use crate::record::{self, Known};
use crate::store::{Dirs, Lock, artifact, outputs, sync_folder};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    pub versions: usize,
    /// How many channels point to where they pointed before.
    pub channels: usize,
    /// How many versions are revoked again.
    pub revoked: usize,
    /// The folders that were looked into.
    pub folders: Vec<PathBuf>,
    /// Records that make no version, and what else does not come back, and why.
    pub left_out: Vec<String>,
    /// Where the old file is now, if there was one.
    pub old: Option<PathBuf>,
}

/// A record and the image that it is about.
struct Found {
    image: PathBuf,
    known: Known,
    number: u32,
}

/// Makes the registry from the records in `folders` and in those where imgbuild has built something before, and from the
/// history. The old file is kept beside it under another name.
///
/// Errors: somebody has the registry open ([`Kind::Conflict`]).
pub fn rebuild(dirs: &Dirs, folders: &[PathBuf]) -> Result<Rebuilt> {
    let doing = || "rebuilding the registry".to_owned();
    let Some(_lock) = Lock::try_acquire(&lock(dirs))? else {
        return Err(Error::new(doing())
            .kind(Kind::Conflict)
            .cause("another imgbuild is using it")
            .hint("try again when no build runs"));
    };
    let mut folders: BTreeSet<PathBuf> = folders
        .iter()
        .map(std::path::absolute)
        .collect::<std::io::Result<_>>()
        .doing(|| "resolving the folders")?;
    folders.extend(outputs::folders(dirs)?);
    let mut rebuilt = Rebuilt::default();
    let mut found = vec![];
    for folder in folders {
        found.extend(records(&folder, &mut rebuilt.left_out)?);
        rebuilt.folders.push(folder);
    }
    // What others are built on is older than they are.
    found.sort_by_key(|found| found.known.build.finished);

    let path = dirs.registry();
    let aside = path.with_file_name(".registry.rebuilt.partial");
    create_aside(&aside)?;
    let mut db = connect(&aside)?;
    let tx = db.transaction().asked(doing)?;
    for found in &found {
        match insert(&tx, found)? {
            None => rebuilt.versions += 1,
            Some(why) => rebuilt.left_out.push(why),
        }
    }
    replay_history(&tx, &dirs.history(), &mut rebuilt)?;
    tx.commit().asked(doing)?;
    // Puts everything into the one file.
    db.pragma_update(None, "wal_checkpoint", "truncate")
        .asked(doing)?;
    db.close().map_err(|(_, error)| error).asked(doing)?;
    rebuilt.old = keep_old(&path)?;
    std::fs::rename(&aside, &path).doing(doing)?;
    sync_folder(path.parent().unwrap_or(&path)).doing(doing)?;
    Ok(rebuilt)
}

/// Brings channels, revocations and the history itself back.
fn replay_history(db: &Connection, path: &Path, rebuilt: &mut Rebuilt) -> Result<()> {
    let shown = path.display();
    let Some(told) = journal::read(path)? else {
        let why = format!("channels and revocations, if there were any: {shown} is not there");
        rebuilt.left_out.push(why);
        return Ok(());
    };
    if told.unread > 0 {
        let why = format!("{shown}: {} lines that are cut off or damaged", told.unread);
        rebuilt.left_out.push(why);
    }
    let replayed = replay(db, &told.events)?;
    (rebuilt.channels, rebuilt.revoked) = (replayed.channels, replayed.revoked);
    let lost = replayed.lost.into_iter();
    let lost =
        lost.map(|channel| format!("{channel}: the version that it points to was not found"));
    rebuilt.left_out.extend(lost);
    Ok(())
}

/// The records in a folder that are of versions whose image is there.
fn records(folder: &Path, left_out: &mut Vec<String>) -> Result<Vec<Found>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.doing(|| format!("reading {}", folder.display()))?,
    };
    let mut found = vec![];
    for entry in entries {
        let path = entry
            .doing(|| format!("reading {}", folder.display()))?
            .path();
        let Some(image) = record::image(&path) else {
            continue;
        };
        match of_version(&path, image) {
            Ok(version) => found.push(version),
            Err(why) => left_out.push(format!("{}: {why}", path.display())),
        }
    }
    Ok(found)
}

fn of_version(record: &Path, image: PathBuf) -> Result<Found, String> {
    let known = record::read(record).map_err(|error| error.to_string())?;
    let number = known.image.version.ok_or("it says no version")?;
    let size = std::fs::metadata(&image)
        .map_err(|_| "its image is gone")?
        .len();
    match size == known.artifact.size {
        true => Ok(Found {
            image,
            known,
            number,
        }),
        false => Err("its image is not the one that it is about".into()),
    }
}

/// Returns why it cannot be a version, if so.
fn insert(db: &Connection, found: &Found) -> Result<Option<String>> {
    let doing = || "writing to the new registry".to_owned();
    let (known, number) = (&found.known, found.number);
    let name = &known.image.registered();
    let text = "INSERT INTO image (name, next) VALUES (?1, ?2)
        ON CONFLICT (name) DO UPDATE SET next = max(next, excluded.next)";
    db.execute(text, params![name, number.saturating_add(1)])
        .asked(doing)?;
    let parent: Option<i64> = match known
        .source
        .version
        .as_ref()
        .and_then(|v| v.split_once('@'))
    {
        None => None,
        Some((image, number)) => {
            let text = "SELECT v.id FROM version v JOIN image i ON i.id = v.image
                WHERE i.name = ?1 AND v.number = ?2";
            let number: Option<u32> = number.parse().ok();
            db.query_row(text, params![image, number], |row| row.get(0))
                .optional()
                .asked(doing)?
        }
    };
    let text = "INSERT INTO version
        (image, number, label, state, build, path, link, created, sha256, size, parent)
        SELECT id, ?2, ?3, 'ready', ?4, ?5, ?6, ?7, ?8, ?9, ?10 FROM image WHERE name = ?1
        ON CONFLICT DO NOTHING";
    let link = artifact::link_of(&found.image, number);
    let size = i64::try_from(known.artifact.size).unwrap_or(i64::MAX);
    let values = params![
        name,
        number,
        known.image.label,
        known.build.id,
        found.image.as_os_str().as_bytes(),
        link.as_os_str().as_bytes(),
        known.build.started.as_millisecond(),
        known.artifact.sha256,
        size,
        parent,
    ];
    let done = db.execute(text, values).asked(doing)?;
    let why = format!(
        "{}: {name}@{number} is elsewhere, too",
        found.image.display()
    );
    Ok((done == 0).then_some(why))
}

/// Gives the old file another name besides its own, which the new one then takes: there is a registry at every moment. Its log
/// is put into it before; that of a file so damaged that this cannot be done is kept beside it, since a new file must never
/// meet it.
pub(super) fn keep_old(path: &Path) -> Result<Option<PathBuf>> {
    let doing = || format!("keeping the old {}", path.display());
    put_in_its_log(path)?;
    // To the millisecond: one that was cut off here may have left one.
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S.%3f");
    let with = |path: &Path, end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let old = with(path, &format!(".old-{now}"));
    let mut kept = None;
    for end in ["", LOG] {
        match std::fs::hard_link(with(path, end), with(&old, end)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            linked => {
                linked.doing(doing)?;
                kept = Some(old.clone());
            }
        }
    }
    sync_folder(path.parent().unwrap_or(path)).doing(doing)?;
    for end in [LOG, "-shm"] {
        match std::fs::remove_file(with(path, end)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(doing);
            }
            _ => {}
        }
    }
    Ok(kept)
}

/// The end of the name of the file in which SQLite has what is not yet in the database.
const LOG: &str = "-wal";

/// Writes what is in the log of a file into it, unless it is damaged or empty.
fn put_in_its_log(path: &Path) -> Result<()> {
    let doing = || format!("completing the old {}", path.display());
    if std::fs::metadata(path).map_or(0, |about| about.len()) == 0 {
        return Ok(());
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let done = Connection::open_with_flags(path, flags).and_then(|db| {
        let text = "PRAGMA wal_checkpoint(truncate)";
        let busy = db.query_row(text, [], |row| row.get::<_, bool>(0))?;
        db.close().map_err(|(_, error)| error)?;
        Ok(busy)
    });
    match done {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::new(doing())
            .kind(Kind::Conflict)
            .cause("another program has it open")),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Ok(()),
            _ => Err(error).asked(doing),
        },
    }
}
