//! The folders of this user's cache and state (DESIGN: XDG, or all under `IMGBUILD_HOME`).

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use crate::error::{Context, Kind, Result};

/// The root folders. Nothing is created until something is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Downloaded images; may be deleted at any time at the price of downloading again.
    pub cache: PathBuf,
    /// Builds with their logs and journals, and locks.
    pub state: PathBuf,
}

impl Dirs {
    /// The folders for this process's environment: `IMGBUILD_HOME/{cache,state}` if set, else XDG's.
    pub fn from_env() -> Result<Self> {
        if let Some(home) = std::env::var_os("IMGBUILD_HOME").filter(|home| !home.is_empty()) {
            let home = std::path::absolute(home)
                .doing(|| "resolving IMGBUILD_HOME")
                .map_err(|error| error.kind(Kind::Usage))?;
            return Ok(Dirs::under(&home));
        }
        let xdg = etcetera::base_strategy::Xdg::new()
            .doing(|| "finding the home directory")
            .map_err(|error| {
                error.hint("set HOME, or IMGBUILD_HOME to a folder for imgbuild's files")
            })?;
        Ok(Dirs {
            cache: xdg.cache_dir().join("imgbuild"),
            state: xdg
                .state_dir()
                .unwrap_or_else(|| xdg.data_dir())
                .join("imgbuild"),
        })
    }

    /// The folders under one root, as with `IMGBUILD_HOME`.
    pub fn under(home: &Path) -> Self {
        Dirs {
            cache: home.join("cache"),
            state: home.join("state"),
        }
    }

    /// Base images, kept by digest.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// Disks of builds in progress, one folder for each build.
    pub fn work(&self) -> PathBuf {
        self.cache.join("work")
    }

    /// One folder for each build: log, console, journal, lock.
    pub fn builds(&self) -> PathBuf {
        self.state.join("builds")
    }

    /// Lock files.
    pub fn locks(&self) -> PathBuf {
        self.state.join("locks")
    }
}
