//! The folders of this user's cache, state and config (DESIGN: XDG, or all under `IMGBUILD_HOME`).

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
    /// What the user decided: the signing key, and whose signatures are trusted.
    pub config: PathBuf,
    /// A cache that somebody else fills, on a network share for instance: it is read, never written.
    pub shared: Option<PathBuf>,
    /// Where libvirt keeps what it knows: the system's, and this user's.
    pub libvirt: Vec<PathBuf>,
}

impl Dirs {
    /// The folders for this process's environment: `IMGBUILD_HOME/{cache,state,config}` if set, else XDG's; and
    /// `IMGBUILD_SHARED_CACHE`.
    pub fn from_env() -> Result<Self> {
        let shared = std::env::var_os("IMGBUILD_SHARED_CACHE").filter(|path| !path.is_empty());
        let shared = shared.map(PathBuf::from);
        let own = etcetera::base_strategy::Xdg::new().ok();
        let own = own.map(|xdg| xdg.config_dir().join("libvirt"));
        let system = PathBuf::from("/etc/libvirt");
        Ok(Dirs {
            shared,
            libvirt: [system].into_iter().chain(own).collect(),
            ..Dirs::own()?
        })
    }

    fn own() -> Result<Self> {
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
            config: xdg.config_dir().join("imgbuild"),
            shared: None,
            libvirt: vec![],
        })
    }

    /// The folders under one root, as with `IMGBUILD_HOME`.
    pub fn under(home: &Path) -> Self {
        Dirs {
            cache: home.join("cache"),
            state: home.join("state"),
            config: home.join("config"),
            shared: None,
            libvirt: vec![],
        }
    }

    /// Base images, kept by digest.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// Files that steps fetch, kept by digest.
    pub fn files(&self) -> PathBuf {
        self.cache.join("files")
    }

    /// Documents that recipes look things up in, as they were last.
    pub fn documents(&self) -> PathBuf {
        self.cache.join("documents")
    }

    /// Layers: machines as they were after a step.
    pub fn layers(&self) -> PathBuf {
        self.cache.join("layers")
    }

    /// What was built last, by output.
    pub fn outputs(&self) -> PathBuf {
        self.state.join("outputs")
    }

    /// The versions of all images.
    pub fn registry(&self) -> PathBuf {
        self.state.join("registry.db")
    }

    /// What was done to these, line by line.
    pub fn history(&self) -> PathBuf {
        self.state.join("history.jsonl")
    }

    /// The key that secrets are hashed with.
    pub fn secret_key(&self) -> PathBuf {
        self.state.join("secret.key")
    }

    /// The key that provenance is signed with, unless the user names another.
    pub fn signing_key(&self) -> PathBuf {
        self.config.join("signing_key")
    }

    /// The public keys whose signatures are believed, beside our own.
    pub fn trusted_keys(&self) -> PathBuf {
        self.config.join("trusted_keys")
    }

    /// Held by whoever changes the keys that sign or are believed.
    pub fn keys_lock(&self) -> PathBuf {
        self.state.join("keys.lock")
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
