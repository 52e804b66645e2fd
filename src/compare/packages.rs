//! Packages, from the CycloneDX lists beside images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::Changes;
use crate::error::{Context, Error, Result};
use crate::provenance::sbom::cyclonedx::{self, Listed};

/// The largest list that is read, in bytes. One of a desktop is about 5 MiB.
const MAX_LIST: u64 = 256 << 20;

/// What became of the packages; `None` if one of the lists is not there.
pub fn packages(old: &Path, new: &Path) -> Result<Option<Changes>> {
    let (Some(old), Some(new)) = (read(old)?, read(new)?) else {
        return Ok(None);
    };
    Ok(Some(Changes::between(&versions(old), &versions(new))))
}

fn read(path: &Path) -> Result<Option<Vec<Listed>>> {
    let doing = || format!("reading the packages in {}", path.display());
    let about = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        about => about.doing(doing)?,
    };
    if about.len() > MAX_LIST {
        return Err(Error::new(doing()).cause("it is far too large"));
    }
    let text = std::fs::read(path).doing(doing)?;
    cyclonedx::read(&text).doing(doing).map(Some)
}

/// The versions of each package: one may be there several times, as kernels are.
fn versions(list: Vec<Listed>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for listed in list {
        // A name of Debian's may be one of npm's as well.
        let name = match listed.manager.as_deref() {
            Some("deb" | "rpm" | "apk") | None => listed.name,
            Some(manager) => format!("{} ({manager})", listed.name),
        };
        all.entry(name).or_default().insert(listed.version);
    }
    let joined = all.into_iter().map(|(name, versions)| {
        let versions: Vec<String> = versions.into_iter().collect();
        (name, versions.join(", "))
    });
    joined.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_by_kind_and_all_their_versions() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, components: serde_json::Value| {
            let path = folder.path().join(name);
            let text = serde_json::json!({"bomFormat": "CycloneDX", "components": components});
            std::fs::write(&path, text.to_string()).unwrap();
            path
        };
        let package = |name: &str, version: &str, kind: &str| {
            let purl = format!("pkg:{kind}/{name}@{version}");
            serde_json::json!({"name": name, "version": version, "purl": purl})
        };
        let scoped = |scope: &str, name: &str, version: &str| {
            let purl = format!("pkg:npm/%40{}/{name}@{version}", &scope[1..]);
            serde_json::json!({"group": scope, "name": name, "version": version, "purl": purl})
        };
        let old = write(
            "old",
            serde_json::json!([
                package("libc6", "2.36", "deb/debian"),
                package("linux", "6.1.1", "deb/debian"),
                package("node", "1", "npm"),
                scoped("@a", "core", "1"),
                scoped("@b", "core", "1"),
                package("node", "18", "deb/debian"),
            ]),
        );
        let new = write(
            "new",
            serde_json::json!([
                package("libc6", "2.37", "deb/debian"),
                package("linux", "6.1.1", "deb/debian"),
                package("linux", "6.1.2", "deb/debian"),
                package("node", "18", "deb/debian"),
                package("busybox", "1.35", "deb/debian"),
                scoped("@a", "core", "2"),
                scoped("@b", "core", "1"),
            ]),
        );
        let found = packages(&old, &new).unwrap().unwrap();
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let changed = [
            ("libc6".to_owned(), pair("2.36", "2.37")),
            ("linux".to_owned(), pair("6.1.1", "6.1.1, 6.1.2")),
            ("@a/core (npm)".to_owned(), pair("1", "2")),
        ];
        assert_eq!(found.changed, BTreeMap::from(changed));
        assert_eq!(found.added["busybox"], "1.35");
        assert_eq!(found.removed["node (npm)"], "1");
        let missing = folder.path().join("missing");
        assert_eq!(packages(&old, &missing).unwrap(), None);
        std::fs::write(&missing, "{").unwrap();
        packages(&old, &missing).unwrap_err();
    }
}
