//! A download that is not complete yet: the bytes, hashed as they come, and what is needed to go on with them later.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, Digests, Hasher};
use super::unpack::Limits;
use super::work::{Meter, heavy};
use crate::error::{Context as _, Result};
use crate::run::events::Events;
use crate::store::{Lock, write_atomically};

/// How many bytes are written between two looks at the free space.
const LOOK_EVERY: u64 = 64 << 20;

/// What the bytes of a partial file are the beginning of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// sha256 of the URL, which may carry credentials itself.
    pub url: String,
    /// A strong `ETag` or a `Last-Modified`, to be sent as `If-Range`.
    pub validator: Option<String>,
    /// Bytes of the whole file, if the server said.
    pub total: Option<u64>,
}

/// A `.partial` file with the state beside it. It owns the download's lock, so that nobody else touches the file as
/// long as any thread may still write to it.
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    fresh: Hasher,
    hasher: Hasher,
    length: u64,
    looked: u64,
    origin: Origin,
    spliced: bool,
    _lock: Arc<Lock>,
}

impl Partial {
    /// Opens what is left of an earlier download, hashing what is there, or begins a new one.
    pub async fn open(
        path: PathBuf,
        expected: &Digest,
        lock: Arc<Lock>,
        events: &Events,
    ) -> Result<Self> {
        let fresh = Hasher::for_expected(Some(expected));
        let events = events.clone();
        heavy(move |stop| {
            let doing = || format!("opening {}", path.display());
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).doing(doing)?;
            }
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true);
            let file = options.open(&path).doing(doing)?;
            let present = file.metadata().doing(doing)?.len();
            let mut hasher = fresh.clone();
            let mut meter = Meter::new(&events, "verify", Some(present));
            let shown = path.display().to_string();
            let length = hasher.read(&file, &shown, &mut meter, stop)?;
            let origin = std::fs::read(state(&path)).ok();
            let origin = origin.and_then(|text| serde_json::from_slice(&text).ok());
            Ok(Partial {
                path,
                file,
                fresh,
                hasher,
                length,
                looked: length,
                origin: origin.unwrap_or_default(),
                spliced: false,
                _lock: lock,
            })
        })
        .await
    }

    /// Forgets all bytes; what comes now is the beginning of a file from `origin`.
    pub fn restart(&mut self, origin: Origin) -> Result<()> {
        let doing = || format!("writing {}", self.path.display());
        self.file.set_len(0).doing(doing)?;
        std::io::Seek::rewind(&mut self.file).doing(doing)?;
        let text = serde_json::to_vec(&origin).doing(doing)?;
        write_atomically(&state(&self.path), &text)?;
        self.hasher = self.fresh.clone();
        self.length = 0;
        self.looked = 0;
        self.origin = origin;
        self.spliced = false;
        Ok(())
    }

    /// The next bytes come from another answer than those before.
    pub fn splice(&mut self) {
        self.spliced = true;
    }

    /// Adds bytes at the end.
    pub fn append(&mut self, bytes: &[u8], limits: &Limits) -> Result<()> {
        let doing = || format!("writing {}", self.path.display());
        self.file.write_all(bytes).doing(doing)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        if self.length - self.looked >= LOOK_EVERY {
            self.looked = self.length;
            limits.check_space(&self.path, 0)?;
        }
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether the bytes came in several pieces, which may not fit together.
    pub fn is_spliced(&self) -> bool {
        self.spliced
    }

    /// Whether as many bytes are there as the server announced.
    pub fn is_complete(&self) -> bool {
        self.length > 0 && self.origin.total == Some(self.length)
    }

    /// The digests of the bytes so far.
    pub fn digests(&self) -> Digests {
        self.hasher.clone().finish()
    }

    /// Removes the file and its state.
    pub fn discard(&self) -> Result<()> {
        for path in [self.path.clone(), state(&self.path)] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).doing(|| format!("removing {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn state(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    name.into()
}
