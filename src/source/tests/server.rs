//! A web server that misbehaves on demand: it cuts answers, stalls, ignores ranges, and counts what it is asked.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the server does with one GET instead of serving it well.
#[derive(Debug, Clone)]
pub enum Act {
    /// Announces everything, sends this many bytes, and hangs up.
    Cut(usize),
    /// Sends this many bytes, then nothing until the client gives up.
    Stall(usize),
    Status(u16),
    Redirect(String),
}

#[derive(Debug, Clone, Default)]
pub struct File {
    pub body: Vec<u8>,
    pub etag: Option<String>,
    pub ignores_ranges: bool,
    /// What happens to the next GETs, one each; then all goes well.
    pub acts: VecDeque<Act>,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    files: HashMap<String, File>,
    requests: Vec<Request>,
}

#[derive(Clone)]
pub struct Server {
    root: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Self {
        Server::start_at("127.0.0.1:0")
    }

    pub fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let root = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let server = Server {
            root,
            state: state.clone(),
        };
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let state = state.clone();
                // A client that hangs up early is what many tests are about.
                std::thread::spawn(move || drop(answer(connection, &state)));
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    pub fn put(&self, path: &str, body: impl Into<Vec<u8>>) -> String {
        self.put_file(
            path,
            File {
                body: body.into(),
                etag: Some("\"one\"".into()),
                ..File::default()
            },
        )
    }

    pub fn put_file(&self, path: &str, file: File) -> String {
        let mut state = self.state.lock().unwrap();
        state.files.insert(format!("/{path}"), file);
        self.url(path)
    }

    pub fn change(&self, path: &str, change: impl FnOnce(&mut File)) {
        let mut state = self.state.lock().unwrap();
        change(state.files.get_mut(&format!("/{path}")).unwrap());
    }

    /// The next GETs of `path` go like this.
    pub fn act(&self, path: &str, acts: impl IntoIterator<Item = Act>) {
        self.change(path, |file| file.acts.extend(acts));
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    pub fn gets(&self, path: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.method == "GET" && request.path == format!("/{path}"));
        requests
    }
}

fn answer(connection: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let mut words = lines.first().cloned().unwrap_or_default();
    words.truncate(words.rfind(' ').unwrap_or(0));
    let Some((method, path)) = words.split_once(' ') else {
        return Ok(());
    };
    let headers = lines.iter().filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let request = Request {
        method: method.into(),
        path: path.into(),
        headers: headers.collect(),
    };
    let (file, act) = {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        let file = state.files.get_mut(path);
        let act = match method {
            "GET" => file.and_then(|file| file.acts.pop_front()),
            _ => None,
        };
        (state.files.get(path).cloned(), act)
    };
    let mut out = connection;
    let Some(file) = file else {
        return write!(
            out,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    };
    match &act {
        Some(Act::Status(code)) => {
            return write!(
                out,
                "HTTP/1.1 {code} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        Some(Act::Redirect(to)) => {
            return write!(
                out,
                "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        _ => {}
    }
    let range = request
        .headers
        .get("range")
        .filter(|_| !file.ignores_ranges);
    let unchanged = request
        .headers
        .get("if-range")
        .is_none_or(|tag| Some(tag) == file.etag.as_ref());
    let from = range.filter(|_| unchanged).and_then(|range| {
        let from = range.strip_prefix("bytes=")?.strip_suffix('-')?;
        from.parse::<usize>().ok()
    });
    let total = file.body.len();
    let body = match from {
        Some(from) if from >= total => {
            return write!(
                out,
                "HTTP/1.1 416 X\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        Some(from) => {
            let last = total - 1;
            write!(
                out,
                "HTTP/1.1 206 X\r\nContent-Range: bytes {from}-{last}/{total}\r\n"
            )?;
            &file.body[from..]
        }
        None => {
            write!(out, "HTTP/1.1 200 OK\r\n")?;
            &file.body[..]
        }
    };
    if let Some(etag) = &file.etag {
        write!(out, "ETag: {etag}\r\n")?;
    }
    write!(
        out,
        "Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    if request.method == "HEAD" {
        return Ok(());
    }
    match act {
        Some(Act::Cut(bytes)) => out.write_all(&body[..bytes.min(body.len())]),
        Some(Act::Stall(bytes)) => {
            out.write_all(&body[..bytes.min(body.len())])?;
            // Returns when the client hangs up.
            reader.read_line(&mut String::new()).map(drop)
        }
        _ => out.write_all(body),
    }
}
