//! What processes that died have left half-done: it is finished where all is there, else taken back.

use std::os::unix::ffi::OsStrExt;

use super::reservation::publish;
use super::versions::select;
use super::{Asked, Registry, State, Version};
use crate::error::{Context, Error, Kind, Result};
use crate::record;
use crate::run::gc;
use crate::store::{Lock, artifact};

impl Registry {
    /// Makes the registry and the disk agree again. What cannot be done now (a folder that may not be written to) is left
    /// for the next time and told.
    pub(super) fn reconcile(&mut self) -> Result<()> {
        for version in select(&self.db, "v.state <> 'ready'", [])? {
            let done = match version.state {
                State::Removing => self.finish_removal(&version),
                State::Building => match gc::is_alive(&self.dirs, &version.build) {
                    Ok(true) => Ok(()),
                    Ok(false) => self.settle(&version),
                    Err(error) => Err(error),
                },
                State::Ready => Ok(()),
            };
            match done {
                // A build is in the way, which may be the very one that opens the registry.
                Err(error) if error.get_kind() == Kind::Conflict => {}
                Err(error) => self.unfinished.push(error),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Decides about a version whose build is over: it is there if its image is, since that gets its name after its record.
    fn settle(&mut self, version: &Version) -> Result<()> {
        let doing = || format!("settling {}", version.name());
        let known = record::read(&record::path(&version.path)).ok();
        let known = known.filter(|known| known.build.id == version.build);
        match known.filter(|_| version.path.exists()) {
            Some(known) => {
                let Some(_lock) =
                    Lock::try_acquire(&artifact::lock_path(&self.dirs, &version.link))?
                else {
                    return Err(Error::new(doing()).kind(Kind::Conflict));
                };
                self.link_if_newest(version)?;
                let tx = self.begin()?;
                let still = select(&tx, "v.id = ?1 AND v.state = 'building'", [version.id])?;
                if !still.is_empty() {
                    let path = version.path.as_os_str().as_bytes();
                    publish(&tx, path, &known.artifact.sha256, known.artifact.size)?;
                }
                tx.commit().asked(doing)
            }
            None => {
                for path in artifact::files(&version.path) {
                    match std::fs::remove_file(&path) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(error).doing(|| format!("removing {}", path.display()));
                        }
                        _ => {}
                    }
                }
                let text = "DELETE FROM version WHERE id = ?1 AND state = 'building'";
                self.db.execute(text, [version.id]).map(drop).asked(doing)
            }
        }
    }

    fn link_if_newest(&self, version: &Version) -> Result<()> {
        let later = "v.link = ?1 AND v.number > ?2 AND v.state = 'ready'";
        let link = version.link.as_os_str().as_bytes();
        let later = select(&self.db, later, rusqlite::params![link, version.number])?;
        match later.is_empty() {
            true => self.link(&version.link, &version.path),
            false => Ok(()),
        }
    }
}
