//! HTTP as Proxmox speaks it, from the head of a call to the end of its answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, TRANSFER_ENCODING};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde_json::json;
use tokio::sync::watch;

use crate::access::Credentials;
use crate::body::{Dropped, Incomplete};
use crate::cluster::{Cluster, held};
use crate::content::Content;
use crate::dispatch;
use crate::fault::What;
use crate::params::Params;
use crate::record::Request;
use crate::reply::{Answer, Body, Failure, Reply};
use crate::upload;
use crate::vm::console;
use crate::websocket;

/// The largest body of a call that is no upload, in bytes.
const LARGEST: u64 = 512 << 10;

/// What the kernel takes of a call before it is refused: 197 KB were seen to be. A client that has sent no more than this sees the
/// answer; one that is still sending sees a broken pipe.
const BUFFERED: u64 = 256 << 10;

/// One connection.
pub struct Connection {
    pub cluster: Arc<Cluster>,
    pub number: u64,
    /// Closes the port for a while.
    pub refuse: watch::Sender<Duration>,
}

/// Why a call is not done.
enum Stop {
    Refuse(Failure),
    Drop,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Refuse(failure)
    }
}

impl From<Dropped> for Stop {
    fn from(_: Dropped) -> Self {
        Stop::Drop
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

    /// Whether a forged call would do harm. Uploads are left out: forms of browsers could not send what is asked for.
    fn changes(&self) -> bool {
        let upload = dispatch::upload_storage(&self.method, &self.path).is_some();
        self.method != Method::GET && !upload
    }
}

impl Connection {
    /// Answers a call, and writes down that it was.
    pub async fn answer(
        &self,
        mut request: hyper::Request<Incoming>,
    ) -> Result<Response<Content>, Dropped> {
        let upgrade = hyper::upgrade::on(&mut request);
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
            patience: self.cluster.patience(Duration::from_secs(5)),
            pause: match fault {
                Some(What::SlowCall { pause }) => pause,
                _ => Duration::ZERO,
            },
            read: 0,
        };
        let reply = match under {
            None => Err(Failure::new(501, "no such uri")
                .with_body(Body::Text)
                .into()),
            Some(_) => self.reply(&head, &mut body, fault.as_ref()).await,
        };
        let reply = match reply {
            Ok(answer) => Ok(Ok(answer)),
            Err(Stop::Refuse(failure)) => Ok(Err(failure)),
            Err(Stop::Drop) => Err(Dropped),
        };
        let response = reply.and_then(|reply| match reply {
            Ok(answer) if websocket::is_wanted(&head.path, &head.headers) => {
                self.upgrade(&head, &answer, upgrade, fault)
            }
            reply => Ok(respond(&head, reply, fault.as_ref())),
        });
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

    /// Leads a WebSocket to the port that a call's answer names.
    fn upgrade(
        &self,
        head: &Head,
        answer: &Answer,
        upgrade: OnUpgrade,
        fault: Option<What>,
    ) -> Result<Response<Content>, Dropped> {
        let headers = match websocket::agreement(&head.headers) {
            Ok(headers) => headers,
            Err(failure) => return Ok(respond(head, Err(failure), None)),
        };
        let port = answer.data["port"].as_str().unwrap_or_default();
        if !console::connect(&self.cluster, port, upgrade, fault) {
            return Err(Dropped);
        }
        let mut response = Response::new(Content::new(vec![], false));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        Ok(response)
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
    ) -> Result<Answer, Stop> {
        self.disturb(head, body, fault).await?;
        only_what_proxmox_takes(head)?;
        let who = match self.who(head) {
            Ok(who) => who,
            Err(failure) => return Err(early(head, body, failure).await),
        };
        let (mut params, upload) = self.receive(head, body, &who).await?;
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
        Ok(dispatch::dispatch(&self.cluster, call).await?)
    }

    /// The faults that come before all else.
    async fn disturb(
        &self,
        head: &Head,
        body: &mut Incomplete,
        fault: Option<&What>,
    ) -> Result<(), Stop> {
        let failure = match fault {
            Some(What::Refused { lasting }) => {
                let _ = self.refuse.send(*lasting);
                return Err(Stop::Drop);
            }
            Some(What::CutCall) => {
                while body.read < head.length / 2 && body.next().await?.is_some() {}
                return Err(Stop::Drop);
            }
            Some(What::Unauthorized) => Failure::unauthorized("Authentication failed!"),
            Some(What::Forbidden { path, privilege }) => Failure::forbidden(path, privilege),
            Some(What::Error { reason }) => Failure::died(reason),
            _ => return Ok(()),
        };
        Err(early(head, body, failure).await)
    }

    /// What the body says. Who may not upload is told so before the file comes.
    async fn receive(
        &self,
        head: &Head,
        body: &mut Incomplete,
        who: &str,
    ) -> Result<(Params, Option<PathBuf>), Stop> {
        let mut params = Params::default();
        let Some(storage) = dispatch::upload_storage(&head.method, &head.path) else {
            if head.length > LARGEST {
                return Err(Failure::new(501, "for data too large")
                    .with_body(Body::Text)
                    .into());
            }
            let content = body.all().await?;
            read_body(head, &content, &mut params)?;
            return Ok((params, None));
        };
        let (path, privilege) = (format!("/storage/{storage}"), "Datastore.AllocateTemplate");
        let has = self.cluster.world().access.privileges(who, &path);
        if !has.contains(privilege) {
            let failure = Failure::forbidden(&path, privilege).with_body(Body::Empty);
            return Err(early(head, body, failure).await);
        }
        let content_type = head.header(CONTENT_TYPE).unwrap_or_default();
        let file = upload::receive(&self.cluster, content_type, body, &mut params).await??;
        Ok((params, Some(file)))
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

/// A refusal before the body was read. It reaches only those who have sent all of it.
async fn early(head: &Head, body: &mut Incomplete, failure: Failure) -> Stop {
    if head.length > BUFFERED {
        return Stop::Drop;
    }
    // What is left unread would reset the connection, and take the answer with it.
    match body.all().await {
        Ok(_) => Stop::Refuse(failure),
        Err(Dropped) => Stop::Drop,
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

fn respond(head: &Head, reply: Reply, fault: Option<&What>) -> Response<Content> {
    let (status, reason, content, kind) = match reply {
        Ok(_) if fault == Some(&What::StrangeAnswer) => {
            let page = b"<html>It works!</html>".to_vec();
            (200, "OK".to_owned(), page, Body::Text)
        }
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
    let cut = fault == Some(&What::CutAnswer);
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
