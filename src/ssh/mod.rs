//! The way into the guest: one SSH session with a pinned host key.

mod connect;
mod dialogue;
mod login;
mod session;

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::error::Result;
use crate::proc::quote;
pub use connect::connect;
pub use dialogue::Dialogue;
pub use login::Login;
pub use session::SshSession;

/// One command to run in the guest.
pub struct Exec<'e> {
    /// A shell command line. It is visible in the guest's process list: no secrets here.
    pub command: &'e str,
    /// What the command reads.
    pub stdin: Stdin,
    /// Gets stdout and stderr as they come.
    pub output: &'e mut Output<'e>,
}

/// Takes output; `Break` ends the command's channel without waiting for its end-of-file, which a process that was left
/// in the background can hold back for ever.
pub type Output<'o> = dyn FnMut(&[u8]) -> ControlFlow<()> + Send + 'o;

/// What a command reads from its stdin; after it comes end-of-file.
pub enum Stdin {
    Bytes(Vec<u8>),
    /// Pieces as they are made; ends when the sender is dropped.
    Pieces(mpsc::Receiver<Vec<u8>>),
}

impl Stdin {
    /// Nothing to read.
    pub fn empty() -> Self {
        Stdin::Bytes(vec![])
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit status.
    Exit(i32),
    /// By this signal (without `SIG`).
    Signal(String),
    /// Its output was enough for the caller, who ended it.
    Enough,
    /// The connection broke first: nobody knows.
    Disconnected(String),
}

impl Ended {
    /// Whether the command said that all went well.
    pub fn is_success(&self) -> bool {
        *self == Ended::Exit(0)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exit(code) => write!(f, "exit status {code}"),
            Ended::Enough => f.write_str("ended by us"),
            Ended::Signal(name) => write!(f, "ended by SIG{name}"),
            Ended::Disconnected(why) => write!(f, "the SSH connection broke ({why})"),
        }
    }
}

/// A shell in the guest; what provisioning needs of SSH.
pub trait Session: Send {
    /// Runs one command to its end. A connection that breaks is an [`Ended`], not an error: some commands are meant to
    /// break it.
    fn exec(&mut self, exec: Exec<'_>) -> impl Future<Output = Result<Ended>> + Send;

    /// Drops the connection, with whatever was half-done on it, and makes a new one within `deadline`.
    fn reconnect(&mut self, deadline: Duration) -> impl Future<Output = Result<()>> + Send;
}

/// A command line that runs `script` as root with these arguments.
pub fn as_root(script: &str, args: &[&str]) -> String {
    let words: Vec<String> = [script, "imgbuild"]
        .iter()
        .chain(args)
        .map(|w| quote(w))
        .collect();
    format!("sudo -n sh -c {}", words.join(" "))
}

/// Runs a command and returns its whole output; for commands of our own that say little.
pub async fn capture(session: &mut impl Session, command: &str) -> Result<(Ended, String)> {
    let mut text = Vec::new();
    let mut output = |bytes: &[u8]| {
        text.extend_from_slice(bytes);
        ControlFlow::Continue(())
    };
    let exec = Exec {
        command,
        stdin: Stdin::empty(),
        output: &mut output,
    };
    let ended = session.exec(exec).await?;
    Ok((ended, String::from_utf8_lossy(&text).into_owned()))
}
