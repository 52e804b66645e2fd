//! A command in the guest that answers what it is asked, again and again, on one channel.

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::time::Duration;

use ssh2::{Channel, ExtendedData};
use tokio::time::timeout;

use super::session::lost;
use super::{Output, SshSession};
use crate::error::{Error, Result};

/// How much is shown of what a command says on its stderr.
const SAID: u64 = 1024;

/// Such a command, with the session that it has for itself. Dropping it ends both.
pub struct Dialogue {
    session: SshSession,
    channel: Channel,
}

impl SshSession {
    /// Starts a command to talk with, within `patience`.
    pub async fn converse(mut self, command: &str, patience: Duration) -> Result<Dialogue> {
        let doing = || Error::new("starting a command over SSH");
        let starting = timeout(patience, self.start(command, ExtendedData::Normal)).await;
        let late = |_| doing().cause(format!("it took more than {} s", patience.as_secs()));
        let channel = starting.map_err(late)?;
        Ok(Dialogue {
            channel: channel.map_err(|error| doing().caused_by(&error))?,
            session: self,
        })
    }
}

impl Dialogue {
    /// Tells the command something, and fills `answer` with what it says to that within `patience`. After an error, or if it is
    /// dropped before its end, there is nothing more to ask.
    pub async fn ask(
        &mut self,
        question: &[u8],
        answer: &mut [u8],
        patience: Duration,
    ) -> io::Result<()> {
        let answering = timeout(patience, self.fill(question, answer)).await;
        answering.unwrap_or_else(|_| Err(self.silent(patience)))
    }

    /// Tells the command something, and gives what it says to that to `answer` until that has heard enough, within `patience`.
    pub async fn hear(
        &mut self,
        question: &[u8],
        answer: &mut Output<'_>,
        patience: Duration,
    ) -> io::Result<()> {
        let answering = timeout(patience, self.pass(question, answer)).await;
        answering.unwrap_or_else(|_| Err(self.silent(patience)))
    }

    async fn fill(&mut self, question: &[u8], answer: &mut [u8]) -> io::Result<()> {
        let (session, channel) = (&mut self.session, &mut self.channel);
        session.write(channel, question).await.map_err(broken)?;
        let mut filled = 0;
        while filled < answer.len() {
            match channel.read(&mut answer[filled..]) {
                Ok(0) => return Err(self.ended()),
                Ok(read) => {
                    filled += read;
                    // Others want their turn, too.
                    tokio::task::yield_now().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => session.ready().await,
                Err(error) => return Err(broken(lost(&error))),
            }
        }
        Ok(())
    }

    async fn pass(&mut self, question: &[u8], answer: &mut Output<'_>) -> io::Result<()> {
        let (session, channel) = (&mut self.session, &mut self.channel);
        session.write(channel, question).await.map_err(broken)?;
        match session.read(channel, answer).await.map_err(broken)? {
            ControlFlow::Break(()) => Ok(()),
            ControlFlow::Continue(()) => Err(self.ended()),
        }
    }

    /// What to say of a command that ended before it answered. Its end came after all that it said.
    fn ended(&mut self) -> io::Error {
        io::Error::other(format!("the command in the guest ended: {}", self.said()))
    }

    /// What to say of a command that does not answer.
    fn silent(&mut self, patience: Duration) -> io::Error {
        let late = format!("no answer came within {} s", patience.as_secs());
        match self.said() {
            said if said.is_empty() => io::Error::other(late),
            said => io::Error::other(format!("{late}; the command in the guest said: {said}")),
        }
    }

    /// What the command has said on its stderr so far.
    fn said(&mut self) -> String {
        let mut said = vec![];
        // An error says that there is nothing more yet, and what came before it is kept.
        let _ = self.channel.stderr().take(SAID).read_to_end(&mut said);
        crate::text::printable(String::from_utf8_lossy(&said).trim())
    }
}

fn broken(error: ssh2::Error) -> io::Error {
    io::Error::other(error.message().to_owned())
}
