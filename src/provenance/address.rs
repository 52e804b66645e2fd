//! What may be told of addresses and paths: credentials, and folders of the machine that builds, are nobody's business.

use std::path::Path;

use super::file_name;

/// An address without what may be a credential: user, password, query, fragment. `git@host:path` becomes `ssh://host/path`.
/// `None` for what is no address but a path.
pub fn public_address(text: &str) -> Option<String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme, rest.to_owned()),
        None => {
            let (host, path) = text.split_once(':')?;
            // A path may have a colon too, but not before its first slash.
            if host.is_empty() || host.contains('/') {
                return None;
            }
            ("ssh", format!("{host}/{}", path.trim_start_matches('/')))
        }
    };
    // `git+file` of flakes, too.
    if scheme.rsplit('+').next() == Some("file") {
        return None;
    }
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit('@').next().unwrap_or_default();
    (!host.is_empty()).then(|| format!("{scheme}://{host}/{path}"))
}

/// The same where only an address with a scheme is meant to be one: `a:b` is a path.
pub fn public_url(location: &str) -> Option<String> {
    match location.contains("://") {
        true => public_address(location),
        false => None,
    }
}

/// Where something came from: an address as above, with what a flake's reference has behind `#`, since that says which of its
/// images it is; of a path, the file's name only.
pub fn public_origin(origin: &str) -> String {
    if !origin.contains("://") {
        return file_name(Path::new(origin));
    }
    let (address, output) = match origin.split_once('#') {
        Some((address, output)) => (address, format!("#{output}")),
        None => (origin, String::new()),
    };
    let path = address.split('?').next().unwrap_or_default();
    let public = public_address(address).unwrap_or_else(|| file_name(Path::new(path)));
    format!("{public}{output}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_credentials_and_a_path_is_none() {
        for (text, shown) in [
            (
                "https://me:hunter2@host/a.git?token=x#y",
                Some("https://host/a.git"),
            ),
            ("https://host/a", Some("https://host/a")),
            ("git@host:me/a.git", Some("ssh://host/me/a.git")),
            ("ssh://me@host:22/a", Some("ssh://host:22/a")),
            ("https://a@b@host/x", Some("https://host/x")),
            ("/home/me/a.git", None),
            ("../a", None),
            ("./a:b", None),
            ("file:///home/me/a", None),
            ("git+file:///home/me/a", None),
            ("", None),
        ] {
            assert_eq!(public_address(text).as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn an_origin_is_told_without_folders_of_this_machine_and_credentials() {
        for (origin, told) in [
            ("/home/me/base.qcow2", "base.qcow2"),
            ("path:/home/me/flake#image", "flake#image"),
            ("git+file:///home/me/flake?dir=a#image", "flake#image"),
            (
                "git+ssh://me@host/flake#image",
                "git+ssh://host/flake#image",
            ),
            ("https://me:pw@host/a.img?token=x", "https://host/a.img"),
            ("https://host/a.img", "https://host/a.img"),
            ("file:///srv/a.img", "a.img"),
        ] {
            assert_eq!(public_origin(origin), told);
        }
    }
}
