//! What is known about a layer: `layer.json` in its folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::store::Stamp;

/// A layer's facts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// What the guest's disk depends on.
    pub key: String,
    /// The layer that this one is an overlay of.
    pub parent: Option<String>,
    /// The first layer of the chain: who the guest is stands there.
    pub root: String,
    /// The path of the base image that the chain is an overlay of.
    pub base: String,
    /// The image that it was made for.
    pub image: String,
    /// The step after which it was made.
    pub name: String,
    /// What the step's part of the key was made of, by name.
    pub inputs: BTreeMap<String, String>,
    /// The key of what this step came after.
    pub parent_key: Option<String>,
    pub created: Timestamp,
    /// Seconds that the step took.
    pub took: f64,
    /// What steps have recorded up to here.
    pub recorded: BTreeMap<String, String>,
    /// The files that are read when the layer is used.
    pub files: BTreeMap<String, Fact>,
    /// The RAM, if it was saved.
    pub memory: Option<Memory>,
    /// Bytes that all of it takes on disk.
    pub size: u64,
}

/// Saved RAM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memory {
    /// What it depends on besides the disk.
    pub key: String,
    pub sha256: String,
    pub size: u64,
}

/// What a file must be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fact {
    pub sha256: String,
    stamp: Stamp,
}

impl Fact {
    /// Takes the facts of a file that is not written to any more, and makes it durable.
    pub fn of(path: &Path) -> Result<Self> {
        let doing = || format!("keeping {}", path.display());
        let file = File::open(path).doing(doing)?;
        file.sync_all().doing(doing)?;
        Ok(Fact {
            sha256: sha256(file).doing(doing)?,
            stamp: Stamp::of_path(path)?,
        })
    }

    /// Fails if the file is not what it was. That costs reading it only where the kernel's word is not enough.
    pub fn check(&self, path: &Path) -> Result<()> {
        let damaged = |cause: &str| {
            Error::new(format!("using the layer's file {}", path.display())).cause(cause)
        };
        if Stamp::of_path(path)? == self.stamp {
            return Ok(());
        }
        let doing = || format!("reading {}", path.display());
        let found = sha256(File::open(path).doing(doing)?).doing(doing)?;
        match found == self.sha256 {
            true => Ok(()),
            false => Err(damaged("it was changed since it was kept")),
        }
    }
}

fn sha256(mut file: File) -> io::Result<String> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(crate::text::hex(context.finish().as_ref())),
            read => context.update(&buffer[..read]),
        }
    }
}
