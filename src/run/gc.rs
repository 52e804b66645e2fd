//! Reaping what dead builds have left: after SIGKILL or power loss, the next command finds their journals.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::journal::{Journal, Resource};
use crate::error::{Context, Error, Result};
use crate::store::{Dirs, Lock};

/// The journal's file name in a build's folder.
pub(super) const JOURNAL: &str = "journal.jsonl";
/// The log's file name there.
pub(super) const LOG: &str = "log.txt";
/// The lock that a living build holds in its folder.
pub(super) const LOCK: &str = "lock";

/// What was found of one dead build.
#[derive(Debug, Default)]
pub struct Reaped {
    /// The build's id.
    pub id: String,
    /// What was removed.
    pub removed: Vec<Resource>,
    /// What could not be removed, and why.
    pub remaining: Vec<(Resource, Error)>,
    /// Left on purpose and not touched.
    pub kept: Vec<Resource>,
    /// Why it is not known what there was, or whether that is all.
    pub failed: Option<Error>,
}

/// Removes what dead builds have left. Living builds are not touched; kept ones only when `kept_too`. One that fails does not
/// keep the others from being reaped.
pub async fn reap(dirs: &Dirs, kept_too: bool) -> Result<Vec<Reaped>> {
    let mut reaped = vec![];
    for folder in folders_with_journal(&dirs.builds())? {
        let id = folder.file_name().unwrap_or_default().to_string_lossy();
        let mut build = Reaped {
            id: id.into_owned(),
            ..Reaped::default()
        };
        let _lock = match Lock::try_acquire(&folder.join(LOCK)) {
            Ok(Some(lock)) => Some(lock),
            Ok(None) => continue, // alive
            Err(error) => {
                build.failed = Some(error);
                reaped.push(build);
                continue;
            }
        };
        if let Err(error) = build.reap(&folder.join(JOURNAL), kept_too).await {
            build.failed = Some(error);
        }
        reaped.push(build);
    }
    Ok(reaped)
}

impl Reaped {
    async fn reap(&mut self, journal: &Path, kept_too: bool) -> Result<()> {
        let remains = Journal::read(journal).map_err(|error| {
            error.hint("remove what this build left by hand, then delete its folder")
        })?;
        if remains.kept && !kept_too {
            self.kept = remains.live;
            return Ok(());
        }
        for resource in remains.live.into_iter().rev() {
            match resource.remove().await {
                Ok(()) => self.removed.push(resource),
                Err(error) => self.remaining.push((resource, error)),
            }
        }
        match self.remaining.is_empty() {
            true => {
                std::fs::remove_file(journal).doing(|| format!("removing {}", journal.display()))
            }
            false => Ok(()),
        }
    }
}

/// Whether a build still runs.
pub fn is_alive(dirs: &Dirs, id: &str) -> Result<bool> {
    let lock = dirs.builds().join(id).join(LOCK);
    // A lock that cannot be had is one that somebody holds, or one that is gone with the build's folder.
    Ok(Lock::try_acquire_existing(&lock)?.is_none() && lock.exists())
}

/// Removes the folders, which by then hold logs only, of builds that ended well or badly before `before` and left
/// nothing else. Returns their ids.
pub fn prune(dirs: &Dirs, before: SystemTime) -> Result<Vec<String>> {
    let mut pruned = vec![];
    for folder in folders(&dirs.builds())? {
        let doing = || format!("removing the logs in {}", folder.display());
        // One without a log is dated by its folder. Another `gc` may be removing it.
        let log = std::fs::metadata(folder.join(LOG)).or_else(|_| folder.metadata());
        let last = log.and_then(|about| about.modified());
        if last.map_or(true, |last| last >= before) {
            continue;
        }
        let Some(_lock) = Lock::try_acquire(&folder.join(LOCK))? else {
            continue; // alive, and silent for long
        };
        if folder.join(JOURNAL).exists() {
            continue;
        }
        std::fs::remove_dir_all(&folder).doing(doing)?;
        let id = folder.file_name().unwrap_or_default();
        pruned.push(id.to_string_lossy().into_owned());
    }
    Ok(pruned)
}

fn folders_with_journal(builds: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = folders(builds)?;
    folders.retain(|folder| folder.join(JOURNAL).exists());
    Ok(folders)
}

/// The folders of all builds, the oldest first.
fn folders(builds: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(builds) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).doing(|| format!("reading {}", builds.display())),
    };
    let mut folders: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(dirs: &Dirs, id: &str) -> (PathBuf, Journal) {
        let folder = dirs.builds().join(id);
        std::fs::create_dir_all(&folder).unwrap();
        let journal = Journal::create(&folder.join(JOURNAL)).unwrap();
        (folder, journal)
    }

    #[tokio::test]
    async fn a_dead_build_is_reaped_once_and_a_living_one_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        let disk = home.path().join("disk");
        std::fs::write(&disk, "x").unwrap();
        let (_, dead) = build(&dirs, "dead");
        dead.add(Resource::File { path: disk.clone() }).unwrap();
        let (alive, journal) = build(&dirs, "alive");
        journal
            .add(Resource::File {
                path: home.path().join("other"),
            })
            .unwrap();
        let _lock = Lock::try_acquire(&alive.join(LOCK)).unwrap();

        let first = reap(&dirs, false).await.unwrap();
        assert_eq!(first.len(), 1);
        assert_eq!((first[0].id.as_str(), first[0].removed.len()), ("dead", 1));
        assert!(!disk.exists());
        assert!(reap(&dirs, false).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_journal_that_cannot_be_read_does_not_keep_others_from_being_reaped() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        let (damaged, _) = build(&dirs, "a-damaged");
        std::fs::write(damaged.join(JOURNAL), "{}\n{}\n").unwrap();
        let disk = home.path().join("disk");
        std::fs::write(&disk, "x").unwrap();
        let (_, dead) = build(&dirs, "b-dead");
        dead.add(Resource::File { path: disk.clone() }).unwrap();

        let reaped = reap(&dirs, false).await.unwrap();
        let failed = |build: &Reaped| (build.id.clone(), build.failed.is_some());
        let found: Vec<_> = reaped.iter().map(failed).collect();
        assert_eq!(
            found,
            [("a-damaged".into(), true), ("b-dead".into(), false)]
        );
        assert!(!disk.exists());
        assert!(
            damaged.join(JOURNAL).exists(),
            "it is still to be looked at"
        );
    }

    #[tokio::test]
    async fn what_was_kept_on_purpose_goes_only_on_request() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        let disk = home.path().join("disk");
        std::fs::write(&disk, "x").unwrap();
        let (_, journal) = build(&dirs, "kept");
        journal.add(Resource::File { path: disk.clone() }).unwrap();
        journal.keep().unwrap();
        assert_eq!(reap(&dirs, false).await.unwrap()[0].kept.len(), 1);
        assert!(disk.exists());
        reap(&dirs, true).await.unwrap();
        assert!(!disk.exists());
    }

    #[test]
    fn only_logs_of_builds_that_are_over_and_old_are_pruned() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        let now = SystemTime::now();
        let days = |days: u64| now - std::time::Duration::from_secs(days * 24 * 60 * 60);
        let logged = |id: &str, age: u64| {
            let (folder, _) = build(&dirs, id);
            let log = std::fs::File::create(folder.join(LOG)).unwrap();
            log.set_modified(days(age)).unwrap();
            folder
        };
        let over = |folder: &Path| std::fs::remove_file(folder.join(JOURNAL)).unwrap();
        for (id, age) in [("old", 31), ("new", 29)] {
            over(&logged(id, age));
        }
        logged("with-remains", 31);
        let silent = logged("silent", 31);
        over(&silent);
        let _alive = Lock::try_acquire(&silent.join(LOCK)).unwrap();
        assert_eq!(prune(&dirs, days(30)).unwrap(), ["old"]);
        let left = ["new", "silent", "with-remains"].map(|id| dirs.builds().join(id));
        assert_eq!(folders(&dirs.builds()).unwrap(), left);
    }
}
