//! Removing versions: which may go, and how they go so that a crash leaves nothing half-removed that nobody knows of.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::history::{Action, Event, record};
use super::versions::select;
use super::{Asked, Reference, Registry, State, Version};
use crate::error::{Context, Error, Kind, Result};
use crate::store::libvirt::Machines;
use crate::store::open_files::{self, OpenFiles};
use crate::store::{Dirs, Lock, artifact};

/// What still needs a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// A channel points to it.
    Channel(String),
    /// Another version is built on it, or is being built.
    Version(String),
    /// Somebody has its file open: a machine, a tool.
    Open(String),
    /// A machine of libvirt's has its file as a disk, or beneath one.
    Machine(String),
    /// A machine on its server is a linked clone of its template.
    Clone(String),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::Channel(name) => write!(f, "the channel {name} points to it"),
            Use::Version(name) => write!(f, "{name} is built on it"),
            Use::Open(who) => write!(f, "its file is open in {who}"),
            Use::Machine(name) => write!(f, "the machine {name}, which libvirt knows, uses it"),
            Use::Clone(name) => write!(f, "{name} is a linked clone of it"),
        }
    }
}

/// What pruning did, or would do.
#[derive(Debug, Default)]
pub struct Pruned {
    pub removed: Vec<Version>,
    /// Those that are old enough to go but are needed, and what for.
    pub needed: Vec<(Version, Vec<Use>)>,
    /// Those that are to go but could not be removed, and why; the next command tries again.
    pub left: Vec<(Version, Error)>,
    /// What may need any of them, but could not be looked into, and why.
    pub unseen: Vec<String>,
}

/// Who uses files at this moment, or will when it is started.
struct Users {
    open: OpenFiles,
    machines: Machines,
}

impl Users {
    fn now(dirs: &Dirs) -> Result<Self> {
        Ok(Users {
            open: OpenFiles::now()?,
            machines: Machines::defined(&dirs.libvirt),
        })
    }

    fn of(&self, path: &Path) -> impl Iterator<Item = Use> {
        let file = open_files::id(path);
        let open = file.and_then(|file| self.open.holder(file));
        let machine = file.and_then(|file| self.machines.user(file));
        let open = open.map(|who| Use::Open(who.to_owned()));
        open.into_iter()
            .chain(machine.map(|name| Use::Machine(name.to_owned())))
    }
}

impl Registry {
    /// All but the newest `keep` versions of one image, or of each, sorted by whether anything needs them. Nothing is done.
    pub fn prunable(&self, image: Option<&str>, keep: usize) -> Result<Pruned> {
        if let Some(image) = image {
            self.list(Some(image))?;
        }
        let users = Users::now(&self.dirs)?;
        let ready = match image {
            None => select(&self.db, "v.state = 'ready'", [])?,
            Some(image) => select(&self.db, "v.state = 'ready' AND i.name = ?1", [image])?,
        };
        let children = children(&self.db)?;
        let mut pruned = Pruned::default();
        pruned.sort(old(ready, keep), &users, &children);
        pruned.unseen = users.machines.unseen;
        Ok(pruned)
    }

    /// Removes what was chosen. What somebody has begun to use since then stays.
    pub fn remove_all(&mut self, mut chosen: Pruned) -> Result<Pruned> {
        let doing = || "choosing what to remove".to_owned();
        if chosen.removed.is_empty() {
            return Ok(chosen);
        }
        let users = Users::now(&self.dirs)?;
        let tx = self.begin()?;
        let mut ready = select(&tx, "v.state = 'ready'", [])?;
        ready.retain(|version| chosen.removed.iter().any(|other| other.id == version.id));
        chosen.removed.clear();
        chosen.sort(ready.into_iter(), &users, &children(&tx)?);
        for version in &chosen.removed {
            condemn(&tx, version)?;
        }
        tx.commit().asked(doing)?;
        for version in std::mem::take(&mut chosen.removed) {
            match self.finish_removal(&version) {
                Ok(()) => chosen.removed.push(version),
                Err(error) => chosen.left.push((version, error)),
            }
        }
        Ok(chosen)
    }

    /// The version that is meant, if nothing needs it.
    ///
    /// Errors: something needs it ([`Kind::Conflict`]).
    pub fn removable(&self, reference: &Reference) -> Result<Version> {
        let version = self.find(reference)?;
        refuse_needed(&self.db, &version, &Users::now(&self.dirs)?)?;
        Ok(version)
    }

    /// Removes one version. Returns also what may need it, but could not be looked into, and why.
    ///
    /// Errors: something needs it ([`Kind::Conflict`]).
    pub fn remove(&mut self, reference: &Reference) -> Result<(Version, Vec<String>)> {
        let version = self.find(reference)?;
        let doing = || format!("removing {}", version.name());
        let users = Users::now(&self.dirs)?;
        let tx = self.begin()?;
        refuse_needed(&tx, &version, &users)?;
        condemn(&tx, &version)?;
        tx.commit().asked(doing)?;
        self.finish_removal(&version)?;
        Ok((version, users.machines.unseen))
    }

    /// Removes the files of a version that is to go, then its row. Done again from the beginning if it was cut off.
    pub(super) fn finish_removal(&mut self, version: &Version) -> Result<()> {
        let doing = || format!("removing {}", version.name());
        self.relink_without(version)?;
        // Somebody may use it since that was decided.
        if let Some(used) = Users::now(&self.dirs)?.of(&version.path).next() {
            return Err(Error::new(doing())
                .kind(Kind::Conflict)
                .cause(used)
                .hint("it is removed by the next command after that"));
        }
        // The image first: there is never an image without a record.
        for path in artifact::files(&version.path) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).doing(|| format!("removing {}", path.display()));
                }
                _ => {}
            }
        }
        if let Some(folder) = version.path.parent().filter(|folder| folder.exists()) {
            crate::store::sync_folder(folder).doing(doing)?;
        }
        let text = "DELETE FROM version WHERE id = ?1 AND state = 'removing'";
        self.db.execute(text, [version.id]).map(drop).asked(doing)
    }

    /// Makes the link that points to a version that is to go point to the newest that stays, or removes it.
    fn relink_without(&self, version: &Version) -> Result<()> {
        if artifact::current(&version.link) != version.path {
            return Ok(());
        }
        let lock = artifact::lock_path(&self.dirs, &version.link);
        let Some(_lock) = Lock::try_acquire(&lock)? else {
            return Err(Error::new(format!("removing {}", version.name()))
                .kind(Kind::Conflict)
                .cause(format!(
                    "{} points to it, and a build is about to change that",
                    version.link.display()
                ))
                .hint("it is removed by the next command after that build"));
        };
        match newest(&self.db, version)? {
            Some(newest) => self.link(&version.link, &newest.path),
            None => std::fs::remove_file(&version.link)
                .doing(|| format!("removing {}", version.link.display())),
        }
    }
}

impl Pruned {
    /// Adds versions that are to go: to those that go, or to those that are needed.
    fn sort(
        &mut self,
        versions: impl Iterator<Item = Version>,
        users: &Users,
        children: &HashMap<i64, Vec<String>>,
    ) {
        for version in versions {
            let uses = uses(&version, users, children);
            match uses.is_empty() {
                true => self.removed.push(version),
                false => self.needed.push((version, uses)),
            }
        }
    }
}

/// Refuses to remove what is needed.
fn refuse_needed(db: &Connection, version: &Version, users: &Users) -> Result<()> {
    let uses = uses(version, users, &children(db)?);
    match uses.is_empty() {
        true => Ok(()),
        false => Err(needed(version, &uses)),
    }
}

/// Why a version is not removed.
pub fn needed(version: &Version, uses: &[Use]) -> Error {
    let uses: Vec<String> = uses.iter().map(ToString::to_string).collect();
    Error::new(format!("removing {}", version.name()))
        .kind(Kind::Conflict)
        .cause(uses.join("; "))
        .hint("what is needed is not removed; `imgbuild template show` tells by whom")
}

/// All but the newest `keep` of each image, of versions in the order of images and numbers; never the newest.
fn old(versions: Vec<Version>, keep: usize) -> impl Iterator<Item = Version> {
    let images = versions.chunk_by(|a, b| a.image == b.image);
    let is_old = |images: &[Version]| {
        let old = images.len().saturating_sub(keep.max(1));
        (0..images.len()).map(move |at| at < old)
    };
    let is_old: Vec<bool> = images.flat_map(is_old).collect();
    let judged = versions.into_iter().zip(is_old);
    judged.filter_map(|(version, is_old)| is_old.then_some(version))
}

/// The newest version with the same link that is ready.
fn newest(db: &Connection, version: &Version) -> Result<Option<Version>> {
    let same = "v.state = 'ready' AND v.link = ?1";
    let mut found = select(db, same, [version.link.as_os_str().as_bytes()])?;
    found.sort_by_key(|version| version.number);
    Ok(found.pop())
}

/// What is built on each version, or is being built: names, by the number of its row.
fn children(db: &Connection) -> Result<HashMap<i64, Vec<String>>> {
    let doing = || "looking for what is built on what".to_owned();
    let text = "SELECT v.parent, i.name || '@' || v.number FROM version v
        JOIN image i ON i.id = v.image WHERE v.parent IS NOT NULL ORDER BY i.name, v.number";
    let mut statement = db.prepare(text).asked(doing)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let mut children: HashMap<i64, Vec<String>> = HashMap::new();
    for row in rows.asked(doing)? {
        let (parent, name) = row.asked(doing)?;
        children.entry(parent).or_default().push(name);
    }
    Ok(children)
}

fn uses(version: &Version, users: &Users, children: &HashMap<i64, Vec<String>>) -> Vec<Use> {
    let channels = version.channels.iter().cloned().map(Use::Channel);
    let children = children.get(&version.id).into_iter().flatten();
    let children = children.cloned().map(Use::Version);
    channels
        .chain(users.of(&version.path))
        .chain(children)
        .collect()
}

/// Decides that a version goes.
pub(super) fn condemn(db: &Connection, version: &Version) -> Result<()> {
    let doing = || format!("removing {}", version.name());
    let text = "UPDATE version SET state = 'removing' WHERE id = ?1 AND state = 'ready'
        RETURNING id";
    let condemned = db
        .query_row(text, [version.id], |_| Ok(()))
        .optional()
        .asked(doing)?;
    if version.state != State::Ready || condemned.is_none() {
        return Err(Error::new(doing())
            .kind(Kind::Conflict)
            .cause("another command is removing it"));
    }
    record(
        db,
        &Event::new(Action::Removed, &version.image, version.number),
    )
}
