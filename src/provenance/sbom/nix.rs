//! What is in Nix' store: each path names what it is. Paths without a version are configuration, not packages.

use super::{Inventory, Manager, Package, Read, Tree};
use crate::error::Result;

/// The characters of a store path's hash.
const HASH: usize = 32;

pub(super) fn read(files: &dyn Tree, _: &Inventory) -> Result<Read> {
    let mut read = Read::default();
    for path in files.glob("/nix/store/*")? {
        let name = path.rsplit('/').next().unwrap_or_default();
        read.database = true;
        if let Some(package) = package(name)
            && !read.push(package)
        {
            break;
        }
    }
    Ok(read)
}

fn package(name: &str) -> Option<Package> {
    let (hash, name) = name.split_once('-')?;
    if hash.len() != HASH || name.ends_with(".drv") {
        return None;
    }
    // The version begins at the first dash before a digit, as for Nix itself.
    let dashes = name.match_indices('-').map(|(at, _)| at);
    let at = dashes.into_iter().find(|at| {
        let next = name.as_bytes().get(at + 1);
        next.is_some_and(u8::is_ascii_digit)
    })?;
    Package::new(Manager::Nix, &name[..at], &name[at + 1..])
}
