//! A vendor's server, as far as a test needs one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A web server on loopback that remembers what it was asked for. Guests reach it as well, see [`Server::for_guests`].
pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

pub struct Request {
    pub method: String,
    /// With its query.
    pub path: String,
    /// By names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

pub struct Answer {
    pub status: String,
    /// Whole lines.
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn new(status: &str) -> Self {
        Answer {
            status: status.into(),
            headers: vec![],
            body: vec![],
        }
    }

    pub fn file(body: Option<&Vec<u8>>) -> Self {
        match body {
            Some(body) => Answer {
                body: body.clone(),
                ..Answer::new("200 OK")
            },
            None => Answer::new("404 Not Found"),
        }
    }
}

impl Server {
    pub fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        Server::start_with(|_| files)
    }

    /// The files may have to say where they are.
    pub fn start_with(files: impl FnOnce(&str) -> BTreeMap<String, Vec<u8>>) -> Self {
        Server::answering(|address| {
            let files = files(address);
            move |request| Answer::file(files.get(&request.path))
        })
    }

    /// A server that does whatever the test says.
    pub fn answering<A>(answers: impl FnOnce(&str) -> A) -> Self
    where
        A: Fn(&Request) -> Answer + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let answers = Arc::new(answers(&address));
        let requests = Arc::new(Mutex::new(vec![]));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, seen, answers) = (stream.unwrap(), seen.clone(), answers.clone());
                // Some clients keep a connection in reserve, which must not hold up the others.
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    seen.lock().unwrap().push(request.path.clone());
                    // A client that went away is its own affair.
                    let _ = write(stream, &answers(&request));
                });
            }
        });
        Server { address, requests }
    }

    /// Where guests find it: QEMU's user network leads this address to the host's loopback.
    pub fn for_guests(&self) -> String {
        self.address.replace("127.0.0.1", "10.0.2.2")
    }

    /// What it was asked for since this was last asked.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        let read = reader.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    while let Some(line) = line().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    // All of the request has to be read, or closing would reset the connection.
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        headers,
        body,
    })
}

fn write(mut stream: TcpStream, answer: &Answer) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {}\r\nContent-Length: {}\r\nConnection: close\r\n",
        answer.status,
        answer.body.len()
    );
    for line in &answer.headers {
        head.push_str(&format!("{line}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    stream.write_all(&answer.body)
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
