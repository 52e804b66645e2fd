//! The serial console of a machine, over the API alone: what the guest says while it boots.
//!
//! A terminal is asked for, which is a task of the server with a port and a ticket; a WebSocket leads to it; the first line on
//! it says once more who we are; from `OK` on come the guest's bytes (qemu-server's `termproxy` and `vncwebsocket`, and
//! proxmox-termproxy). QEMU gives them to one reader at a time and keeps none, so this reads no longer than somebody waits for
//! the guest: after that `qm terminal` on the node works again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::Proxmox;
use super::call::Call;
use super::error::{Failure, Why};
use super::number;
use crate::seed;
use crate::text::Lines;

/// The device that is read; machines of ours have it.
const DEVICE: &str = "serial0";

/// The bytes that are kept: as much as errors of the local backend show.
const TAIL: usize = 2048;

/// What the server says when it knows us. The guest's bytes follow at once.
const WELCOME: &[u8] = b"OK";

/// How long that may take: another program is started for it.
const LOGIN: Duration = Duration::from_secs(20);

/// How often a sign of life is sent, as Proxmox VE's own terminal does, for whatever is on the way and counts silence.
const SIGN: Duration = Duration::from_secs(30);

/// The sign of life.
const ALIVE: &[u8] = b"2";

/// The pauses before it is tried again: each is twice as long, up to the second, until the guest is heard. Each try is a task
/// in the node's log.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// How often a login is tried that is not answered.
const LOGINS: u32 = 3;

/// pveproxy sends no larger frames.
const FRAME: usize = 128 << 10;

type Socket = WebSocketStream<reqwest::Upgraded>;

/// What a WebSocket goes over.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Why a console is not read any more.
#[derive(Debug)]
pub enum Deaf {
    /// The server refuses it.
    Refused(Failure),
    /// The terminal does not take our ticket.
    Unknown { token: bool },
}

/// How an attempt ended.
enum Ended {
    /// It can be tried again. Whether the guest was heard.
    Lost { heard: bool },
    /// There was no answer to the login.
    NotLetIn,
    /// It makes no sense to try again.
    Refused(Failure),
}

/// The console of one machine.
pub struct Console<'c> {
    server: &'c Proxmox,
    vmid: u32,
    tail: RefCell<Tail>,
}

#[derive(Deserialize)]
struct Terminal {
    user: String,
    ticket: String,
    #[serde(deserialize_with = "number::number")]
    port: u16,
}

impl<'c> Console<'c> {
    /// Nothing is read yet.
    pub fn new(server: &'c Proxmox, vmid: u32) -> Self {
        Console {
            server,
            vmid,
            tail: RefCell::default(),
        }
    }

    /// The last lines so far.
    pub fn tail(&self) -> String {
        self.tail.borrow().text()
    }

    /// Reads it, and hands over each line. Whenever the connection is lost, it is made again; so this ends only if the console
    /// cannot be had at all.
    pub async fn follow(&self, mut each: impl FnMut(&str)) -> Deaf {
        let (mut pause, mut logins) = (PAUSE.0, 0);
        loop {
            match self.attend(&mut each).await {
                Ended::Lost { heard: true } => (pause, logins) = (PAUSE.0, 0),
                Ended::Lost { heard: false } => {}
                Ended::NotLetIn => {
                    logins += 1;
                    if logins == LOGINS {
                        let token = self.server.client.identity().contains('!');
                        return Deaf::Unknown { token };
                    }
                }
                Ended::Refused(failure) => return Deaf::Refused(failure),
            }
            tokio::time::sleep(pause).await;
            pause = PAUSE.1.min(pause * 2);
        }
    }

    /// Reads it over one connection, to its end.
    async fn attend(&self, each: &mut impl FnMut(&str)) -> Ended {
        match self.connect().await {
            Ok((socket, login)) => self.listen(socket, login, each).await,
            Err(failure) if is_final(&failure) => Ended::Refused(failure),
            // What its way took was longer than a ticket is good for.
            Err(failure) if failure.why.is_unauthorized() => Ended::NotLetIn,
            Err(failure) => {
                tracing::debug!("the console of {}: {failure}", self.vmid);
                Ended::Lost { heard: false }
            }
        }
    }

    /// A connection, and the line that must come first on it.
    async fn connect(&self) -> Result<(Socket, String), Failure> {
        let path = |name| {
            self.server
                .node_path(&["qemu", &self.vmid.to_string(), name])
        };
        let ask = Call::post(path("termproxy")).with("serial", DEVICE).once();
        let given: Terminal = self.server.client.call(ask).await?;
        let upgrade = Call::get(path("vncwebsocket"))
            .with("port", given.port.to_string())
            .with("vncticket", given.ticket.as_str());
        let stream = self.server.client.websocket(&upgrade).await?;
        let limits = Some(limits());
        let socket = WebSocketStream::from_raw_socket(stream, Role::Client, limits).await;
        Ok((socket, format!("{}:{}\n", given.user, given.ticket)))
    }

    async fn listen(
        &self,
        mut socket: Socket,
        login: String,
        each: &mut impl FnMut(&str),
    ) -> Ended {
        let entering = timeout(LOGIN, enter(&mut socket, login)).await;
        let Ok(Some(mut bytes)) = entering else {
            return Ended::NotLetIn;
        };
        let mut signs = interval_at(Instant::now() + SIGN, SIGN);
        let mut heard = false;
        loop {
            self.tail.borrow_mut().feed(&bytes, |line| {
                heard = true;
                each(line);
            });
            bytes = tokio::select! {
                told = next(&mut socket) => match told {
                    Some(told) => told,
                    None => break,
                },
                _ = signs.tick() => match socket.send(Message::binary(ALIVE)).await {
                    Ok(()) => vec![].into(),
                    Err(_) => break,
                },
            };
        }
        self.tail.borrow_mut().end();
        Ended::Lost { heard }
    }
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_frame_size(Some(FRAME))
        .max_message_size(Some(FRAME))
}

/// Logs in, and returns the guest's first bytes; `None` if we are not let in.
async fn enter<S: Stream>(socket: &mut WebSocketStream<S>, login: String) -> Option<Bytes> {
    socket.send(Message::binary(login)).await.ok()?;
    let mut told = BytesMut::new();
    while told.len() < WELCOME.len() {
        told.extend_from_slice(&next(socket).await?);
    }
    told.starts_with(WELCOME)
        .then(|| told.split_off(WELCOME.len()).freeze())
}

/// The next bytes; `None` when the connection is over, however it ended.
async fn next<S: Stream>(socket: &mut WebSocketStream<S>) -> Option<Bytes> {
    loop {
        match socket.next().await?.ok()? {
            Message::Binary(bytes) => return Some(bytes),
            Message::Text(text) => return Some(text.into()),
            Message::Close(_) => return None,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

/// Whether nothing will be different the next time.
fn is_final(failure: &Failure) -> bool {
    // 501: the server has no such call.
    matches!(failure.why.status(), Some(403 | 501)) || matches!(failure.why, Why::Nonsense(_))
}

impl Deaf {
    /// What helps, if anything is known to.
    pub fn hint(&self) -> Option<String> {
        match self {
            Deaf::Refused(failure) => failure.hint(),
            Deaf::Unknown { token: true } => Some(
                "API tokens may read consoles from qemu-server 8.4.7 and 9.1.7 on (`pveversion -v`); a login by password may \
                 before"
                    .to_owned(),
            ),
            Deaf::Unknown { token: false } => None,
        }
    }
}

impl fmt::Display for Deaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deaf::Refused(failure) => failure.fmt(f),
            Deaf::Unknown { .. } => {
                f.write_str("its terminal does not take the server's own ticket")
            }
        }
    }
}

/// The end of what was said.
#[derive(Default)]
struct Tail {
    lines: VecDeque<String>,
    /// Of all lines together.
    bytes: usize,
    /// What was said since the last of them.
    unended: Lines,
}

impl Tail {
    /// Takes more of what is said, and hands over each line that is complete.
    fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        let mut unended = std::mem::take(&mut self.unended);
        unended.feed(bytes, |line| {
            if !is_of_the_server(line) {
                each(line);
                self.keep(line);
            }
        });
        self.unended = unended;
    }

    /// The connection is over: what was said last has no end, and is no line for anybody else.
    fn end(&mut self) {
        let mut unended = std::mem::take(&mut self.unended);
        unended.flush(|line| self.keep(line));
    }

    fn keep(&mut self, line: &str) {
        // Said once a second, addresses would soon be all that there is.
        if line.trim().is_empty() || seed::is_announcement(line) {
            return;
        }
        self.bytes += line.len();
        self.lines.push_back(line.to_owned());
        while self.bytes > TAIL && self.lines.len() > 1 {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }

    fn text(&self) -> String {
        let mut text: Vec<String> = self.lines.iter().cloned().collect();
        self.unended
            .clone()
            .flush(|line| text.push(line.to_owned()));
        text.join("\n")
    }
}

/// Whether `qm terminal` says this, and not the guest.
fn is_of_the_server(line: &str) -> bool {
    let is_about_the_machine = line.starts_with("VM ") && line.ends_with(" not running");
    is_about_the_machine || line.starts_with("starting serial terminal on interface ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps what came in these pieces, and returns it with the lines that were handed over.
    fn heard(pieces: &[&[u8]]) -> (String, Vec<String>) {
        let (mut tail, mut lines) = (Tail::default(), vec![]);
        for piece in pieces {
            tail.feed(piece, |line| lines.push(line.to_owned()));
        }
        (tail.text(), lines)
    }

    #[test]
    fn the_tail_has_the_last_that_was_said_and_also_what_has_no_end() {
        let said = &b"starting serial terminal on interface serial0\r\nGRUB\r\n\r\n"[..];
        let (tail, lines) = heard(&[said, b"grub res", b"cue> "]);
        assert_eq!(tail, "GRUB\ngrub rescue> ");
        assert_eq!(lines, ["GRUB", ""]);
    }

    #[test]
    fn addresses_are_handed_over_and_not_kept() {
        let (tail, lines) = heard(&[b"a\nimgbuild-address x 192.0.2.1\nb\n"]);
        assert_eq!(tail, "a\nb");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn half_a_line_that_was_cut_off_is_nobody_s_but_the_tail_s() {
        let mut tail = Tail::default();
        let mut lines = vec![];
        tail.feed(b"imgbuild-address x 192.0.2.1", |line| {
            lines.push(line.to_owned())
        });
        tail.end();
        tail.feed(b"0\n", |line| lines.push(line.to_owned()));
        assert_eq!(lines, ["0"]);
    }

    #[test]
    fn however_much_a_guest_says_little_is_kept() {
        let mut tail = Tail::default();
        for _ in 0..1000 {
            tail.feed(&[b'x'; 5000], |_| {});
            tail.feed(b"\n\x1b[2J\xff short\n", |_| {});
        }
        let text = tail.text();
        assert!(text.len() < 3 * TAIL + 8192, "{}", text.len());
        assert!(text.ends_with("\u{fffd} short"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn whoever_does_not_say_ok_does_not_let_us_in() {
        for (frames, expected) in [
            (&b"\x82\x02OK"[..], Some(&b""[..])),
            (b"\x82\x01O\x82\x03Kab", Some(b"ab")),
            (b"\x81\x04OKab", Some(b"ab")),
            (b"\x89\x00\x82\x02OK", Some(b"")),
            (b"\x82\x02NO", None),
            (b"\x88\x00", None),
            (b"\x82\x01O", None),
            (b"", None),
            // Larger than frames are, reserved bits, masked by a server.
            (b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xf2\x02OK", None),
            (b"\x82\x82\0\0\0\0OK", None),
        ] {
            let stream = tokio::io::join(frames, tokio::io::sink());
            let limits = Some(limits());
            let mut socket = WebSocketStream::from_raw_socket(stream, Role::Client, limits).await;
            let told = enter(&mut socket, "me:ticket\n".into()).await;
            assert_eq!(told.as_deref(), expected, "{frames:?}");
        }
    }
}
