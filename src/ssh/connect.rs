//! Waiting for the guest's sshd: as soon as it answers, not a moment later, and with nothing but a deadline.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Login;
use super::session::{Refused, SshSession};
use crate::error::{Error, Result};

/// The pause after a connection that was refused or closed at once: short against a boot, long enough that a guest
/// under emulation hardly notices.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that was taken but says nothing may have been lost on its way into the guest (its network was not up
/// yet) or may be waiting for a slow sshd: after this time another one is tried beside it.
const HEDGE: Duration = Duration::from_secs(1);

/// How many connections wait side by side; sshd's own limit on unauthenticated ones is 10 (MaxStartups).
const SIDE_BY_SIDE: usize = 4;

/// How long one connection waits for sshd's greeting before it is given up.
const GREETING: Duration = Duration::from_secs(15);

/// How long a handshake may take once sshd has greeted.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// The pause after sshd turned us away: OpenSSH 9.8 and later punish clients that come back too soon
/// (PerSourcePenalties).
const TURNED_AWAY: Duration = Duration::from_millis(500);

/// Connects and logs in; keeps trying until `deadline` after now.
pub async fn connect(login: &Login, deadline: Duration) -> Result<SshSession> {
    let end = Instant::now() + deadline;
    let mut last = None;
    loop {
        let attempt = async {
            let stream = greeted(login.address, &mut last).await;
            let stream = stream
                .into_std()
                .map_err(|error| Refused::Other(error.to_string()))?;
            match tokio::time::timeout(HANDSHAKE, SshSession::open(stream, login)).await {
                Ok(result) => result,
                Err(_) => Err(Refused::Other("the handshake took too long".into())),
            }
        };
        match timeout_at(end, attempt).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(refused)) => last = Some(refused),
            Err(_) => return Err(failed(login, deadline, last)),
        }
        tracing::debug!(target: "imgbuild::ssh", ?last, "turned away");
        // Waiting is bounded by the deadline, which the next attempt looks at.
        sleep_until(Instant::now() + TURNED_AWAY).await;
    }
}

/// A connection on which an SSH server has sent its greeting (which stays unread).
async fn greeted(address: SocketAddr, last: &mut Option<Refused>) -> TcpStream {
    let mut waiting = FuturesUnordered::new();
    let mut next = Instant::now();
    loop {
        let full = waiting.len() >= SIDE_BY_SIDE;
        tokio::select! {
            () = async { if full { pending().await } else { sleep_until(next).await } } => {
                waiting.push(greeting(address));
                next = Instant::now() + HEDGE;
            }
            Some(result) = waiting.next() => match result {
                Ok(stream) => return stream,
                Err(why) => {
                    // What a server said weighs more than that it was not there yet.
                    last.get_or_insert(Refused::Other(why));
                    next = Instant::now() + PAUSE;
                }
            }
        }
    }
}

async fn greeting(address: SocketAddr) -> std::result::Result<TcpStream, String> {
    let greeting = async {
        let stream = TcpStream::connect(address).await?;
        let mut start = [0; 4];
        // Not all of it may have come yet; an answer shorter than "SSH-" is looked at again when there is more.
        loop {
            stream.readable().await?;
            match stream.peek(&mut start).await? {
                0 => return Err(std::io::ErrorKind::ConnectionReset.into()),
                4 if start == *b"SSH-" => return Ok(stream),
                length if b"SSH-".starts_with(&start[..length]) => tokio::task::yield_now().await,
                _ => return Err(std::io::Error::other("something else than SSH answers")),
            }
        }
    };
    match tokio::time::timeout(GREETING, greeting).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".into()),
    }
}

fn failed(login: &Login, deadline: Duration, last: Option<Refused>) -> Error {
    let error = Error::new(format!(
        "waiting for SSH in the guest for {} s",
        deadline.as_secs()
    ));
    match last {
        Some(Refused::HostKey { shown }) => {
            let ours = login.host_key.fingerprint(ssh_key::HashAlg::Sha256);
            error
                .cause(format!(
                    "the guest shows the host key {shown}, the build gave it {ours}"
                ))
                .hint("cloud-init did not set the host key; is cloud-init in the image and does it read NoCloud?")
        }
        Some(Refused::Other(why)) => error
            .cause(why)
            .hint("see the console above; if the guest is only slow, raise `[ssh] timeout`"),
        None => error.cause("nothing answered"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn a_silent_connection_does_not_hold_up_one_that_greets() {
        let (listener, address) = listener().await;
        let server = async {
            let silent = listener.accept().await.unwrap();
            let (mut greets, _) = listener.accept().await.unwrap();
            greets.write_all(b"SSH-2.0-test\r\n").await.unwrap();
            (silent, greets)
        };
        let mut last = None;
        let (stream, (_, server_side)) = tokio::join!(greeted(address, &mut last), server);
        assert_eq!(
            stream.local_addr().unwrap(),
            server_side.peer_addr().unwrap()
        );
    }

    #[tokio::test]
    async fn a_server_that_closes_is_tried_again() {
        let (listener, address) = listener().await;
        let server = async {
            for _ in 0..3 {
                drop(listener.accept().await.unwrap());
            }
            let (mut greets, _) = listener.accept().await.unwrap();
            greets.write_all(b"SSH-").await.unwrap();
            greets
        };
        let mut last = None;
        tokio::join!(greeted(address, &mut last), server);
        assert!(matches!(last, Some(Refused::Other(_))));
    }

    #[tokio::test]
    async fn something_else_than_ssh_is_not_taken_for_it() {
        let (listener, address) = listener().await;
        let server = async {
            let (mut http, _) = listener.accept().await.unwrap();
            http.write_all(b"HTTP/1.1 400\r\n").await.unwrap();
        };
        let (answer, ()) = tokio::join!(greeting(address), server);
        assert_eq!(answer.unwrap_err(), "something else than SSH answers");
    }
}
