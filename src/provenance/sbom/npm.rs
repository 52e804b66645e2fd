//! Packages that npm has installed for all users, with those that they bring along.

use serde_json::Value;

use super::{Inventory, LARGEST_MANIFEST, Manager, Package, Read, Tree};
use crate::error::Result;

/// Where they are.
const ROOTS: &[&str] = &[
    "/usr/lib/node_modules",
    "/usr/local/lib/node_modules",
    "/usr/share/nodejs",
    "/opt/*/lib/node_modules",
];

/// Packages within packages; deeper is a ring of them.
const DEEPEST: usize = 20;

pub(super) fn read(files: &dyn Tree, _: &Inventory) -> Result<Read> {
    let mut read = Read::default();
    let mut todo: Vec<(String, usize)> = vec![];
    for root in ROOTS {
        let found = files.glob(root)?;
        todo.extend(found.into_iter().map(|path| (path, 0)));
    }
    while let Some((folder, depth)) = todo.pop() {
        for path in packages(files, &folder)? {
            let manifest = format!("{path}/package.json");
            if let Some(text) = read.text(files, &manifest, LARGEST_MANIFEST)? {
                match package(&text).map(|package| read.push(package)) {
                    Some(true) => {}
                    Some(false) => return Ok(read),
                    None => read.note(format!("{manifest}: it names no package")),
                }
            }
            if depth < DEEPEST {
                todo.push((format!("{path}/node_modules"), depth + 1));
            }
        }
    }
    Ok(read)
}

/// The folders of packages in a `node_modules`; scopes have folders of their own.
fn packages(files: &dyn Tree, folder: &str) -> Result<Vec<String>> {
    let mut all = vec![];
    for path in files.glob(&format!("{folder}/*"))? {
        let name = path.rsplit('/').next().unwrap_or_default();
        match name.as_bytes().first() {
            // `.bin`, `.package-lock.json`
            Some(b'.') | None => {}
            Some(b'@') => all.extend(files.glob(&format!("{path}/*"))?),
            _ => all.push(path),
        }
    }
    Ok(all)
}

fn package(text: &str) -> Option<Package> {
    let manifest: Value = serde_json::from_str(text).ok()?;
    let (name, version) = (manifest["name"].as_str()?, manifest["version"].as_str()?);
    let (scope, name) = match name.strip_prefix('@').and_then(|rest| rest.split_once('/')) {
        Some((scope, name)) => (Some(format!("@{scope}")), name),
        None => (None, name),
    };
    let mut package = Package::new(Manager::Npm, name, version)?;
    package.namespace = match scope {
        Some(scope) => Some(super::clean(&scope)?),
        None => None,
    };
    let licence = manifest["license"].as_str().and_then(super::clean);
    package.licence = licence.filter(|licence| !licence.is_empty());
    Some(package)
}
