//! HTTP as Proxmox speaks it, from the head of a call to the end of its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde_json::json;
use tokio::sync::watch;

use crate::access::Credentials;
use crate::cluster::{Cluster, held};
use crate::content::Content;
use crate::dispatch;
use crate::fault::What;
use crate::params::Params;
use crate::record::Request;
use crate::reply::{Body, Failure, Reply};
use crate::upload;

/// The largest body of a call that is no upload, in bytes.
const LARGEST: u64 = 512 << 10;

/// What the kernel and TLS can have taken of a call before it is refused. A client that has sent no more than this sees the answer;
/// one that is still sending sees a broken pipe.
const BUFFERED: u64 = 16 << 10;

/// One connection.
pub struct Connection {
    pub cluster: Arc<Cluster>,
    pub number: u64,
    /// Closes the port for a while.
    pub refuse: watch::Sender<Duration>,
}

/// The connection is to be dropped without an answer.
#[derive(Debug)]
pub struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is dropped")
    }
}

impl std::error::Error for Dropped {}

/// A call's body, and how much of it was read.
pub struct Incomplete {
    body: Incoming,
    patience: Duration,
    /// After each piece.
    pause: Duration,
    pub read: u64,
}

impl Incomplete {
    /// The next piece; none at the end. A client that sends nothing for too long is dropped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Dropped> {
        loop {
            let frame = tokio::time::timeout(self.patience, self.body.frame()).await;
            match frame.map_err(|_| Dropped)? {
                None => return Ok(None),
                Some(Err(_)) => return Err(Dropped),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.read += data.len() as u64;
                        tokio::time::sleep(self.pause).await;
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    async fn all(&mut self) -> Result<Vec<u8>, Dropped> {
        let mut all = vec![];
        while let Some(data) = self.next().await? {
            all.extend_from_slice(&data);
        }
        Ok(all)
    }
}

/// A call, as far as its head tells.
struct Head {
    method: Method,
    /// Below `/api2/json`.
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    length: u64,
}

impl Head {
    fn header(&self, name: impl hyper::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn changes(&self) -> bool {
        self.method != Method::GET
    }
}

impl Connection {
    /// Answers a call, and writes down that it was.
    pub async fn answer(
        &self,
        request: hyper::Request<Incoming>,
    ) -> Result<Response<Content>, Dropped> {
        let (parts, body) = request.into_parts();
        let path = percent_encoding::percent_decode_str(parts.uri.path()).decode_utf8_lossy();
        let under = path.strip_prefix("/api2/json").map(str::to_owned);
        let head = Head {
            path: under.clone().unwrap_or_else(|| path.into_owned()),
            query: parts.uri.query().map(str::to_owned),
            length: length(&parts.headers),
            method: parts.method,
            headers: parts.headers,
        };
        let fault = held(&self.cluster.faults).due(head.method.as_str(), &head.path);
        let entry = self.note(&head, fault.is_some());
        let mut body = Incomplete {
            body,
            patience: self.cluster.wait(Duration::from_secs(5)),
            pause: match fault {
                Some(What::SlowCall { pause }) => pause,
                _ => Duration::ZERO,
            },
            read: 0,
        };
        let reply = match under {
            None => Ok(Err(Failure::new(501, "no such uri").with_body(Body::Text))),
            Some(_) => self.reply(&head, &mut body, fault.as_ref()).await,
        };
        let response = reply.map(|reply| respond(&head, reply, fault == Some(What::CutAnswer)));
        let mut requests = held(&self.cluster.requests);
        let entry = &mut requests[entry];
        entry.received = body.read;
        entry.ended = Some(Instant::now());
        if let Ok(response) = &response {
            entry.status = Some(response.status().as_u16());
            entry.sent = response.body().length();
        }
        response
    }

    fn note(&self, head: &Head, fault: bool) -> usize {
        let mut requests = held(&self.cluster.requests);
        requests.push(Request {
            method: head.method.to_string(),
            path: head.path.clone(),
            connection: self.number,
            status: None,
            began: Instant::now(),
            ended: None,
            received: 0,
            sent: 0,
            fault,
        });
        requests.len() - 1
    }

    async fn reply(
        &self,
        head: &Head,
        body: &mut Incomplete,
        fault: Option<&What>,
    ) -> Result<Reply, Dropped> {
        if let Some(reply) = self.refused(head, body, fault).await? {
            return Ok(reply);
        }
        if let Err(failure) = only_what_proxmox_takes(head) {
            return Ok(Err(failure));
        }
        let who = match self.who(head) {
            Ok(who) => who,
            Err(failure) => return self.refuse_early(head, failure),
        };
        let mut params = Params::default();
        let upload = match dispatch::upload_storage(&head.method, &head.path) {
            None => None,
            Some(storage) => {
                let privilege = "Datastore.AllocateTemplate";
                let path = format!("/storage/{storage}");
                let has = self.cluster.world().access.privileges(&who, &path);
                if !has.contains(privilege) {
                    let failure = Failure::forbidden(&path, privilege).with_body(Body::Empty);
                    return self.refuse_early(head, failure);
                }
                let content_type = head.header(CONTENT_TYPE).unwrap_or_default();
                match upload::receive(&self.cluster, content_type, body, &mut params).await? {
                    Ok(file) => Some(file),
                    Err(failure) => return Ok(Err(failure)),
                }
            }
        };
        if upload.is_none() {
            if head.length > LARGEST {
                return Ok(Err(
                    Failure::new(501, "for data too large").with_body(Body::Text)
                ));
            }
            let content = body.all().await?;
            if let Err(failure) = read_body(head, &content, &mut params) {
                return Ok(Err(failure));
            }
        }
        if let Some(query) = &head.query {
            params.add_form(query);
        }
        let call = dispatch::Incoming {
            method: &head.method,
            path: &head.path,
            who,
            params,
            upload,
            fault: fault.cloned(),
        };
        Ok(dispatch::dispatch(&self.cluster, call).await)
    }

    /// The faults that come before all else.
    async fn refused(
        &self,
        head: &Head,
        body: &mut Incomplete,
        fault: Option<&What>,
    ) -> Result<Option<Reply>, Dropped> {
        let failure = match fault {
            Some(What::Refused { lasting }) => {
                let _ = self.refuse.send(*lasting);
                return Err(Dropped);
            }
            Some(What::CutCall) => {
                while body.read < head.length / 2 {
                    if body.next().await?.is_none() {
                        break;
                    }
                }
                return Err(Dropped);
            }
            Some(What::Unauthorized) => Failure::unauthorized("Authentication failed!"),
            Some(What::Forbidden { path, privilege }) => Failure::forbidden(path, privilege),
            Some(What::Error { reason }) => Failure::died(reason),
            _ => return Ok(None),
        };
        self.refuse_early(head, failure).map(Some)
    }

    /// An answer to a call whose body was not read. It reaches those only who have sent all of it.
    fn refuse_early(&self, head: &Head, failure: Failure) -> Result<Reply, Dropped> {
        match head.length > BUFFERED {
            true => Err(Dropped),
            false => Ok(Err(failure)),
        }
    }

    fn who(&self, head: &Head) -> Result<String, Failure> {
        if dispatch::is_open(&head.method, &head.path) {
            return Ok(String::new());
        }
        let credentials = Credentials {
            authorization: head.header(AUTHORIZATION),
            cookie: head.header(COOKIE),
            csrf: head.header("CSRFPreventionToken"),
        };
        self.cluster
            .world()
            .access
            .who(&credentials, head.changes())
    }
}

/// What Proxmox's server says to a head that it does not take.
fn only_what_proxmox_takes(head: &Head) -> Result<(), Failure> {
    if let Some(encoding) = head.header(TRANSFER_ENCODING) {
        let reason = match encoding.eq_ignore_ascii_case("chunked") {
            true => "chunked transfer encoding not supported".into(),
            false => format!("Unknown transfer encoding '{encoding}'"),
        };
        return Err(Failure::new(501, reason).with_body(Body::Text));
    }
    if head.length > 0 && head.method != Method::POST && head.method != Method::PUT {
        let reason = format!("Unexpected content for method '{}'", head.method);
        return Err(Failure::new(501, reason).with_body(Body::Text));
    }
    Ok(())
}

/// Parameters of a body that is no upload.
fn read_body(head: &Head, content: &[u8], params: &mut Params) -> Result<(), Failure> {
    if head.method != Method::POST && head.method != Method::PUT {
        return Ok(());
    }
    let kind = head.header(CONTENT_TYPE).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim() {
        "application/json" => params
            .add_json(content)
            .map_err(|reason| Failure::died(reason).with_body(Body::Text)),
        "" | "application/x-www-form-urlencoded" => {
            params.add_form(&String::from_utf8_lossy(content));
            Ok(())
        }
        other => {
            let reason = format!("upload 'Content-Type '{other}' not implemented");
            Err(Failure::new(506, reason).with_body(Body::Text))
        }
    }
}

fn respond(head: &Head, reply: Reply, cut: bool) -> Response<Content> {
    let (status, reason, content, kind) = match reply {
        Ok(answer) => {
            let mut body = json!({"data": answer.data});
            if let Some(total) = answer.total {
                body["total"] = json!(total);
            }
            (
                200,
                "OK".to_owned(),
                body.to_string().into_bytes(),
                Body::Json,
            )
        }
        Err(failure) => (
            failure.status,
            failure.reason.clone(),
            failure.content(),
            failure.body,
        ),
    };
    let mut response = Response::new(Content::new(content, cut));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let line: Vec<u8> = reason.bytes().take_while(|byte| *byte != b'\n').collect();
    if let Ok(reason) = ReasonPhrase::try_from(line) {
        response.extensions_mut().insert(reason);
    }
    let headers = response.headers_mut();
    headers.insert(
        "server",
        hyper::header::HeaderValue::from_static("pve-api-daemon/3.0"),
    );
    if kind == Body::Json {
        let json = hyper::header::HeaderValue::from_static("application/json;charset=UTF-8");
        headers.insert(CONTENT_TYPE, json);
    }
    // Nothing more comes on a connection after a failure, nor after an upload.
    if status >= 400 || dispatch::upload_storage(&head.method, &head.path).is_some() {
        headers.insert(
            "connection",
            hyper::header::HeaderValue::from_static("close"),
        );
    }
    response
}

fn length(headers: &HeaderMap) -> u64 {
    let value = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}
