//! What the server, or the way to it, said no with: kept in its parts, and put into words in one place.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;

use super::tls::Untrusted;
use crate::error::{Error, chain};

/// A request, as errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: &'static str,
    /// Below `/api2/json`, decoded.
    pub path: String,
    /// Who asked: for hints about privileges.
    pub identity: String,
    /// Host and port of the server.
    pub server: String,
}

/// A request that did not do what it was to do.
#[derive(Debug)]
pub struct Failure {
    pub request: Request,
    pub why: Why,
}

/// Why a request failed.
#[derive(Debug)]
pub enum Why {
    /// It never left this machine.
    NotSent(NotSent),
    /// The connection broke, or nothing came in time: nobody knows whether it was processed.
    Lost(String),
    /// The server answered with something else than success.
    Refused(Refusal),
    /// The answer is not what the API answers with.
    Nonsense(String),
}

/// What kept a connection from being made.
#[derive(Debug)]
pub enum NotSent {
    /// Nobody listens there.
    ConnectionRefused,
    /// There is no way to the server, or it has no address.
    Unreachable(String),
    /// Nothing at all came back in the time that connecting may take.
    Silent,
    /// The server is not one that is trusted.
    Untrusted { why: String, shown: String },
    /// It does not speak TLS as we do.
    Tls(String),
}

/// An answer that is no success. Its texts can be shown as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// What the server says: its reason phrase, where Proxmox VE puts the message.
    pub reason: String,
    /// What is wrong with each parameter.
    pub errors: BTreeMap<String, String>,
}

/// A permission that the server misses, as it says in a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub path: String,
    /// Any of them is enough.
    pub privileges: Vec<String>,
}

/// pveproxy's status for a node that did not answer it in 30 s. What was asked for goes on.
const PROXY_TIMEOUT: u16 = 596;

/// pveproxy's status for a node that it cannot connect to: the request was not processed. These are AnyEvent::HTTP's.
const PROXY_UNREACHABLE: u16 = 595;

/// pveproxy's status for a node whose answer broke off.
const PROXY_BROKEN: u16 = 597;

impl Refusal {
    /// What is missing, if that is what the server says.
    pub fn missing(&self) -> Option<Missing> {
        let inner = self
            .reason
            .trim()
            .strip_prefix("Permission check failed (")?;
        let (path, privileges) = inner.strip_suffix(')')?.split_once(", ")?;
        Some(Missing {
            path: path.to_owned(),
            privileges: privileges.split('|').map(str::to_owned).collect(),
        })
    }
}

impl Why {
    /// Sorts out what the HTTP library says.
    pub fn of(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let text = chain(&error);
        if error.is_timeout() && !error.is_connect() {
            return Why::Lost("the server did not answer in time".into());
        }
        if error.is_timeout() {
            return Why::NotSent(NotSent::Silent);
        }
        let found = cause(&error);
        if !error.is_connect() {
            return Why::Lost(match found {
                Some(Cause::Io(kind)) => broken(kind).map_or(text, str::to_owned),
                _ => text,
            });
        }
        Why::NotSent(match found {
            Some(Cause::Tls(tls)) => match untrusted(tls) {
                Some(untrusted) => NotSent::Untrusted {
                    why: untrusted.why.clone(),
                    shown: untrusted.shown.to_string(),
                },
                None => NotSent::Tls(tls.to_string()),
            },
            Some(Cause::Io(ErrorKind::ConnectionRefused)) => NotSent::ConnectionRefused,
            _ => NotSent::Unreachable(deepest(&error)),
        })
    }

    /// Whether it was certainly not processed, and might be if it is sent again. A server that was silent for as long as
    /// connecting may take is not asked again: whoever waits has waited enough.
    pub fn is_unsent(&self) -> bool {
        match self {
            Why::NotSent(NotSent::ConnectionRefused | NotSent::Unreachable(_)) => true,
            Why::Refused(refusal) => refusal.status == PROXY_UNREACHABLE,
            _ => false,
        }
    }

    /// Whether nobody knows if it was processed. An answer that cannot be read does not tell either.
    pub fn is_uncertain(&self) -> bool {
        match self {
            Why::Lost(_) | Why::Nonsense(_) => true,
            Why::Refused(refusal) => {
                matches!(refusal.status, PROXY_TIMEOUT | PROXY_BROKEN | 502..=504)
            }
            _ => false,
        }
    }

    /// Whether it may be otherwise in a moment: a daemon is being restarted, or something on the way.
    pub fn may_pass(&self) -> bool {
        self.is_unsent() || self.is_uncertain()
    }

    /// Whether the server refused who we are.
    pub fn is_unauthorized(&self) -> bool {
        self.status() == Some(401)
    }

    /// Whether the server's message, or what it says of a parameter, has this in it.
    pub fn says(&self, text: &str) -> bool {
        match self {
            Why::Refused(refusal) => {
                let all = [&refusal.reason];
                let mut all = all.into_iter().chain(refusal.errors.values());
                all.any(|said| said.contains(text))
            }
            _ => false,
        }
    }

    /// The status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Why::Refused(refusal) => Some(refusal.status),
            _ => None,
        }
    }
}

enum Cause<'e> {
    Tls(&'e rustls::Error),
    Io(ErrorKind),
}

/// What is beneath an error of the HTTP library: it wraps what it gets several times over.
fn cause<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<Cause<'e>> {
    let mut next = Some(error);
    let mut found = None;
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(Cause::Tls(tls));
        }
        let io = error.downcast_ref::<std::io::Error>();
        if let Some(io) = io {
            found = Some(Cause::Io(io.kind()));
        }
        // An io error hands out what is beneath its wrapped error as its source, not that error itself.
        next = match io.and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    found
}

/// What is beneath everything else: the rest names the library's parts.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// How a connection ended, for people.
fn broken(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::UnexpectedEof => Some("the server hung up"),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            Some("the server hung up in the middle")
        }
        _ => None,
    }
}

fn untrusted(error: &rustls::Error) -> Option<&Untrusted> {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
            other.0.downcast_ref()
        }
        _ => None,
    }
}

impl Failure {
    /// As an error of what was `doing`, with what helps now.
    pub fn during(self, doing: impl Into<String>) -> Error {
        let error = Error::new(doing).cause(&self);
        match self.hint() {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// What helps now, if anything is known to.
    pub fn hint(&self) -> Option<String> {
        let identity = &self.request.identity;
        let refusal = match &self.why {
            Why::NotSent(not_sent) => return not_sent.hint(),
            Why::Refused(refusal) => refusal,
            Why::Lost(_) | Why::Nonsense(_) => return None,
        };
        match (refusal.status, refusal.missing()) {
            (401, _) => Some(match identity.split_once('!') {
                Some((user, _)) => format!(
                    "`pveum user token list {user}` on the node tells which tokens there are and when they expire"
                ),
                None => format!("is it the password of {identity}, with the right realm?"),
            }),
            (403, Some(missing)) => missing
                .privileges
                .first()
                .map(|privilege| super::privilege::grant(privilege, &missing.path, identity)),
            (403, None) => Some(
                "the server does not say what is missing; `imgbuild doctor --target NAME` does".into(),
            ),
            (PROXY_TIMEOUT, _) => Some(
                "the node did not answer the server within 30 s; what was asked for may still be going on there".into(),
            ),
            _ => None,
        }
    }
}

impl NotSent {
    fn hint(&self) -> Option<String> {
        match self {
            NotSent::ConnectionRefused => Some(
                "Proxmox VE listens on port 8006; `systemctl status pveproxy` on the node tells whether it runs".into(),
            ),
            NotSent::Unreachable(_) | NotSent::Silent => {
                Some("is the endpoint in imgbuild.toml right, and is there a way to it (VPN, firewall)?".into())
            }
            NotSent::Untrusted { shown, .. } => Some(format!(
                "the server shows {shown}; if `pvenode cert info` on the node lists the same, write it as `fingerprint`; or name \
                 the authority's certificate by `ca`"
            )),
            NotSent::Tls(_) => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request {
            method,
            path,
            server,
            ..
        } = &self.request;
        match &self.why {
            Why::NotSent(not_sent) => write!(f, "{server}: {not_sent}"),
            why => write!(f, "{method} {path} on {server}: {why}"),
        }
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotSent::ConnectionRefused => f.write_str("the connection was refused"),
            NotSent::Unreachable(why) => write!(f, "the server cannot be reached: {why}"),
            NotSent::Silent => f.write_str("the server cannot be reached: nothing answers"),
            NotSent::Untrusted { why, .. } => write!(f, "the server is not trusted: {why}"),
            NotSent::Tls(why) => write!(f, "TLS failed: {why}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotSent(not_sent) => not_sent.fmt(f),
            Why::Lost(why) => write!(f, "the connection broke: {why}"),
            Why::Refused(refusal) => refusal.fmt(f),
            Why::Nonsense(why) => write!(f, "this is no answer of Proxmox VE: {why}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = &self.reason;
        match (self.status, self.missing()) {
            (401, _) => write!(f, "401, the server does not know this login ({reason})")?,
            (403, Some(Missing { path, privileges })) => {
                let privileges = privileges.join(" or ");
                write!(f, "403, the privilege {privileges} on {path} is missing")?;
            }
            (status, _) => write!(f, "{status} {reason}")?,
        }
        for (parameter, wrong) in &self.errors {
            write!(f, "; {parameter}: {wrong}")?;
        }
        Ok(())
    }
}
