//! A client that says what a test wants it to say, and tells all that came back.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pve_lab::Server;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// How long a test waits for what has to come.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server's answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    pub headers: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub fn data(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()["data"].clone()
    }

    /// Asserts status and reason phrase.
    #[track_caller]
    pub fn is(&self, status: u16, reason: &str) -> &Self {
        assert_eq!(
            (self.status, self.reason.as_str()),
            (status, reason),
            "{self:?}"
        );
        self
    }

    /// Asserts what is wrong with a parameter.
    #[track_caller]
    pub fn refuses(&self, parameter: &str, wrong: &str) {
        self.is(400, "Parameter verification failed.");
        assert_eq!(self.json()["errors"][parameter], wrong, "{self:?}");
    }
}

/// Where a server is, and how it is known.
#[derive(Clone)]
pub struct Place {
    pub port: u16,
    /// In PEM.
    pub certificate: String,
}

impl From<&Server> for Place {
    fn from(server: &Server) -> Self {
        Place {
            port: server.port(),
            certificate: server.certificate().to_owned(),
        }
    }
}

/// One connection.
pub struct Wire(StreamOwned<ClientConnection, TcpStream>);

impl Wire {
    pub fn open(place: &Place) -> std::io::Result<Self> {
        Wire::open_offering(place, &[])
    }

    /// Offers these protocols.
    pub fn open_offering(place: &Place, protocols: &[&[u8]]) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(place.certificate.as_bytes()).unwrap();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(("127.0.0.1", place.port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Wire(StreamOwned::new(connection, stream)))
    }

    /// The protocol that was agreed on.
    pub fn agreed(&self) -> Option<Vec<u8>> {
        self.0.conn.alpn_protocol().map(<[u8]>::to_vec)
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }

    /// So many bytes. `None` if the server ends the connection before.
    pub fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).is_ok().then_some(bytes)
    }

    /// All until the server ends the connection.
    pub fn rest(mut self) -> std::io::Result<Vec<u8>> {
        let mut all = vec![];
        self.0.read_to_end(&mut all).map(|_| all)
    }

    /// The next answer, by its length.
    pub fn answer(&mut self) -> std::io::Result<Answer> {
        let mut all = vec![];
        let mut byte = [0];
        while !all.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte)?;
            all.push(byte[0]);
        }
        let head = String::from_utf8(all).unwrap();
        let (first, headers) = head.split_once("\r\n").unwrap();
        let mut words = first.splitn(3, ' ').skip(1);
        let headers = headers.to_lowercase();
        let length = headers
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body)?;
        Ok(Answer {
            status: words.next().unwrap().parse().unwrap(),
            reason: words.next().unwrap_or_default().to_owned(),
            headers,
            body: String::from_utf8(body).unwrap(),
        })
    }
}

/// Who calls, and where.
pub struct Client {
    pub place: Place,
    /// The headers that say who.
    pub credentials: String,
}

impl Client {
    pub fn new(server: &Server) -> Self {
        Client::with_token(server, pve_lab::TOKEN, pve_lab::SECRET)
    }

    pub fn with_token(place: impl Into<Place>, id: &str, secret: &str) -> Self {
        Client {
            place: place.into(),
            credentials: format!("Authorization: PVEAPIToken={id}={secret}\r\n"),
        }
    }

    /// A head, and whatever body, to the letter.
    pub fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut wire = Wire::open(&self.place)?;
        wire.send(&self.message(method, path, headers, body))?;
        wire.answer()
    }

    pub fn message(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let credentials = &self.credentials;
        let head = format!(
            "{method} /api2/json{path} HTTP/1.1\r\nHost: pve\r\n{credentials}{headers}\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, "", b"").unwrap()
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.raw("DELETE", path, "", b"").unwrap()
    }

    #[track_caller]
    pub fn post(&self, path: &str, form: &str) -> Answer {
        self.send("POST", path, form)
    }

    #[track_caller]
    pub fn put(&self, path: &str, form: &str) -> Answer {
        self.send("PUT", path, form)
    }

    #[track_caller]
    pub fn send(&self, method: &str, path: &str, form: &str) -> Answer {
        let headers = format!(
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
            form.len()
        );
        self.raw(method, path, &headers, form.as_bytes()).unwrap()
    }

    /// How the task of this answer ends.
    #[track_caller]
    pub fn task(&self, answer: &Answer) -> String {
        self.exit(answer.data().as_str().unwrap())
    }

    /// How a task ends.
    #[track_caller]
    pub fn exit(&self, upid: &str) -> String {
        let path = format!(
            "/nodes/{}/tasks/{upid}/status",
            upid.split(':').nth(1).unwrap()
        );
        let status = self.until(&path, |status| status["status"] == "stopped");
        status["exitstatus"].as_str().unwrap().to_owned()
    }

    /// All lines of the log of this answer's task.
    #[track_caller]
    pub fn log(&self, answer: &Answer) -> Vec<String> {
        let upid = answer.data();
        let upid = upid.as_str().unwrap();
        let node = upid.split(':').nth(1).unwrap();
        let lines = self
            .get(&format!("/nodes/{node}/tasks/{upid}/log?limit=0"))
            .data();
        let lines = lines.as_array().unwrap().iter();
        lines
            .map(|line| line["t"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Asks again and again until the answer is as wanted.
    #[track_caller]
    pub fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until_in(DEADLINE, path, wanted)
    }

    /// The same for what takes longer.
    #[track_caller]
    pub fn until_in(
        &self,
        deadline: Duration,
        path: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let begin = Instant::now();
        loop {
            let data = self.get(path).data();
            if wanted(&data) {
                return data;
            }
            assert!(begin.elapsed() < deadline, "{path}: {data}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Calls a VM's URL: `vm(100, "/config")`.
    pub fn vm(&self, vmid: u32, rest: &str) -> String {
        format!("/nodes/pve/qemu/{vmid}{rest}")
    }
}

/// The body of an upload, part by part.
pub struct Form(Vec<u8>);

pub const BOUNDARY: &str = "----lab-boundary";

impl Form {
    pub fn new() -> Self {
        Form(vec![])
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        let part = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
        self.0.extend(part.bytes());
        self
    }

    pub fn file(mut self, name: &str, content: &[u8]) -> Self {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        self.0.extend(head.bytes());
        self.0.extend(content);
        self.0.extend(b"\r\n");
        self
    }

    /// The body, and the headers for it.
    pub fn end(mut self) -> (String, Vec<u8>) {
        self.0.extend(format!("--{BOUNDARY}--\r\n").bytes());
        let length = self.0.len();
        let headers = format!(
            "Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {length}\r\n"
        );
        (headers, self.0)
    }
}

impl Client {
    /// Uploads a form to the storage `local`.
    pub fn upload(&self, form: Form) -> std::io::Result<Answer> {
        let (headers, body) = form.end();
        self.raw("POST", "/nodes/pve/storage/local/upload", &headers, &body)
    }

    /// Has a file on `local`, and gives its volume id.
    #[track_caller]
    pub fn has_file(&self, content: &str, name: &str, bytes: &[u8]) -> String {
        let form = Form::new().field("content", content).file(name, bytes);
        assert_eq!(self.task(&self.upload(form).unwrap()), "OK");
        format!("local:{content}/{name}")
    }

    /// Has a VM with 64 MiB and a small disk in qcow2, stopped.
    #[track_caller]
    pub fn has_vm(&self, vmid: u32, more: &[(&str, &str)]) {
        let id = vmid.to_string();
        let pairs = [
            &[
                ("vmid", id.as_str()),
                ("memory", "64"),
                ("virtio0", "local:0.01,format=qcow2"),
            ],
            more,
        ];
        let created = self.post("/nodes/pve/qemu", &form(&pairs.concat()));
        assert_eq!(self.task(&created), "OK");
    }

    /// Has a template like that.
    #[track_caller]
    pub fn has_template(&self, vmid: u32) {
        self.has_vm(vmid, &[]);
        let converted = self.post(&self.vm(vmid, "/template"), "");
        assert_eq!(self.task(&converted), "OK");
    }

    #[track_caller]
    pub fn config(&self, vmid: u32) -> Value {
        self.get(&self.vm(vmid, "/config")).data()
    }

    /// Starts a VM. Its disk has no system, so nothing in it reacts to anything.
    #[track_caller]
    pub fn start(&self, vmid: u32) {
        let started = self.post(&self.vm(vmid, "/status/start"), "");
        assert_eq!(self.task(&started), "OK");
    }
}

/// A web server with these files, at the address that it gives.
pub fn web(files: BTreeMap<String, Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = vec![];
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            let file = head.split(' ').nth(1).and_then(|path| files.get(path));
            let status = if file.is_some() {
                "200 OK"
            } else {
                "404 Not Found"
            };
            let body = file.cloned().unwrap_or_default();
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            stream
                .write_all(&[answer.as_bytes(), &body].concat())
                .unwrap();
        }
    });
    address
}

/// A web server that leads whoever asks it to another address.
pub fn leads_to(other: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!(
        "HTTP/1.1 302 Found\r\nLocation: {other}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    address
}

/// A form, encoded as it must be.
pub fn form(pairs: &[(&str, &str)]) -> String {
    let encoded = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let pairs = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// An empty image in qcow2, as qemu-img makes it.
pub fn qcow2(size: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&path)
        .arg(size)
        .status();
    assert!(made.unwrap().success());
    std::fs::read(path).unwrap()
}

/// What a guest sees of an image, which a machine may have open.
pub fn raw(image: &std::path::Path) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    let made = std::process::Command::new("qemu-img")
        .args(["convert", "-U", "-f", "qcow2", "-O", "raw"])
        .args([image, &path])
        .status();
    assert!(made.unwrap().success());
    std::fs::read(path).unwrap()
}
