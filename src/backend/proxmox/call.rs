//! What is asked of the API: a method, a path, and parameters.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;

/// How often a request is sent, the first time included, if it is known that this does no harm.
const ATTEMPTS: u32 = 4;

/// What is encoded in paths, queries and forms: everything but what RFC 3986 calls unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Percent-encoding of everything that could mean something.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// A path below `/api2/json`, in its segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<String>);

impl Path {
    pub fn new<'p>(segments: impl IntoIterator<Item = &'p str>) -> Self {
        Path(segments.into_iter().map(str::to_owned).collect())
    }

    /// This path with more segments.
    pub fn join(mut self, rest: &[&str]) -> Self {
        self.0
            .extend(rest.iter().map(|segment| (*segment).to_owned()));
        self
    }

    /// As it is in an address.
    pub(super) fn encoded(&self) -> String {
        let segments = self.0.iter().map(|segment| encode(segment));
        segments.collect::<Vec<_>>().join("/")
    }
}

/// As it is shown.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|segment| write!(f, "/{segment}"))
    }
}

/// One call of the API.
#[derive(Debug, Clone)]
pub struct Call {
    pub(super) method: Method,
    pub(super) path: Path,
    parameters: Vec<(Cow<'static, str>, String)>,
    /// How often it is sent at most, where that does no harm.
    pub(super) attempts: u32,
}

impl Call {
    pub fn get(path: Path) -> Self {
        Call::of(Method::GET, path)
    }

    pub fn post(path: Path) -> Self {
        Call::of(Method::POST, path)
    }

    pub fn put(path: Path) -> Self {
        Call::of(Method::PUT, path)
    }

    pub fn delete(path: Path) -> Self {
        Call::of(Method::DELETE, path)
    }

    fn of(method: Method, path: Path) -> Self {
        Call {
            method,
            path,
            parameters: vec![],
            attempts: ATTEMPTS,
        }
    }

    /// Sends it once only: no answer is an answer, too.
    pub fn once(self) -> Self {
        Call {
            attempts: 1,
            ..self
        }
    }

    /// Adds a parameter. Booleans are `1` and `0`.
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// As they are in a query, or in the body of a POST or PUT.
    pub(super) fn encoded_parameters(&self) -> String {
        let pairs = self.parameters.iter();
        let pairs = pairs.map(|(name, value)| format!("{name}={}", encode(value)));
        pairs.collect::<Vec<_>>().join("&")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_parameters_are_encoded_once_and_shown_as_they_are() {
        let path = Path::new(["nodes", "pve"]).join(&["storage", "local:import/a b.qcow2"]);
        assert_eq!(
            path.encoded(),
            "nodes/pve/storage/local%3Aimport%2Fa%20b.qcow2"
        );
        assert_eq!(
            path.to_string(),
            "/nodes/pve/storage/local:import/a b.qcow2"
        );
        let call = Call::post(path).with("agent", "enabled=1").with("x", "ä&b");
        assert_eq!(call.encoded_parameters(), "agent=enabled%3D1&x=%C3%A4%26b");
    }
}
