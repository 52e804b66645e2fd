//! The HTTP client: what it trusts, how long it waits, and what its failures mean.

use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode};

use super::address::Address;
use crate::error::{Error, Result, chain};

/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// How [`Http`] behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a connection may be silent, before the answer and within it.
    pub stall_timeout: Duration,
    /// How often one URL is asked, the first time included.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles each time.
    pub backoff: Duration,
    /// Whether the proxies of the environment (`HTTPS_PROXY` and so on) are used.
    pub proxies: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            attempts: 4,
            backoff: Duration::from_millis(500),
            proxies: true,
        }
    }
}

/// A client for everything that is downloaded. It trusts the system's root certificates.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    options: Options,
}

/// Why a request failed, and with it what is worth trying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server does not have it: nothing but another server helps.
    Missing(String),
    /// Asking again would give the same answer.
    Permanent(String),
    /// Asking again may help.
    Transient(String),
}

impl Failure {
    /// What happened, without the URL.
    pub fn text(&self) -> &str {
        match self {
            Failure::Missing(text) | Failure::Permanent(text) | Failure::Transient(text) => text,
        }
    }

    /// Whether the server said that it does not have the file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Failure::Missing(_))
    }
}

/// A small document and where it came from in the end.
#[derive(Debug)]
pub(super) struct Document {
    pub bytes: Vec<u8>,
    /// The URL after redirects.
    pub from: Address,
}

impl Http {
    /// A client as it is used outside of tests.
    pub fn new() -> Result<Self> {
        Http::with(Options::default())
    }

    /// A client that behaves as told.
    pub fn with(options: Options) -> Result<Self> {
        // A second installation fails because there is a provider already, which is all that is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        // Digests and ranges are about the bytes of the file, not about a transport's compression of it.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut builder = Client::builder()
            .user_agent(concat!("imgbuild/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.stall_timeout)
            .referer(false)
            .redirect(reqwest::redirect::Policy::custom(redirect));
        if !options.proxies {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| {
            Error::new("preparing the HTTP client")
                .caused_by(&error)
                .hint("TLS needs the system's root certificates: install `ca-certificates`")
        })?;
        Ok(Http { client, options })
    }

    /// How often one URL may be asked.
    pub(super) fn attempts(&self) -> u32 {
        self.options.attempts.max(1)
    }

    /// The pause before a retry; `failed` attempts went before it.
    pub(super) async fn back_off(&self, failed: u32) {
        let factor = 1_u32 << failed.saturating_sub(1).min(6);
        tokio::time::sleep(self.options.backoff * factor).await;
    }

    /// Asks once for `address` with these headers. A status that is no success is a failure, except for 416, which
    /// is an answer to what the caller asked for.
    pub(super) async fn get(
        &self,
        address: &Address,
        headers: HeaderMap,
    ) -> Result<Response, Failure> {
        let request = self.client.get(address.url().clone()).headers(headers);
        let response = request.send().await.map_err(|error| self.failure(error))?;
        match response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            status => self.judge(status).map(|()| response),
        }
    }

    /// The next bytes of an answer; `None` at its end.
    pub(super) async fn chunk(
        &self,
        response: &mut Response,
    ) -> Result<Option<impl AsRef<[u8]> + Send + use<>>, Failure> {
        response.chunk().await.map_err(|error| self.failure(error))
    }

    /// A document of at most `limit` bytes, with retries.
    pub(super) async fn document(
        &self,
        address: &Address,
        limit: usize,
    ) -> Result<Document, Failure> {
        let mut failed = 0;
        loop {
            match self.document_once(address, limit).await {
                Err(Failure::Transient(_)) if failed + 1 < self.attempts() => {
                    failed += 1;
                    self.back_off(failed).await;
                }
                ended => return ended,
            }
        }
    }

    async fn document_once(&self, address: &Address, limit: usize) -> Result<Document, Failure> {
        let mut response = self.get(address, HeaderMap::new()).await?;
        let from = Address::of_response(response.url());
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            bytes.extend_from_slice(chunk.as_ref());
            if bytes.len() > limit {
                let text = format!("it is larger than {limit} bytes");
                return Err(Failure::Permanent(text));
            }
        }
        Ok(Document { bytes, from })
    }

    /// Whether the server says that it does not have `address`. Any other answer, or none, says nothing.
    pub(super) async fn lacks(&self, address: &Address) -> bool {
        let answer = self.client.head(address.url().clone()).send().await;
        answer.is_ok_and(|response| is_missing(response.status()))
    }

    fn judge(&self, status: StatusCode) -> Result<(), Failure> {
        let text = format!("the server answered {status}");
        let transient = [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::TOO_EARLY,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        match status {
            _ if status.is_success() => Ok(()),
            _ if is_missing(status) => Err(Failure::Missing(text)),
            _ if status.is_server_error() || transient.contains(&status) => {
                Err(Failure::Transient(text))
            }
            _ => Err(Failure::Permanent(text)),
        }
    }

    fn failure(&self, error: reqwest::Error) -> Failure {
        // The URL may carry credentials; every message names it in its own, safe way.
        let error = error.without_url();
        if error.is_timeout() && !error.is_connect() {
            let seconds = self.options.stall_timeout.as_secs_f32();
            return Failure::Transient(format!("no data for {seconds} s"));
        }
        let text = chain(&error);
        if error.is_redirect() || error.is_builder() || is_certificate_error(&error) {
            Failure::Permanent(text)
        } else {
            Failure::Transient(text)
        }
    }
}

fn is_missing(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// Follows redirects, but not from TLS to plain HTTP: that would let anybody on the way change the answer.
fn redirect(attempt: reqwest::redirect::Attempt<'_>) -> reqwest::redirect::Action {
    if downgrades(attempt.previous(), attempt.url()) {
        attempt.error("it redirects from https to plain http, which is refused")
    } else if attempt.previous().len() > REDIRECTS {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

fn downgrades(previous: &[reqwest::Url], next: &reqwest::Url) -> bool {
    next.scheme() != "https" && previous.iter().any(|url| url.scheme() == "https")
}

fn is_certificate_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An io::Error hides the error that it wraps from `source`.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let tls = error.downcast_ref::<rustls::Error>().or(inner);
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_on_tls_a_redirect_never_leaves_it() {
        let url = |text: &str| reqwest::Url::parse(text).unwrap();
        let (tls, plain) = (url("https://a/x"), url("http://b/x"));
        assert!(downgrades(std::slice::from_ref(&tls), &plain));
        assert!(downgrades(&[plain.clone(), tls.clone()], &plain));
        assert!(!downgrades(std::slice::from_ref(&plain), &tls));
        assert!(!downgrades(std::slice::from_ref(&tls), &tls));
        assert!(!downgrades(std::slice::from_ref(&plain), &plain));
    }
}
