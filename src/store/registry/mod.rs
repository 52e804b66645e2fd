//! The registry: which versions of which images there are, what channels point to, and what was done when.
//!
//! One SQLite file for each user. What it says of files is true whenever it has been opened: a row is `building` until
//! image, record and link are in their places, and `removing` until they are gone; [`Registry::open`] brings to an end what a
//! process that died has left in one of these states.

mod channels;
mod check;
mod history;
mod journal;
mod rebuild;
mod reconcile;
pub mod reference;
mod removal;
mod replay;
mod reservation;
mod revocation;
mod schema;
#[cfg(test)]
mod tests;
mod versions;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

pub use channels::{Promoted, RolledBack};
pub use check::Checked;
pub use history::{Action, Event};
pub use rebuild::{Rebuilt, rebuild};
pub use reference::{Reference, Wanted, name, on_target};
pub use removal::{Pruned, Use, needed};
pub use reservation::{Claim, Reserved};
pub use revocation::Scope;

use super::{Dirs, Lock};
use crate::error::{Context, Error, Kind, Result};

/// How long a command waits for another one's transaction. They take milliseconds; this is for a machine that is
/// overloaded.
const BUSY: Duration = Duration::from_secs(10);

/// What to do about a file that cannot be used.
const REBUILD: &str = "`imgbuild registry rebuild` makes it anew from the build records beside the images, and from \
                       the file that has its history";

/// The registry, open. It shares a lock with all that have it open, so that nobody replaces the file meanwhile.
pub struct Registry {
    db: Connection,
    dirs: Dirs,
    /// What could not be brought to an end, and why; it is tried again whenever the registry is opened.
    pub unfinished: Vec<Error>,
    _lock: Lock,
}

/// A version of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    id: i64,
    pub image: String,
    pub number: u32,
    /// What `[image] version` made of it.
    pub label: Option<String>,
    pub state: State,
    /// The build that made it.
    pub build: String,
    pub path: PathBuf,
    /// The link that points to the newest version beside it.
    pub link: PathBuf,
    pub created: Timestamp,
    /// Lower-case hex; empty while it is being built.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// The version that it is built on, as `image@number`.
    pub parent: Option<String>,
    /// What the recipe called that.
    pub asked: Option<String>,
    pub revoked: Option<Revoked>,
    /// The channels that point to it.
    pub channels: Vec<String>,
}

/// How far a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Building,
    Ready,
    Removing,
}

/// That a version must not be built on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    pub at: Timestamp,
    pub reason: String,
}

impl Version {
    /// `image@number`.
    pub fn name(&self) -> String {
        format!("{}@{}", self.image, self.number)
    }

    /// What it is called by its number.
    pub fn reference(&self) -> Reference {
        Reference {
            image: self.image.clone(),
            wanted: Wanted::Number(self.number),
        }
    }

    /// Whether its file is where it was, as large as it was.
    pub fn is_there(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|about| about.len() == self.size)
    }

    /// When and why it was revoked, if it was.
    pub fn revocation(&self) -> Option<String> {
        self.revoked.as_ref().map(|revoked| {
            format!(
                "{} was revoked on {}: {}",
                self.name(),
                revoked.at.strftime("%Y-%m-%d"),
                revoked.reason
            )
        })
    }

    /// Refuses one that was revoked.
    pub fn refuse_revoked(&self, doing: impl Into<String>) -> Result<()> {
        match self.revocation() {
            None => Ok(()),
            Some(revocation) => Err(Error::new(doing)
                .kind(Kind::Verification)
                .cause(revocation)
                .hint("use another version; `imgbuild template restore` undoes a revocation")),
        }
    }

    /// Refuses one whose file is not there.
    pub fn refuse_missing(&self, doing: impl Into<String>) -> Result<()> {
        match self.is_there() {
            true => Ok(()),
            false => Err(Error::new(doing)
                .cause(format!(
                    "{} is not what was built, or is gone",
                    self.path.display()
                ))
                .hint("`imgbuild doctor` tells what else does not agree with the registry")),
        }
    }
}

impl Registry {
    /// Opens the registry, which is made if there is none, and brings to an end what processes that died have begun.
    pub fn open(dirs: &Dirs) -> Result<Self> {
        let path = dirs.registry();
        if !path.exists() {
            create(&path)?;
        }
        let mut registry = Registry::as_it_is(dirs)?;
        registry.reconcile()?;
        if let Err(error) = journal::complete(&registry.db, &dirs.history()) {
            registry.unfinished.push(error);
        }
        Ok(registry)
    }

    /// As [`Registry::open`], but `None` if there is none.
    pub fn open_existing(dirs: &Dirs) -> Result<Option<Self>> {
        match dirs.registry().exists() {
            true => Registry::open(dirs).map(Some),
            false => Ok(None),
        }
    }

    fn as_it_is(dirs: &Dirs) -> Result<Self> {
        let lock = Lock::try_share(&lock(dirs))?.ok_or_else(|| {
            Error::new("opening the registry")
                .kind(Kind::Conflict)
                .cause("another imgbuild is rebuilding it")
                .hint("try again when that has ended")
        })?;
        Ok(Registry {
            db: connect(&dirs.registry())?,
            dirs: dirs.clone(),
            unfinished: vec![],
            _lock: lock,
        })
    }

    /// A transaction that nobody else writes beside.
    fn begin(&mut self) -> Result<Change<'_>> {
        let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate);
        Ok(Change {
            tx: tx.asked(|| "writing to the registry".to_owned())?,
            db: &self.db,
            history: self.dirs.history(),
        })
    }
}

/// A transaction whose events are in the history's file when it was committed.
struct Change<'r> {
    tx: Transaction<'r>,
    db: &'r Connection,
    history: PathBuf,
}

impl Change<'_> {
    fn commit(self) -> rusqlite::Result<()> {
        self.tx.commit()?;
        // It is done, whether it can be written there now or not; the next command tries again, and tells.
        let _ = journal::complete(self.db, &self.history);
        Ok(())
    }
}

impl Deref for Change<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.tx
    }
}

/// Shared by whoever has the registry open, owned by whoever replaces it.
fn lock(dirs: &Dirs) -> PathBuf {
    dirs.locks().join("registry")
}

fn connect(path: &Path) -> Result<Connection> {
    let doing = || format!("opening the registry {}", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).asked(doing)?;
    db.busy_timeout(BUSY).asked(doing)?;
    db.pragma_update(None, "foreign_keys", true).asked(doing)?;
    // What was promoted stays so after a power cut.
    db.pragma_update(None, "synchronous", "full").asked(doing)?;
    schema::migrate(&mut db)?;
    Ok(db)
}

/// Makes an empty registry. It gets its name when it is whole, so that two processes cannot make one half each.
fn create(path: &Path) -> Result<()> {
    let doing = || format!("creating the registry {}", path.display());
    static ATTEMPT: AtomicU32 = AtomicU32::new(0);
    let (process, attempt) = (std::process::id(), ATTEMPT.fetch_add(1, Ordering::Relaxed));
    let aside = path.with_file_name(format!(".registry.{process}.{attempt}.partial"));
    create_aside(&aside)?;
    let linked = std::fs::hard_link(&aside, path);
    std::fs::remove_file(&aside).doing(doing)?;
    match linked {
        // Another process was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked.doing(doing),
    }
}

/// Makes an empty registry that nobody else knows yet, and closes it.
fn create_aside(aside: &Path) -> Result<()> {
    let doing = || format!("creating the registry {}", aside.display());
    if let Some(folder) = aside.parent() {
        super::create_private_folder(folder)?;
    }
    // What a process of the same number has left.
    match std::fs::remove_file(aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).doing(doing);
        }
        _ => {}
    }
    std::fs::File::create_new(aside).doing(doing)?;
    let mut db = Connection::open(aside).asked(doing)?;
    // It stays in the file. Readers and one writer do not wait for each other.
    db.pragma_update(None, "journal_mode", "wal").asked(doing)?;
    schema::create(&mut db)?;
    db.close().map_err(|(_, error)| error).asked(doing)
}

/// Errors of SQLite in the user's terms.
trait Asked<T> {
    fn asked(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Asked<T> for rusqlite::Result<T> {
    fn asked(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let told = Error::new(doing()).caused_by(&error);
            match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => told.hint(REBUILD),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => told
                    .kind(Kind::Conflict)
                    .hint("another imgbuild is writing to it; try again"),
                _ => told,
            }
        })
    }
}

fn milliseconds(at: i64) -> Timestamp {
    Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH)
}
