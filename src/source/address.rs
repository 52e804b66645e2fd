//! URLs that can be shown: what they may carry of secrets never leaves through `Debug`, `Display` or metadata.

use std::fmt;

use percent_encoding::percent_decode_str;
use reqwest::Url;

use crate::error::{Error, Kind, Result};

/// An `http` or `https` URL. It is shown without its user, password, query and fragment: a presigned query is a
/// credential as much as a password is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address(Url);

impl Address {
    /// Reads a URL of a recipe; anything but `http` and `https` is a fault of the recipe.
    pub fn parse(text: &str) -> Result<Self> {
        // What stands before an `@` may be a password, also in a URL that does not parse.
        let shown = text.rsplit('@').next().unwrap_or_default();
        let shown = shown.split(['?', '#']).next().unwrap_or_default();
        let fault = |cause: String| {
            Error::new(format!("reading the URL {shown}"))
                .kind(Kind::Usage)
                .cause(cause)
        };
        let url = Url::parse(text).map_err(|error| fault(error.to_string()))?;
        match url.scheme() {
            "http" | "https" => Ok(Address(url)),
            other => Err(fault(format!("`{other}` is not supported"))
                .hint("use https (or http); a file on this machine is named by `file`")),
        }
    }

    /// The URL that a response came from, after redirects.
    pub fn of_response(url: &Url) -> Self {
        Address(url.clone())
    }

    /// The URL with everything in it, for requests.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// The last segment of the path, decoded: the name that checksum lists know the file by.
    pub fn file_name(&self) -> String {
        let last = self.0.path().rsplit('/').next().unwrap_or_default();
        percent_decode_str(last).decode_utf8_lossy().into_owned()
    }

    /// The URL of `name` in the same folder, with the same credentials, without query.
    pub fn beside(&self, name: &str) -> Result<Self> {
        self.0.join(name).map(Address).map_err(|error| {
            Error::new(format!("building the URL of {name} beside {self}")).cause(error)
        })
    }

    /// The URL of `path` under this one taken as a folder.
    pub fn under(&self, path: &str) -> Result<Self> {
        let mut folder = self.0.clone();
        if !folder.path().ends_with('/') {
            folder.set_path(&format!("{}/", folder.path()));
        }
        Address(folder).beside(path)
    }

    /// Whether it has nothing that is not shown, so that anybody may have it.
    pub fn is_open(&self) -> bool {
        self.to_string() == self.0.as_str()
    }

    /// Whether nobody between here and the server can change what it sends: TLS, or a server on this machine.
    pub fn is_private(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        self.0.scheme() == "https" || matches!(host, "127.0.0.1" | "localhost" | "[::1]")
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        // Both fail only for URLs without a host, and those of http have one.
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        shown.set_query(None);
        shown.set_fragment(None);
        f.write_str(shown.as_str())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_never_shown() {
        let address = Address::parse("https://me:hunter2@host/a/b.img?X-Sig=secret#x").unwrap();
        assert_eq!(address.to_string(), "https://host/a/b.img");
        assert_eq!(format!("{address:?}"), "https://host/a/b.img");
        assert_eq!(address.url().password(), Some("hunter2"));
        for broken in ["https://me:hunter2@", "ftp://me:hunter2@host/x"] {
            let error = Address::parse(broken).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert_eq!(error.get_kind(), Kind::Usage);
        }
    }

    #[test]
    fn the_file_name_is_decoded_and_without_the_query() {
        let address = Address::parse("http://h/x/a%2Bb.img?download=1").unwrap();
        assert_eq!(address.file_name(), "a+b.img");
        assert_eq!(
            address.beside("SUMS").unwrap().to_string(),
            "http://h/x/SUMS"
        );
    }

    #[test]
    fn only_an_address_without_secrets_is_open() {
        let open = |text| Address::parse(text).unwrap().is_open();
        assert!(open("https://h/a.img"));
        for secret in ["https://me@h/a", "https://h/a?sig=x", "https://:pw@h/a"] {
            assert!(!open(secret), "{secret}");
        }
    }

    #[test]
    fn only_tls_and_this_machine_are_private() {
        let private = |text| Address::parse(text).unwrap().is_private();
        assert!(private("https://example.org/x"));
        assert!(private("http://127.0.0.1:80/x"));
        assert!(private("http://[::1]/x"));
        assert!(!private("http://example.org/x"));
        assert!(!private("http://localhost.example.org/x"));
    }
}
