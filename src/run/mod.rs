//! The running build: its id and folders, events, cancellation, and the journal of what it must not leave behind.

pub mod events;
pub mod gc;
pub mod interrupt;
pub mod journal;
mod log;
mod process;
pub mod terminal;

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use events::Events;
pub use interrupt::Interrupt;
pub use journal::{Journal, Resource};

use crate::error::{Context, Error, Result};
use crate::store::{Dirs, Lock};
use events::Observer;

/// One run of one build.
pub struct Run {
    /// Unique name: time of the start (UTC) and four random hex digits, so that names sort by age.
    pub id: String,
    /// The build's folder in the state directory: log, console, journal.
    pub folder: PathBuf,
    /// The folders of this user.
    pub dirs: Dirs,
    /// Where the build tells what it does.
    pub events: Events,
    interrupt: Interrupt,
    journal: Journal,
    timings: Mutex<Vec<Timing>>,
    _lock: Lock,
}

/// How long a phase took.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Timing {
    pub phase: String,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
}

fn seconds<S: serde::Serializer>(elapsed: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((elapsed.as_secs_f64() * 1000.0).round() / 1000.0)
}

impl Run {
    /// Starts a run of the build called `name`. The lock tells others that its owner is alive.
    pub fn start(
        name: &str,
        dirs: &Dirs,
        interrupt: &Interrupt,
        screen: Arc<dyn Observer>,
    ) -> Result<Self> {
        let (id, folder) = new_folder(dirs)?;
        let lock = Lock::try_acquire(&folder.join(gc::LOCK))?
            .ok_or_else(|| Error::new(format!("locking the new build {id}")))?;
        let log: Arc<dyn Observer> = Arc::new(log::Log::create(&folder.join(gc::LOG))?);
        Ok(Run {
            journal: Journal::create(&folder.join(gc::JOURNAL))?,
            events: Events::new(name, vec![screen, log]),
            interrupt: interrupt.clone(),
            dirs: dirs.clone(),
            timings: Mutex::default(),
            _lock: lock,
            id,
            folder,
        })
    }

    /// Runs one phase: reports its begin and end, takes its time, and ends it when the user interrupts.
    pub async fn phase<T>(&self, name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.events.started(name);
        let began = Instant::now();
        let result = self.interrupt.or(work).await;
        let elapsed = began.elapsed();
        self.events.ended(name, elapsed, result.is_ok());
        self.timings().push(Timing {
            phase: name.into(),
            elapsed,
        });
        result
    }

    /// Runs what is no phase of its own, and ends it when the user interrupts.
    pub async fn unless_interrupted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.interrupt.or(work).await
    }

    /// Promises that `resource` will be removed. Call it before making the resource.
    pub fn guard(&self, resource: Resource) -> Result<Resource> {
        self.journal.add(resource.clone())?;
        Ok(resource)
    }

    /// Removes one resource now.
    pub async fn remove(&self, resource: &Resource) -> Result<()> {
        resource.remove().await?;
        self.journal.done(resource)
    }

    /// Takes back the promise: the resource has become something that stays.
    pub fn release(&self, resource: &Resource) -> Result<()> {
        self.journal.done(resource)
    }

    /// Whether a machine of this run is still there.
    pub fn has_machine(&self) -> bool {
        self.journal.has_machine()
    }

    /// Leaves everything as it is, for somebody to look at; `imgbuild gc --kept` removes it later.
    pub fn keep(&self) -> Result<()> {
        self.journal.keep()
    }

    /// Removes what is left, newest first, and returns what could not be removed and why.
    pub async fn tear_down(&self) -> Vec<(Resource, Error)> {
        let remaining = self.journal.tear_down().await;
        if remaining.is_empty() {
            // Without a journal there is nothing for gc to look at; a leftover empty one would only be read again.
            let _ = std::fs::remove_file(self.folder.join(gc::JOURNAL));
        }
        remaining
    }

    /// How long each phase took so far.
    pub fn timings(&self) -> std::sync::MutexGuard<'_, Vec<Timing>> {
        self.timings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log file in the build's folder.
    pub fn open_log(&self, name: &str) -> Result<File> {
        let path = self.folder.join(name);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .doing(|| format!("opening the log {}", path.display()))
    }
}

fn new_folder(dirs: &Dirs) -> Result<(String, PathBuf)> {
    let builds = dirs.builds();
    crate::store::create_private_folder(&builds)?;
    loop {
        let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
        let id = format!("{now}-{:04x}", random_u16()?);
        let folder = builds.join(&id);
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok((id, folder)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).doing(|| format!("creating {}", folder.display())),
        }
    }
}

fn random_u16() -> Result<u16> {
    let mut bytes = [0; 2];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .doing(|| "asking the kernel for randomness")?;
    }
    Ok(u16::from_ne_bytes(bytes))
}
