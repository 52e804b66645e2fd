//! Alpine's packages: `/lib/apk/db/installed`.

use super::{Inventory, Manager, Package, Read, Tree, paragraphs};
use crate::error::Result;

pub(super) fn read(files: &dyn Tree, found: &Inventory) -> Result<Read> {
    let mut read = Read::default();
    let path = "/lib/apk/db/installed";
    let Some(text) = read.database(files, path)? else {
        return Ok(read);
    };
    for fields in paragraphs(&text) {
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        let (name, version) = (field("P"), field("V"));
        let Some(mut package) = Package::new(Manager::Apk, name, version) else {
            if !fields.is_empty() {
                read.note(format!("{path}: a package without a name"));
            }
            continue;
        };
        let origin = field("o");
        let upstream = (origin != name).then(|| origin.to_owned());
        package.namespace = found.distribution().or_else(|| Some("alpine".into()));
        package.licence = super::clean(field("L")).filter(|licence| !licence.is_empty());
        package.supplier = super::clean(field("m")).filter(|who| !who.is_empty());
        let package = package
            .with("arch", super::clean(field("A")))
            .with("distro", found.distro())
            .with("upstream", upstream.and_then(|name| super::clean(&name)));
        if !read.push(package) {
            break;
        }
    }
    Ok(read)
}
