//! Debian's packages: `/var/lib/dpkg/status`, and `status.d` of images without dpkg.

use super::{Inventory, Manager, Package, Read, Tree, paragraphs};
use crate::error::Result;

pub(super) fn read(files: &dyn Tree, found: &Inventory) -> Result<Read> {
    let mut read = Read::default();
    let mut paths = vec!["/var/lib/dpkg/status".to_owned()];
    let alone = files.glob("/var/lib/dpkg/status.d/*")?;
    paths.extend(alone.into_iter().filter(|path| !path.ends_with(".md5sums")));
    for path in paths {
        let Some(text) = read.database(files, &path)? else {
            continue;
        };
        let is_whole = !path.contains("status.d");
        for fields in paragraphs(&text) {
            let field = |name: &str| fields.get(name).copied().unwrap_or_default();
            // "install ok installed": wanted, without error, installed. What is half installed is there, too.
            let state = field("Status").rsplit(' ').next().unwrap_or_default();
            if is_whole && matches!(state, "not-installed" | "config-files") {
                continue;
            }
            let (name, version) = (field("Package"), field("Version"));
            // "openssl (3.0.1-1)", where the version is another.
            let source = field("Source").split(' ').next().unwrap_or_default();
            let upstream = (source != name).then(|| source.to_owned());
            let Some(mut package) = Package::new(Manager::Deb, name, version) else {
                if !fields.is_empty() {
                    read.note(format!("{path}: a package without a name"));
                }
                continue;
            };
            package.namespace = found.distribution().or_else(|| Some("debian".into()));
            package.supplier = super::clean(field("Maintainer")).filter(|who| !who.is_empty());
            let package = package
                .with("arch", super::clean(field("Architecture")))
                .with("distro", found.distro())
                .with("upstream", upstream.and_then(|name| super::clean(&name)));
            if !read.push(package) {
                return Ok(read);
            }
        }
    }
    Ok(read)
}
