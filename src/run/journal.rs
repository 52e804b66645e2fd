//! The journal: what a build is about to create outside of its own memory, on disk before it exists.
//!
//! One record is appended and synced before a resource is made. The same [`Resource::remove`] serves the orderly end,
//! Ctrl-C, and `imgbuild gc` after a SIGKILL, so the path that runs rarely is the path that runs always.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::process;
use crate::backend::proxmox::leftover::{Leftover, What};
use crate::error::{Context, Error, Result};
use crate::project::Project;

/// Something that exists outside of this process and must not outlive the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Resource {
    /// A folder with everything in it.
    Folder { path: PathBuf },
    /// A file.
    File { path: PathBuf },
    /// A folder that becomes something that stays as soon as it has a file of the name `mark`.
    Unfinished { path: PathBuf, mark: String },
    /// A process whose command line has this word (made unique by the build's id). By word, not by pid: the pid is
    /// not known before the process exists, and pids are reused.
    Process { word: String },
    /// Something on the server that a project file calls `target`.
    Remote {
        project: PathBuf,
        target: String,
        leftover: Leftover,
    },
}

impl Resource {
    /// Removes it. A resource that was never made, or is gone already, is success.
    pub async fn remove(&self) -> Result<()> {
        let gone = |result: std::io::Result<()>| match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).doing(|| format!("removing {self}"))
            }
            _ => Ok(()),
        };
        match self {
            Resource::Folder { path } => gone(std::fs::remove_dir_all(path)),
            Resource::File { path } => gone(std::fs::remove_file(path)),
            Resource::Unfinished { path, mark } => match path.join(mark).exists() {
                true => Ok(()),
                false => gone(std::fs::remove_dir_all(path)),
            },
            Resource::Process { word } => process::kill_by_word(word).await,
            Resource::Remote {
                project,
                target,
                leftover,
            } => {
                let target = Project::read(project)?.target(target)?;
                leftover.remove(&target.connect().await?).await
            }
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Resource::Folder { path } => write!(f, "the folder {}", path.display()),
            Resource::File { path } => write!(f, "the file {}", path.display()),
            Resource::Unfinished { path, .. } => write!(f, "the folder {}", path.display()),
            Resource::Process { word } => write!(f, "the process named {word}"),
            Resource::Remote { leftover, .. } => leftover.fmt(f),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Record {
    Add(Resource),
    Done(Resource),
    /// Left running on purpose (`--on-error keep`): only an explicit request removes it.
    Kept,
}

/// The journal of one build, open for writing.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    live: Vec<Resource>,
}

/// Takes a resource out once: two who have promised the same thing take it back each for himself.
fn forget(live: &mut Vec<Resource>, resource: &Resource) {
    if let Some(at) = live.iter().rposition(|live| live == resource) {
        live.remove(at);
    }
}

/// What a journal on disk says about a build that is over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// What may still exist, oldest first.
    pub live: Vec<Resource>,
    /// Whether it was left on purpose.
    pub kept: bool,
}

impl Journal {
    /// Creates a new journal.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::options()
            .create_new(true)
            .append(true)
            .open(path)
            .doing(|| format!("creating the journal {}", path.display()))?;
        // A journal whose name is lost in a crash records nothing.
        crate::store::sync_folder(path.parent().unwrap_or(Path::new(".")))
            .doing(|| format!("creating the journal {}", path.display()))?;
        Ok(Journal {
            path: path.to_owned(),
            state: Mutex::new(State { file, live: vec![] }),
        })
    }

    /// Records a resource; only after this returned may it be made.
    pub fn add(&self, resource: Resource) -> Result<()> {
        self.append(Record::Add(resource.clone()))?;
        self.state().live.push(resource);
        Ok(())
    }

    /// Records that a resource is gone, or has become something that stays (a renamed file).
    pub fn done(&self, resource: &Resource) -> Result<()> {
        self.append(Record::Done(resource.clone()))?;
        forget(&mut self.state().live, resource);
        Ok(())
    }

    /// Records that what is live now stays on purpose.
    pub fn keep(&self) -> Result<()> {
        self.append(Record::Kept)
    }

    /// Whether it names a machine that is still there: a process that runs, or one on a server, which nobody else removes.
    pub fn has_machine(&self) -> bool {
        let is_there = |resource: &Resource| match resource {
            Resource::Process { word } => !process::pids(word).is_empty(),
            Resource::Remote { leftover, .. } => matches!(leftover.what, What::Machine { .. }),
            Resource::Folder { .. } | Resource::File { .. } | Resource::Unfinished { .. } => false,
        };
        self.state().live.iter().any(is_there)
    }

    /// Removes what is live, newest first, and returns what could not be removed and why.
    pub async fn tear_down(&self) -> Vec<(Resource, Error)> {
        let live = self.state().live.clone();
        let mut remaining = vec![];
        for resource in live.iter().rev() {
            let removed = match resource.remove().await {
                Ok(()) => self.done(resource),
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                remaining.push((resource.clone(), error));
            }
        }
        remaining
    }

    /// Reads the journal of a build that is over. A last line cut off by a crash recorded nothing that was made yet.
    pub fn read(path: &Path) -> Result<Remains> {
        let text = std::fs::read_to_string(path)
            .doing(|| format!("reading the journal {}", path.display()))?;
        let mut remains = Remains::default();
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(Record::Add(resource)) => remains.live.push(resource),
                Ok(Record::Done(resource)) => forget(&mut remains.live, &resource),
                Ok(Record::Kept) => remains.kept = true,
                Err(_) if !text.ends_with('\n') && text.ends_with(line) => {}
                Err(error) => {
                    return Err(error).doing(|| format!("reading the journal {}", path.display()));
                }
            }
        }
        Ok(remains)
    }

    fn append(&self, record: Record) -> Result<()> {
        let doing = || format!("writing the journal {}", self.path.display());
        let mut line = serde_json::to_string(&record).doing(doing)?;
        line.push('\n');
        let file = &mut self.state().file;
        file.write_all(line.as_bytes()).doing(doing)?;
        file.sync_data().doing(doing)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path) -> Resource {
        Resource::File { path: path.into() }
    }

    #[tokio::test]
    async fn teardown_goes_in_reverse_and_a_second_reader_sees_nothing_left() {
        let folder = tempfile::tempdir().unwrap();
        let work = folder.path().join("work");
        let journal = Journal::create(&folder.path().join("journal")).unwrap();
        journal
            .add(Resource::Folder { path: work.clone() })
            .unwrap();
        std::fs::create_dir(&work).unwrap();
        journal.add(file(&work.join("disk"))).unwrap();
        std::fs::write(work.join("disk"), "x").unwrap();
        assert!(journal.tear_down().await.is_empty());
        assert!(!work.exists());
        let remains = Journal::read(&folder.path().join("journal")).unwrap();
        assert_eq!(remains, Remains::default());
    }

    #[test]
    fn of_two_who_have_promised_the_same_each_takes_back_his_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (journal, same) = (Journal::create(&path).unwrap(), file(Path::new("same")));
        journal.add(same.clone()).unwrap();
        journal.add(same.clone()).unwrap();
        journal.done(&same).unwrap();
        assert_eq!(journal.state().live, std::slice::from_ref(&same));
        assert_eq!(Journal::read(&path).unwrap().live, [same]);
    }

    #[tokio::test]
    async fn what_cannot_be_removed_is_named_and_stays_in_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::create(&folder.path().join("journal")).unwrap();
        let stubborn = file(folder.path()); // a folder is no file: unlink refuses, for root too
        journal.add(stubborn.clone()).unwrap();
        let remaining = journal.tear_down().await;
        assert_eq!(remaining.len(), 1);
        assert!(remaining[0].1.to_string().contains("removing the file"));
        let remains = Journal::read(&folder.path().join("journal")).unwrap();
        assert_eq!(remains.live, [stubborn]);
    }

    #[tokio::test]
    async fn what_has_become_something_that_stays_stays() {
        let folder = tempfile::tempdir().unwrap();
        let unfinished = |name: &str| Resource::Unfinished {
            path: folder.path().join(name),
            mark: "done".into(),
        };
        for name in ["half", "whole"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("whole/done"), "").unwrap();
        for name in ["half", "whole", "never-made"] {
            unfinished(name).remove().await.unwrap();
        }
        assert!(!folder.path().join("half").exists());
        assert!(folder.path().join("whole").exists());
    }

    #[test]
    fn a_record_cut_off_by_a_crash_is_ignored_but_damage_in_the_middle_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::create(&path).unwrap();
        journal.add(file(Path::new("/a"))).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{whole}{{\"add\":{{\"ki")).unwrap();
        assert_eq!(Journal::read(&path).unwrap().live, [file(Path::new("/a"))]);
        std::fs::write(&path, format!("{{\"add\":{{\"ki\n{whole}")).unwrap();
        Journal::read(&path).unwrap_err();
    }
}
