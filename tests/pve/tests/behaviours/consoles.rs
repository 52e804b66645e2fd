//! Serial consoles over the API.

use pve_lab::{Fault, Server, Setup, What};
use serde_json::Value;

use crate::client::{Client, Wire, form};

const WEBSOCKET: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A terminal that was asked for.
pub struct Terminal<'c> {
    client: &'c Client,
    given: Value,
}

impl<'c> Terminal<'c> {
    pub fn open(client: &'c Client, serial: &str) -> Self {
        let given = client.post(&client.vm(100, "/termproxy"), &form(&[("serial", serial)]));
        let given = given.data();
        Terminal { client, given }
    }

    fn given(&self, name: &str) -> &str {
        self.given[name].as_str().unwrap()
    }

    fn path(&self, port: &str, ticket: &str) -> String {
        let query = form(&[("port", port), ("vncticket", ticket)]);
        self.client.vm(100, &format!("/vncwebsocket?{query}"))
    }

    fn port(&self) -> String {
        self.given["port"].as_str().unwrap().to_owned()
    }

    /// A WebSocket to it.
    fn connect(&self) -> WebSocket {
        let mut wire = Wire::open(&self.client.place).unwrap();
        let path = self.path(&self.port(), self.given("ticket"));
        wire.send(&self.client.message("GET", &path, WEBSOCKET, b""))
            .unwrap();
        let answer = wire.answer().unwrap();
        answer.is(101, "Switching Protocols");
        // That of RFC 6455's example.
        let accept = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";
        assert!(answer.headers.contains(accept), "{answer:?}");
        WebSocket(wire)
    }

    /// The same, logged in.
    pub fn log_in(&self) -> WebSocket {
        let mut socket = self.connect();
        let login = format!("{}:{}\n", self.given("user"), self.given("ticket"));
        socket.send(login.as_bytes());
        socket
    }

    fn exit(&self) -> String {
        self.client.exit(self.given("upid"))
    }
}

pub struct WebSocket(Wire);

impl WebSocket {
    fn send(&mut self, data: &[u8]) {
        let length = u8::try_from(data.len()).unwrap_or(126);
        let mut frame = vec![0x82, 0x80 | length.min(126)];
        if length >= 126 {
            frame.extend((data.len() as u16).to_be_bytes());
        }
        frame.extend([0; 4]);
        frame.extend(data);
        self.0.send(&frame).unwrap();
    }

    /// The data of the next frame. `None` at the end.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        let head = self.0.take(2)?;
        assert_eq!(head[0], 0x82, "whole and binary");
        let length = match head[1] {
            126 => {
                let length = self.0.take(2)?;
                u16::from_be_bytes([length[0], length[1]]).into()
            }
            length => usize::from(length),
        };
        self.0.take(length)
    }

    /// All that comes until this has come.
    #[track_caller]
    pub fn until(&mut self, wanted: &str) -> String {
        let mut all = String::new();
        while !all.contains(wanted) {
            let data = self.next().unwrap_or_else(|| panic!("{all}"));
            all.push_str(&String::from_utf8_lossy(&data));
        }
        all
    }
}

#[test]
fn consoles_need_vm_console() {
    let setup = Setup::new().token("some@pve!ci", "secret");
    let server = Server::start(setup.grant("/vms", "some@pve!ci", &["VM.Audit"]));
    Client::new(&server).has_vm(100, &[]);
    let client = Client::with_token(&server, "some@pve!ci", "secret");
    let refused = "Permission check failed (/vms/100, VM.Console)";
    client
        .post(&client.vm(100, "/termproxy"), "")
        .is(403, refused);
    let path = client.vm(100, "/vncwebsocket?port=5900&vncticket=x");
    client
        .raw("GET", &path, WEBSOCKET, b"")
        .unwrap()
        .is(403, refused);
}

#[test]
fn a_terminal_is_a_task_a_port_and_a_ticket_for_it() {
    let server = Server::start(Setup::new().pace(20));
    let client = Client::new(&server);
    client.has_vm(100, &[("serial0", "socket")]);
    let terminal = Terminal::open(&client, "serial0");
    assert_eq!(terminal.given("user"), pve_lab::TOKEN);
    assert_eq!(terminal.port(), "5900");
    assert!(terminal.given("upid").contains(":vncproxy:100:"));
    let other = Terminal::open(&client, "serial0");
    assert_eq!(other.port(), "5901");
    for (port, ticket) in [
        (other.port(), terminal.given("ticket")),
        (terminal.port(), "PVEVNC:00000000::"),
    ] {
        let path = terminal.path(&port, ticket);
        let answer = client.raw("GET", &path, WEBSOCKET, b"").unwrap();
        answer.is(401, "permission denied - invalid PVEVNC ticket");
    }
    // Nobody comes.
    assert!(other.exit().ends_with("exit code 1"), "{}", other.exit());
}

#[test]
fn a_console_begins_with_a_login_and_ok() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("serial0", "socket")]);
    client.start(100);
    let terminal = Terminal::open(&client, "serial0");
    let mut socket = terminal.log_in();
    assert_eq!(socket.next().unwrap(), b"OK");
    socket.until("starting serial terminal on interface serial0\r\n");
    socket.send(b"2");
    drop(socket);
    assert_eq!(terminal.exit(), "OK");

    let terminal = Terminal::open(&client, "serial0");
    let mut socket = terminal.connect();
    socket.send(b"builder@pve!lab:PVEVNC:somebody-elses\n");
    assert_eq!(socket.next(), None);
    assert!(terminal.exit().ends_with("exit code 1"));
}

#[test]
fn what_cannot_be_read_is_said_on_the_console() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("serial0", "socket")]);
    for (serial, said) in [
        ("serial0", "VM 100 not running"),
        ("serial1", "serial interface 'serial1' is not configured"),
    ] {
        let mut socket = Terminal::open(&client, serial).log_in();
        socket.until(said);
        assert_eq!(socket.next(), None);
    }
}

#[test]
fn a_websocket_takes_whole_masked_frames() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("serial0", "socket")]);
    for frame in [&b"\x82\x02x\n"[..], b"\x02\x82\0\0\0\0x\n"] {
        let mut socket = Terminal::open(&client, "serial0").connect();
        socket.0.send(frame).unwrap();
        assert_eq!(socket.next(), None);
    }
    let old = WEBSOCKET.replace("13", "8");
    let terminal = Terminal::open(&client, "serial0");
    let path = terminal.path(&terminal.port(), terminal.given("ticket"));
    let answer = client.raw("GET", &path, &old, b"").unwrap();
    answer.is(500, "unsupported websocket-version '8'");
}

#[test]
fn before_there_was_a_way_for_them_tokens_are_not_let_in() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("serial0", "socket")]);
    let fault = Fault::on("GET", "/nodes/*/qemu/*/vncwebsocket");
    server.inject(fault.with(What::NoConsoleForTokens));
    assert_eq!(Terminal::open(&client, "serial0").log_in().next(), None);
}
