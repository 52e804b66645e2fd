//! Package URLs (github.com/package-url/purl-spec), in their canonical form.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Manager, Package};

/// What is encoded in names and versions: all but letters, digits, `.-_~` and `:`. So `+` becomes `%2B`.
const PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');
/// In qualifiers a slash may stand as well.
const QUALIFIER: &AsciiSet = &PART.remove(b'/');

pub(super) fn of(package: &Package) -> String {
    let encoded = |text: &str| utf8_percent_encode(text, PART).to_string();
    let (kind, name) = match package.manager {
        Manager::Deb => ("deb", package.name.to_lowercase()),
        Manager::Rpm => ("rpm", package.name.clone()),
        Manager::Apk => ("apk", package.name.to_lowercase()),
        Manager::Npm => ("npm", package.name.clone()),
        // The specification's own normal form of a name.
        Manager::Pypi => ("pypi", package.name.to_lowercase().replace('_', "-")),
        // The specification has no type for these.
        Manager::Nix | Manager::None => ("generic", package.name.clone()),
    };
    let mut purl = format!("pkg:{kind}/");
    if let Some(namespace) = &package.namespace {
        purl += &encoded(namespace);
        purl.push('/');
    }
    purl += &encoded(&name);
    let version = match (package.manager, package.version.split_once(':')) {
        // The epoch is among the qualifiers.
        (Manager::Rpm, Some((_, version))) => version,
        _ => &package.version,
    };
    if !version.is_empty() {
        purl.push('@');
        purl += &encoded(version);
    }
    for (at, (name, value)) in package.qualifiers.iter().enumerate() {
        purl.push(if at == 0 { '?' } else { '&' });
        let value = utf8_percent_encode(value, QUALIFIER);
        purl += &format!("{name}={value}");
    }
    purl
}
