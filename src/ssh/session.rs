//! [`Session`] on libssh2 in its non-blocking mode: the library does the I/O on the socket, tokio tells when it can.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use ssh2::{BlockDirections, Channel, ExtendedData};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Ended, Exec, Login, Output, Session, Stdin};
use crate::error::{Error, Result};

/// libssh2's "would block" (`LIBSSH2_ERROR_EAGAIN`).
const EAGAIN: i32 = -37;

/// A connection that is logged in.
pub struct SshSession {
    session: ssh2::Session,
    login: Login,
    /// The session's socket once more, to wait on.
    socket: TcpStream,
}

/// Why a connection could not be made.
#[derive(Debug)]
pub enum Refused {
    /// The other side shows another host key: not our guest, or our guest before it took its key.
    HostKey { shown: String },
    /// Anything else, in libssh2's words.
    Other(String),
}

impl SshSession {
    /// Shakes hands on a connected socket, checks the host key, logs in.
    pub async fn open(
        stream: std::net::TcpStream,
        login: &Login,
    ) -> std::result::Result<Self, Refused> {
        let other = |error: &dyn std::fmt::Display| Refused::Other(error.to_string());
        stream.set_nonblocking(true).map_err(|e| other(&e))?;
        stream.set_nodelay(true).map_err(|e| other(&e))?;
        let socket = stream.try_clone().and_then(TcpStream::from_std);
        let session = ssh2::Session::new().map_err(|e| other(&e))?;
        let mut open = SshSession {
            session,
            login: login.clone(),
            socket: socket.map_err(|e| other(&e))?,
        };
        open.session.set_tcp_stream(stream);
        open.session.set_blocking(false);
        open.wait(|this| this.session.handshake())
            .await
            .map_err(|e| other(&e))?;
        open.check_host_key(login)?;
        let key = login
            .private_key
            .to_openssh(ssh_key::LineEnding::LF)
            .map_err(|e| other(&e))?;
        open.wait(|this| {
            this.session
                .userauth_pubkey_memory(&login.user, None, &key, None)
        })
        .await
        .map_err(|e| other(&e))?;
        Ok(open)
    }

    /// A further connection of the same login, within `deadline`.
    pub async fn another(&self, deadline: Duration) -> Result<Self> {
        super::connect(&self.login, deadline).await
    }

    fn check_host_key(&self, login: &Login) -> std::result::Result<(), Refused> {
        let shown = self.session.host_key().map(|(key, _)| key.to_vec());
        let expected = login.host_key.to_bytes().ok();
        if shown.is_some() && shown == expected {
            return Ok(());
        }
        let key = shown.and_then(|key| ssh_key::PublicKey::from_bytes(&key).ok());
        let shown = key.map_or("none that can be read".into(), |key| {
            key.fingerprint(ssh_key::HashAlg::Sha256).to_string()
        });
        Err(Refused::HostKey { shown })
    }

    /// Repeats a call of libssh2 until it no longer would block.
    async fn wait<T>(
        &mut self,
        mut call: impl FnMut(&mut Self) -> std::result::Result<T, ssh2::Error>,
    ) -> std::result::Result<T, ssh2::Error> {
        loop {
            match call(self) {
                Err(error) if error.code() == ssh2::ErrorCode::Session(EAGAIN) => {
                    self.ready().await;
                }
                result => return result,
            }
        }
    }

    /// Waits until the socket can do what libssh2 last wanted to do.
    pub(super) async fn ready(&self) {
        let interest = match self.session.block_directions() {
            BlockDirections::Outbound => Interest::WRITABLE,
            BlockDirections::Both => Interest::READABLE | Interest::WRITABLE,
            BlockDirections::None | BlockDirections::Inbound => Interest::READABLE,
        };
        // Neither fails on a socket that is registered; a broken connection is libssh2's to find.
        let _ = self.socket.ready(interest).await;
        // tokio takes a socket for ready until somebody tells it otherwise. What arrives between this and libssh2's
        // next try is seen by that try.
        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        if interest.is_readable() {
            let _ = self.socket.try_io(Interest::READABLE, nothing);
        }
        if interest.is_writable() {
            let _ = self.socket.try_io(Interest::WRITABLE, nothing);
        }
    }

    /// Starts a command on a channel of its own, with its stderr where `stderr` says.
    pub(super) async fn start(
        &mut self,
        command: &str,
        stderr: ExtendedData,
    ) -> std::result::Result<Channel, ssh2::Error> {
        let mut channel = self.wait(|this| this.session.channel_session()).await?;
        self.wait(|_| channel.handle_extended_data(stderr)).await?;
        self.wait(|_| channel.exec(command)).await?;
        Ok(channel)
    }

    async fn run(&mut self, exec: Exec<'_>) -> std::result::Result<Ended, ssh2::Error> {
        let mut channel = self.start(exec.command, ExtendedData::Merge).await?;
        self.feed(&mut channel, exec.stdin).await?;
        self.wait(|_| channel.send_eof()).await?;
        if self.read(&mut channel, exec.output).await?.is_break() {
            self.wait(|_| channel.close()).await?;
            return Ok(Ended::Enough);
        }
        self.wait(|_| channel.wait_eof()).await?;
        self.wait(|_| channel.close()).await?;
        self.wait(|_| channel.wait_close()).await?;
        if let Some(signal) = channel.exit_signal()?.exit_signal {
            return Ok(Ended::Signal(signal));
        }
        channel.exit_status().map(Ended::Exit)
    }

    /// Writes all of stdin. Nothing is read meanwhile: libssh2 cannot send a half-sent packet and something else, and
    /// no command of ours answers before it has read its input.
    async fn feed(
        &mut self,
        channel: &mut Channel,
        stdin: Stdin,
    ) -> std::result::Result<(), ssh2::Error> {
        match stdin {
            Stdin::Bytes(bytes) => self.write(channel, &bytes).await,
            Stdin::Pieces(mut pieces) => {
                while let Some(piece) = pieces.recv().await {
                    self.write(channel, &piece).await?;
                }
                Ok(())
            }
        }
    }

    pub(super) async fn write(
        &mut self,
        channel: &mut Channel,
        mut bytes: &[u8],
    ) -> std::result::Result<(), ssh2::Error> {
        while !bytes.is_empty() {
            // A command that ended without reading all of its input is told by its exit status.
            if channel.eof() {
                return Ok(());
            }
            match channel.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready().await,
                Err(error) => return Err(lost(&error)),
            }
        }
        Ok(())
    }

    /// Gives what the command says to `output`, until that breaks off or the command ends.
    pub(super) async fn read(
        &mut self,
        channel: &mut Channel,
        output: &mut Output<'_>,
    ) -> std::result::Result<ControlFlow<()>, ssh2::Error> {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match channel.read(&mut buffer) {
                Ok(0) => return Ok(ControlFlow::Continue(())),
                Ok(read) => {
                    if output(&buffer[..read]).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    // A guest that never stops talking must not keep other builds, or Ctrl-C, from their turn.
                    tokio::task::yield_now().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready().await,
                Err(error) => return Err(lost(&error)),
            }
        }
    }
}

/// A channel's I/O fails for good only when the connection does.
pub(super) fn lost(error: &io::Error) -> ssh2::Error {
    ssh2::Error::new(ssh2::ErrorCode::Session(-1), error_text(error))
}

fn error_text(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => "connection reset",
        io::ErrorKind::UnexpectedEof => "connection closed",
        _ => "connection lost",
    }
}

impl Session for SshSession {
    async fn exec(&mut self, exec: Exec<'_>) -> Result<Ended> {
        match self.run(exec).await {
            Ok(ended) => Ok(ended),
            Err(error) if is_connection(&error) => {
                Ok(Ended::Disconnected(error.message().to_owned()))
            }
            Err(error) => Err(Error::new("running a command over SSH").caused_by(&error)),
        }
    }

    async fn reconnect(&mut self, deadline: Duration) -> Result<()> {
        *self = self.another(deadline).await?;
        Ok(())
    }
}

/// Whether the error is the connection's end: `SOCKET_SEND`, `SOCKET_DISCONNECT`, `SOCKET_TIMEOUT`, `SOCKET_RECV`, and
/// `CHANNEL_CLOSED`, in libssh2.h's numbers; -1 is our own for a reset.
fn is_connection(error: &ssh2::Error) -> bool {
    matches!(
        error.code(),
        ssh2::ErrorCode::Session(-1 | -7 | -13 | -30 | -43 | -26)
    )
}
