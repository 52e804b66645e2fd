//! Whether the registry is whole and agrees with the disk.

use sha2::{Digest, Sha256};

use super::versions::select;
use super::{Asked, REBUILD, Registry, Version};
use crate::error::{Error, Result};
use crate::record::TemplateFile;
use crate::store::Dirs;
use crate::text::hex;

/// What a check of the registry found.
#[derive(Debug, PartialEq, Eq)]
pub struct Checked {
    pub versions: usize,
    /// What does not agree, one line each.
    pub wrong: Vec<String>,
}

/// Whether a version's file is what it was. One that stands for a template on a server is small, and read as a whole.
fn is_what_was_built(version: &Version) -> bool {
    let is_whole = || {
        let content = std::fs::read(&version.path);
        content.is_ok_and(|content| hex(&Sha256::digest(content)) == version.sha256)
    };
    version.is_there() && (!TemplateFile::is(&version.path) || is_whole())
}

impl Registry {
    /// Checks file and content; `None` if there is no registry.
    ///
    /// Errors: the file is damaged, or a newer imgbuild has made it.
    pub fn check(dirs: &Dirs) -> Result<Option<Checked>> {
        let Some(registry) = Registry::open_existing(dirs)? else {
            return Ok(None);
        };
        registry.check_file()?;
        let versions = select(&registry.db, "v.state = 'ready'", [])?;
        let unfinished = registry.unfinished.iter().map(ToString::to_string);
        let mut wrong: Vec<String> = unfinished.collect();
        for version in versions
            .iter()
            .filter(|version| !is_what_was_built(version))
        {
            let (name, path) = (version.name(), version.path.display());
            wrong.push(format!(
                "{name}: {path} is gone or changed; put it back, or `imgbuild template rm {name}`"
            ));
        }
        Ok(Some(Checked {
            versions: versions.len(),
            wrong,
        }))
    }

    fn check_file(&self) -> Result<()> {
        let doing = || "checking the registry".to_owned();
        for pragma in ["integrity_check", "foreign_key_check"] {
            let mut statement = self.db.prepare(&format!("PRAGMA {pragma}")).asked(doing)?;
            let rows = statement.query_map([], |row| row.get(0)).asked(doing)?;
            let said: Vec<String> = rows.collect::<rusqlite::Result<_>>().asked(doing)?;
            if said.iter().any(|line| line != "ok") {
                return Err(Error::new(doing())
                    .cause("it is damaged")
                    .detail(pragma, said.join("\n"))
                    .hint(REBUILD));
            }
        }
        Ok(())
    }
}
