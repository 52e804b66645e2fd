//! Python's packages that were installed for all users, by pip or by the distribution.

use super::{Inventory, LARGEST_MANIFEST, Manager, Package, Read, Tree};
use crate::error::Result;

/// What describes them.
const MANIFESTS: &[&str] = &[
    "/usr/lib/python3*/*-packages/*.dist-info/METADATA",
    "/usr/lib/python3*/*-packages/*.egg-info/PKG-INFO",
    "/usr/local/lib/python3*/*-packages/*.dist-info/METADATA",
    "/usr/local/lib/python3*/*-packages/*.egg-info/PKG-INFO",
    "/opt/*/lib/python3*/site-packages/*.dist-info/METADATA",
];

pub(super) fn read(files: &dyn Tree, _: &Inventory) -> Result<Read> {
    let mut read = Read::default();
    for pattern in MANIFESTS {
        for path in files.glob(pattern)? {
            let Some(text) = read.text(files, &path, LARGEST_MANIFEST)? else {
                continue;
            };
            match package(&text).map(|package| read.push(package)) {
                Some(true) => {}
                Some(false) => return Ok(read),
                None => read.note(format!("{path}: it names no package")),
            }
        }
    }
    Ok(read)
}

/// The head of a METADATA file, which is written like a mail.
fn package(text: &str) -> Option<Package> {
    let head = text.split("\n\n").next().unwrap_or_default();
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(':'));
        fields
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim())
    };
    let mut package = Package::new(Manager::Pypi, field("Name")?, field("Version")?)?;
    let licence = field("License-Expression").or(field("License"));
    package.licence = licence
        .and_then(super::clean)
        .filter(|licence| !licence.is_empty() && licence != "UNKNOWN");
    Some(package)
}
