//! Versions from being reserved for a build to being there.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::history::{Action, Event, record};
use super::versions::{parent, select};
use super::{Asked, Reference, Registry, Version};
use crate::error::{Error, Kind, Result};
use crate::store::artifact;

/// What a build wants a version for.
pub struct Claim<'c> {
    pub image: &'c str,
    /// What the version is to be called besides its number.
    pub label: Option<&'c str>,
    /// The build's id.
    pub build: &'c str,
    /// Where the newest version is found.
    pub link: &'c Path,
    /// The file that it is built on.
    pub base: &'c Path,
    /// That file's sha256.
    pub base_sha256: &'c str,
    /// The name of a version, if that is how the recipe names its base.
    pub asked: Option<&'c Reference>,
}

/// A version that is being built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    pub image: String,
    pub number: u32,
    pub label: Option<String>,
    /// Where its image goes.
    pub path: PathBuf,
    /// What is to point to it.
    pub link: PathBuf,
    /// The version that it is built on, if it is built on one.
    pub parent: Option<String>,
}

/// What to do about an output that is something else already.
const ELSEWHERE: &str = "give this one another `[image] name` or `[output] path`";

impl Registry {
    /// Reserves the next version of an image for a build.
    ///
    /// Errors: the base was revoked ([`Kind::Verification`]) or is being removed ([`Kind::Conflict`]); the link would take
    /// the place of a version or a folder ([`Kind::Usage`]).
    pub fn reserve(&mut self, claim: &Claim<'_>) -> Result<Reserved> {
        let doing = || format!("reserving a version of {}", claim.image);
        let link = claim.link.as_os_str().as_bytes();
        if claim.link.symlink_metadata().is_ok_and(|at| at.is_dir()) {
            return Err(Error::new(doing())
                .kind(Kind::Usage)
                .cause(format!("{} is a folder", claim.link.display()))
                .hint(ELSEWHERE));
        }
        let tx = self.begin()?;
        refuse_version(&tx, claim.link, doing)?;
        let parent = parent(&tx, claim.base, claim.base_sha256)?;
        if let Some(parent) = &parent {
            parent.refuse_revoked(format!("building on {}", parent.name()))?;
        } else if let Some(asked) = claim.asked {
            return Err(Error::new(format!("building on {asked}"))
                .kind(Kind::Conflict)
                .cause("it was removed meanwhile"));
        }
        let insert = "INSERT INTO image (name) VALUES (?1) ON CONFLICT DO NOTHING";
        tx.execute(insert, [claim.image]).asked(doing)?;
        let text = "SELECT id, next FROM image WHERE name = ?1";
        let (image, next): (i64, u32) = tx
            .query_row(text, [claim.image], |row| Ok((row.get(0)?, row.get(1)?)))
            .asked(doing)?;
        let taken = Taken::of(&tx)?;
        // Asked only now: a build that took a number before has its files there, or its row.
        let least = artifact::highest_number(claim.link)?.saturating_add(1);
        let number = (next.max(least)..)
            .find(|number| !taken.has(&artifact::path(claim.link, *number)))
            .ok_or_else(|| Error::new(doing()).cause("there are no numbers left"))?;
        let label = match claim.label {
            Some(label) => Some(free_label(&tx, image, label)?),
            None => None,
        };
        let path = artifact::path(claim.link, number);
        let text = "INSERT INTO version
            (image, number, label, state, build, path, link, created, parent, asked)
            VALUES (?1, ?2, ?3, 'building', ?4, ?5, ?6, ?7, ?8, ?9)";
        let values = params![
            image,
            number,
            label,
            claim.build,
            path.as_os_str().as_bytes(),
            link,
            Timestamp::now().as_millisecond(),
            parent.as_ref().map(|parent| parent.id),
            claim.asked.map(ToString::to_string),
        ];
        tx.execute(text, values).asked(doing)?;
        let text = "UPDATE image SET next = ?2 WHERE id = ?1";
        tx.execute(text, params![image, number.saturating_add(1)])
            .asked(doing)?;
        tx.commit().asked(doing)?;
        Ok(Reserved {
            image: claim.image.to_owned(),
            number,
            label,
            path,
            link: claim.link.to_owned(),
            parent: parent.map(|parent| parent.name()),
        })
    }

    /// Makes a link point to an image beside it. The caller holds the lock of [`artifact::lock_path`].
    ///
    /// Errors: a version is in its place ([`Kind::Usage`]).
    pub fn link(&self, link: &Path, image: &Path) -> Result<()> {
        refuse_version(&self.db, link, || format!("linking {}", image.display()))?;
        artifact::link(link, image)
    }

    /// Says that the image of a reserved version, its record and the link are in their places. Returns the version; it may
    /// have been revoked on its way.
    pub fn publish(&mut self, reserved: &Reserved, sha256: &str, size: u64) -> Result<Version> {
        let doing = || format!("recording {}@{}", reserved.image, reserved.number);
        let path = reserved.path.as_os_str().as_bytes();
        let tx = self.begin()?;
        let version = publish(&tx, path, sha256, size)?;
        tx.commit().asked(doing)?;
        Ok(version)
    }
}

/// What versions that are known have for themselves, whether it is there or not.
struct Taken {
    links: HashSet<PathBuf>,
    /// What the names beside their images begin with.
    stems: HashSet<PathBuf>,
}

impl Taken {
    fn of(db: &Connection) -> Result<Self> {
        let doing = || "listing what is taken in the registry".to_owned();
        let mut statement = db.prepare("SELECT path, link FROM version").asked(doing)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        let path = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
        let (mut links, mut stems) = (HashSet::new(), HashSet::new());
        for row in rows.asked(doing)? {
            let (image, link) = row.asked(doing)?;
            stems.insert(artifact::stem_of(&path(image)));
            links.insert(path(link));
        }
        Ok(Taken { links, stems })
    }

    fn has(&self, image: &Path) -> bool {
        self.links.contains(image) || self.stems.contains(&artifact::stem_of(image))
    }
}

/// Refuses a link in whose place a version is, or is to be.
fn refuse_version(db: &Connection, link: &Path, doing: impl Fn() -> String) -> Result<()> {
    let path = link.as_os_str().as_bytes();
    match select(db, "v.path = ?1", [path])?.first() {
        None => Ok(()),
        Some(other) => Err(Error::new(doing())
            .kind(Kind::Usage)
            .cause(format!(
                "{} is the image of {}",
                link.display(),
                other.name()
            ))
            .hint(ELSEWHERE)),
    }
}

/// Makes a version of a reserved one, in a transaction of the caller's.
pub(super) fn publish(db: &Connection, path: &[u8], sha256: &str, size: u64) -> Result<Version> {
    let doing = || "recording a version in the registry".to_owned();
    let unreserved = || Error::new(doing()).cause("nobody has reserved it");
    let text = "UPDATE version SET state = 'ready', sha256 = ?2, size = ?3
        WHERE path = ?1 AND state = 'building'";
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let done = db.execute(text, params![path, sha256, size]).asked(doing)?;
    if done == 0 {
        return Err(unreserved());
    }
    let version = select(db, "v.path = ?1", [path])?.into_iter().next();
    let version = version.ok_or_else(unreserved)?;
    record(
        db,
        &Event::new(Action::Built, &version.image, version.number),
    )?;
    Ok(version)
}

/// The label itself, or with the first free number behind it: several versions may be built on one day.
fn free_label(db: &Connection, image: i64, label: &str) -> Result<String> {
    let doing = || "looking for a label in the registry".to_owned();
    let taken = |label: &str| {
        let text = "SELECT 1 FROM version WHERE image = ?1 AND label = ?2";
        let found = db.query_row(text, params![image, label], |_| Ok(()));
        found.optional().map(|found| found.is_some()).asked(doing)
    };
    let mut free = label.to_owned();
    let mut number = 1;
    while taken(&free)? {
        number += 1;
        free = format!("{label}-{number}");
    }
    Ok(free)
}
