//! Versions: finding and listing them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Row, params};

use super::{Asked, Reference, Registry, Revoked, State, Version, Wanted, milliseconds};
use crate::error::{Error, Kind, Result};
use crate::text::suggest;

const COLUMNS: &str = "
SELECT v.id, i.name, v.number, v.label, v.state, v.build, v.path, v.link, v.created, v.sha256, v.size,
    pi.name || '@' || p.number, v.asked, v.revoked, v.reason
FROM version v JOIN image i ON i.id = v.image
LEFT JOIN version p ON p.id = v.parent LEFT JOIN image pi ON pi.id = p.image
";

fn version(row: &Row<'_>) -> rusqlite::Result<Version> {
    let state: String = row.get(4)?;
    let path = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
    let size: i64 = row.get(10)?;
    let revoked: Option<i64> = row.get(13)?;
    let reason: Option<String> = row.get(14)?;
    Ok(Version {
        id: row.get(0)?,
        image: row.get(1)?,
        number: row.get(2)?,
        label: row.get(3)?,
        // The table allows no other.
        state: match state.as_str() {
            "building" => State::Building,
            "removing" => State::Removing,
            _ => State::Ready,
        },
        build: row.get(5)?,
        path: path(row.get(6)?),
        link: path(row.get(7)?),
        created: milliseconds(row.get(8)?),
        sha256: row.get(9)?,
        size: size.unsigned_abs(),
        parent: row.get(11)?,
        asked: row.get(12)?,
        revoked: revoked.map(|at| Revoked {
            at: milliseconds(at),
            reason: reason.unwrap_or_default(),
        }),
        channels: vec![],
    })
}

/// All versions that satisfy a condition, with their channels, in the order of images and numbers.
pub(super) fn select(
    db: &Connection,
    condition: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<Version>> {
    let doing = || "listing versions in the registry".to_owned();
    let text = format!("{COLUMNS} WHERE {condition} ORDER BY i.name, v.number");
    let mut statement = db.prepare_cached(&text).asked(doing)?;
    let rows = statement.query_map(values, version).asked(doing)?;
    let mut versions: Vec<Version> = rows.collect::<rusqlite::Result<_>>().asked(doing)?;
    let mut channels = channels(db)?;
    for version in &mut versions {
        version.channels = channels.remove(&version.id).unwrap_or_default();
    }
    Ok(versions)
}

/// The channels that point to each version.
fn channels(db: &Connection) -> Result<HashMap<i64, Vec<String>>> {
    let doing = || "listing channels in the registry".to_owned();
    let text = "SELECT p.version, c.name FROM channel c JOIN promotion p ON p.id = c.promotion
        WHERE p.version IS NOT NULL ORDER BY c.name";
    let mut statement = db.prepare_cached(text).asked(doing)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let mut channels: HashMap<i64, Vec<String>> = HashMap::new();
    for row in rows.asked(doing)? {
        let (version, name) = row.asked(doing)?;
        channels.entry(version).or_default().push(name);
    }
    Ok(channels)
}

impl Registry {
    /// All versions, or those of one image, in the order of images and numbers.
    pub fn list(&self, image: Option<&str>) -> Result<Vec<Version>> {
        match image {
            None => select(&self.db, "true", []),
            Some(image) => {
                let versions = select(&self.db, "i.name = ?1", [image])?;
                match versions.is_empty() {
                    true => Err(self.unknown_image(image)?),
                    false => Ok(versions),
                }
            }
        }
    }

    /// The version that a name stands for.
    ///
    /// Errors: there is none ([`Kind::Usage`]).
    pub fn find(&self, reference: &Reference) -> Result<Version> {
        find(&self.db, reference)?.map_or_else(|| Err(self.unknown(reference)?), Ok)
    }

    /// The version whose image is at `path`, if one's is.
    pub fn at(&self, path: &Path) -> Result<Option<Version>> {
        let found = select(&self.db, "v.path = ?1", [path.as_os_str().as_bytes()])?;
        Ok(found.into_iter().next())
    }

    /// The versions that are built on `version`.
    pub fn built_on(&self, version: &Version) -> Result<Vec<Version>> {
        select(&self.db, "v.parent = ?1", [version.id])
    }

    /// A newer version of what `version` is built on: one that the channel points to that its recipe names, else that any
    /// channel points to.
    pub fn newer_parent(&self, version: &Version) -> Result<Option<Version>> {
        let Some(parent) = version.parent.as_ref().and_then(|name| name.parse().ok()) else {
            return Ok(None);
        };
        let parent = self.find(&parent)?;
        let asked: Option<Reference> = version.asked.as_ref().and_then(|name| name.parse().ok());
        let followed = |channel: &String| match asked.as_ref().map(|asked| &asked.wanted) {
            Some(Wanted::Channel(name)) => name == channel,
            _ => true,
        };
        let promoted = self.list(Some(&parent.image))?.into_iter().rev();
        let mut newer = promoted.filter(|other| {
            other.number > parent.number
                && other.revoked.is_none()
                && other.channels.iter().any(followed)
        });
        Ok(newer.next())
    }

    /// The version that an image is, wherever it lies.
    pub fn known(&self, image: &Path, sha256: &str) -> Result<Option<Version>> {
        parent(&self.db, image, sha256)
    }

    /// Refuses a base image that is a revoked version, wherever it lies.
    pub fn refuse_revoked(&self, base: &Path, sha256: &str) -> Result<()> {
        match self.known(base, sha256)? {
            Some(version) => version.refuse_revoked(format!("building on {}", version.name())),
            None => Ok(()),
        }
    }

    fn unknown_image(&self, image: &str) -> Result<Error> {
        let doing = || "listing the images in the registry".to_owned();
        let mut statement = self.db.prepare("SELECT name FROM image").asked(doing)?;
        let names = statement.query_map([], |row| row.get(0)).asked(doing)?;
        let names: Vec<String> = names.collect::<rusqlite::Result<_>>().asked(doing)?;
        let error = Error::new(format!("looking up {image}"))
            .kind(Kind::Usage)
            .cause("there is no version of such an image");
        Ok(error.hint(match names.is_empty() {
            true => "`imgbuild run` makes versions".to_owned(),
            false => suggest(image, names.iter().map(String::as_str)),
        }))
    }

    fn unknown(&self, reference: &Reference) -> Result<Error> {
        let all = match self.list(Some(&reference.image)) {
            Ok(all) => all,
            Err(unknown) => return Ok(unknown),
        };
        let error = Error::new(format!("looking up {reference}")).kind(Kind::Usage);
        let mut channels: Vec<&str> = vec![];
        for version in &all {
            channels.extend(version.channels.iter().map(String::as_str));
        }
        Ok(match &reference.wanted {
            Wanted::Channel(name) => {
                error
                    .cause("there is no such channel")
                    .hint(match channels.is_empty() {
                        true => format!(
                            "`imgbuild template promote {} {name}` makes it",
                            reference.image
                        ),
                        false => suggest(name, channels),
                    })
            }
            _ => error.cause("there is no such version").hint(format!(
                "`imgbuild template list {}` tells which there are",
                reference.image
            )),
        })
    }
}

/// The version that is meant; one that is being built or removed is none.
pub(super) fn find(db: &Connection, reference: &Reference) -> Result<Option<Version>> {
    let image = &reference.image;
    let found = match &reference.wanted {
        Wanted::Newest => {
            let newest = "i.name = ?1 AND v.state = 'ready' AND v.number = (SELECT max(number)
                FROM version WHERE image = v.image AND state = 'ready')";
            select(db, newest, [image])?
        }
        Wanted::Number(number) => {
            let same = "i.name = ?1 AND v.state = 'ready' AND v.number = ?2";
            select(db, same, params![image, number])?
        }
        Wanted::Label(label) => {
            let same = "i.name = ?1 AND v.state = 'ready' AND v.label = ?2";
            select(db, same, params![image, label])?
        }
        Wanted::Channel(channel) => {
            let pointed = "i.name = ?1 AND v.state = 'ready' AND v.id = (SELECT p.version
                FROM channel c JOIN promotion p ON p.id = c.promotion
                WHERE c.image = v.image AND c.name = ?2)";
            select(db, pointed, params![image, channel])?
        }
    };
    Ok(found.into_iter().next())
}

/// The version that a build's base is: the one in its place, else one of the same content, rather one that was not
/// revoked.
pub(super) fn parent(db: &Connection, base: &Path, sha256: &str) -> Result<Option<Version>> {
    let path = base.as_os_str().as_bytes();
    let same = "v.state = 'ready' AND (v.path = ?1 OR v.sha256 = ?2)";
    let mut found = select(db, same, params![path, sha256])?;
    found.sort_by_key(|version| (version.path != base, version.revoked.is_some()));
    Ok(found.into_iter().next())
}
