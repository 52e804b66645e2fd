//! Requests to the API and their answers.
//!
//! A request is sent again only if it cannot have been processed, or if it is a GET. Whoever changes something and loses the
//! connection looks first at what became of it.

use std::time::Duration;

use hyper::ext::ReasonPhrase;
use reqwest::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Upgraded, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::call::{Call, Path, encode};
use super::credentials::{Credentials, Ticket, ticket_headers, token_headers};
use super::error::{Failure, Refusal, Request, Why};
use super::number;
use super::tls::{self, Trust};
use crate::error::{Error, Result};
use crate::run::Events;
use crate::text::printable;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an answer may take. pveproxy itself gives up on a node after 30 s, and says so.
const ANSWER: Duration = Duration::from_secs(40);

/// pveproxy closes a connection that was idle for 5.0 s; one that is used at that moment is lost.
const IDLE: Duration = Duration::from_secs(4);

/// The pause before the second attempt; it doubles each time. A restart of pveproxy takes about two seconds.
const PAUSE: Duration = Duration::from_millis(500);

/// An answer larger than this is none of the API: the largest are lists, of some hundred bytes for each machine.
const LARGEST: usize = 16 << 20;

/// What the API answers with.
#[derive(Debug, Deserialize)]
pub struct Answer<T> {
    pub data: T,
    /// How many there are, where `data` may be a part of them.
    #[serde(default, deserialize_with = "number::maybe")]
    pub total: Option<u64>,
}

/// A client for one server. Its requests go over few connections.
pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    credentials: Credentials,
    /// For logins by password: what the last one gave.
    ticket: Mutex<Option<Ticket>>,
}

impl Client {
    pub fn new(endpoint: Url, trust: &Trust, credentials: Credentials) -> Result<Self> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(trust)?)
            .user_agent(concat!("imgbuild/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::new("preparing the HTTP client").caused_by(&error))?;
        Ok(Client {
            http,
            endpoint,
            credentials,
            ticket: Mutex::default(),
        })
    }

    /// Who we are to the server.
    pub fn identity(&self) -> &str {
        self.credentials.identity()
    }

    /// Masks the login in what is told from now on: a server or a user's script may say it.
    pub fn mask(&self, events: &Events) {
        events.mask(self.credentials.secret().expose_secret());
    }

    /// The server's host and port.
    pub fn server(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        format!(
            "{host}:{}",
            self.endpoint.port_or_known_default().unwrap_or_default()
        )
    }

    /// Makes a call, and returns its `data`.
    pub async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        self.answer(call).await.map(|answer| answer.data)
    }

    /// Makes a call, and returns all of the answer.
    pub async fn answer<T: DeserializeOwned>(&self, call: Call) -> Result<Answer<T>, Failure> {
        let mut failed = 0;
        loop {
            let why = match self.attempt(&call).await {
                Ok(answer) => return Ok(answer),
                Err(why) => why,
            };
            failed += 1;
            let harmless = why.is_unsent() || (call.method == Method::GET && why.is_uncertain());
            if !harmless || failed >= call.attempts {
                return Err(self.failure(&call.method, &call.path, why));
            }
            tracing::debug!("{} {}: {why}; trying again", call.method, call.path);
            tokio::time::sleep(PAUSE * (1 << (failed - 1))).await;
        }
    }

    async fn attempt<T: DeserializeOwned>(&self, call: &Call) -> Result<Answer<T>, Why> {
        let parameters = call.encoded_parameters();
        let mut url = self.url(&call.path);
        let in_query =
            matches!(call.method, Method::GET | Method::DELETE) && !parameters.is_empty();
        if in_query {
            url.set_query(Some(&parameters));
        }
        let request = || {
            let request = self.http.request(call.method.clone(), url.clone());
            let request = request.timeout(ANSWER);
            // An empty POST must not claim to have a body of some type.
            match in_query || parameters.is_empty() {
                true => request,
                false => request
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(parameters.clone()),
            }
        };
        tracing::debug!("{} {}", call.method, call.path);
        let response = self.send(request).await?;
        let answer = read(response).await?;
        serde_json::from_slice(&answer).map_err(|error| Why::Nonsense(error.to_string()))
    }

    /// Asks for a WebSocket, and returns what it goes over.
    pub async fn websocket(&self, call: &Call) -> Result<Upgraded, Failure> {
        let mut url = self.url(&call.path);
        url.set_query(Some(&call.encoded_parameters()));
        let key = generate_key();
        tracing::debug!("{} {} for a WebSocket", call.method, call.path);
        let request = || {
            let request = self.http.request(call.method.clone(), url.clone());
            request
                .timeout(ANSWER)
                .header(CONNECTION, "Upgrade")
                .header(UPGRADE, "websocket")
                .header(SEC_WEBSOCKET_VERSION, "13")
                .header(SEC_WEBSOCKET_KEY, &key)
        };
        let upgraded = async {
            let response = self.send(request).await?;
            let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT);
            let expected = derive_accept_key(key.as_bytes());
            match accept.is_some_and(|accept| *accept == expected) {
                true => response.upgrade().await.map_err(Why::of),
                false => Err(Why::Nonsense("it does not agree to a WebSocket".into())),
            }
        };
        let upgraded = upgraded.await;
        upgraded.map_err(|why| self.failure(&call.method, &call.path, why))
    }

    /// Sends a request with our login. A ticket that has expired is renewed, once: a request with it was not processed.
    pub async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, Why> {
        let headers = self.login(false).await?;
        match accepted(request().headers(headers)).await {
            Err(why) if why.is_unauthorized() && self.logs_in() => {
                let headers = self.login(true).await?;
                accepted(request().headers(headers)).await
            }
            sent => sent,
        }
    }

    /// A POST of something of its own, to be sent by [`Client::send_once`].
    pub fn post(&self, path: &Path) -> RequestBuilder {
        tracing::debug!("POST {path}");
        self.http.post(self.url(path))
    }

    /// Sends a request that cannot be made twice, and returns its `data`. It goes with the login that is there: calls before
    /// it have made sure that there is one.
    pub async fn send_once<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Why> {
        let headers = self.login(false).await?;
        let answer = read(accepted(request.headers(headers)).await?).await?;
        let answer: Result<Answer<T>, _> = serde_json::from_slice(&answer);
        answer
            .map(|answer| answer.data)
            .map_err(|error| Why::Nonsense(error.to_string()))
    }

    /// Names the request that failed.
    pub fn failure(&self, method: &Method, path: &Path, why: Why) -> Failure {
        let method = match *method {
            Method::GET => "GET",
            Method::DELETE => "DELETE",
            Method::PUT => "PUT",
            _ => "POST",
        };
        Failure {
            request: Request {
                method,
                path: path.to_string(),
                identity: self.identity().to_owned(),
                server: self.server(),
            },
            why,
        }
    }

    fn url(&self, path: &Path) -> Url {
        let mut url = self.endpoint.clone();
        url.set_path(&format!("/api2/json/{}", path.encoded()));
        url
    }

    fn logs_in(&self) -> bool {
        matches!(self.credentials, Credentials::Password { .. })
    }

    /// The headers that say who we are.
    async fn login(&self, anew: bool) -> Result<HeaderMap, Why> {
        let headers = match &self.credentials {
            Credentials::Token { id, secret } => token_headers(id, secret),
            Credentials::Password { user, password } => {
                let mut known = self.ticket.lock().await;
                let ticket = match known.take().filter(|_| !anew) {
                    Some(ticket) => ticket,
                    None => self.ticket(user, password).await?,
                };
                let headers = ticket_headers(&ticket);
                *known = Some(ticket);
                headers
            }
        };
        headers.ok_or_else(|| Why::Nonsense("its ticket cannot be sent back".into()))
    }

    async fn ticket(&self, user: &str, password: &SecretString) -> Result<Ticket, Why> {
        #[derive(Deserialize)]
        struct Given {
            ticket: Option<String>,
            #[serde(rename = "CSRFPreventionToken")]
            csrf: Option<String>,
        }
        let form = format!(
            "username={}&password={}",
            encode(user),
            encode(password.expose_secret())
        );
        let request = self.http.post(self.url(&Path::new(["access", "ticket"])));
        let request = request
            .timeout(ANSWER)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        tracing::debug!("POST /access/ticket");
        let answer = read(accepted(request.body(form)).await?).await?;
        // What the JSON library says of an answer that it cannot read could quote the ticket.
        let unreadable = |_| Why::Nonsense("it answers to a login with something else".into());
        let answer: Answer<Given> = serde_json::from_slice(&answer).map_err(unreadable)?;
        match (answer.data.ticket, answer.data.csrf) {
            (Some(cookie), Some(csrf)) => Ok(Ticket {
                cookie: cookie.into(),
                csrf: csrf.into(),
            }),
            // Without the second token it is a ticket for the second factor only.
            _ => Err(Why::Refused(Refusal {
                status: 401,
                reason: "the user has a second factor: use an API token".into(),
                errors: Default::default(),
            })),
        }
    }
}

/// Sends a request, and turns a status that is no success into what the server says with it.
async fn accepted(request: RequestBuilder) -> Result<Response, Why> {
    let response = request.send().await.map_err(Why::of)?;
    let status = response.status();
    // The other status is only for those who have asked for it.
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let phrase = response.extensions().get::<ReasonPhrase>();
    let reason = match phrase {
        Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
        None => status.canonical_reason().unwrap_or_default().to_owned(),
    };
    // The status is the answer, even if the rest of it does not come.
    let body = read(response).await.unwrap_or_default();
    Err(Why::Refused(refusal(status.as_u16(), reason, &body)))
}

/// Reads an answer to its end.
async fn read(mut response: Response) -> Result<Vec<u8>, Why> {
    let mut bytes = vec![];
    while let Some(chunk) = response.chunk().await.map_err(Why::of)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LARGEST {
            let text = format!("it is larger than {} MiB", LARGEST >> 20);
            return Err(Why::Nonsense(text));
        }
    }
    Ok(bytes)
}

/// What an answer that is no success says. The body may be JSON, plain text, or nothing.
fn refusal(status: u16, reason: String, body: &[u8]) -> Refusal {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let errors = body.get("errors").and_then(Value::as_object);
    let errors = errors.into_iter().flatten();
    let errors = errors.map(|(name, text)| {
        let text = text
            .as_str()
            .map_or_else(|| text.to_string(), str::to_owned);
        (line(name), line(&text))
    });
    Refusal {
        status,
        reason: line(&reason),
        errors: errors.collect(),
    }
}

/// What the server says, as one line that can be shown.
fn line(text: &str) -> String {
    printable(text.trim()).replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_reason_and_what_is_wrong_with_each_parameter() {
        let body = br#"{"data":null,"errors":{"vmid":"VM 100 already exists"}}"#;
        let told = refusal(400, "Parameter verification failed.".into(), body);
        assert_eq!(
            told.to_string(),
            "400 Parameter verification failed.; vmid: VM 100 already exists"
        );
        let told = refusal(
            403,
            "Permission check failed (/\u{9b}2J\u{1b}[2J, VM.Audit)".into(),
            b"",
        );
        assert_eq!(
            told.missing().unwrap().path,
            "/2J",
            "nothing that moves a terminal's cursor"
        );
        for body in [&b""[..], b"for data too large", b"[]", b"null"] {
            assert_eq!(refusal(596, "x".into(), body).errors.len(), 0);
        }
    }
}
