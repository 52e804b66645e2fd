//! Keys that ssh-agent holds (the protocol is draft-ietf-sshm-ssh-agent).

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::PublicKey;
use crate::error::{Error, Result};

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// OpenSSH's own limit of a message, in bytes.
const LONGEST: usize = 256 * 1024;

/// For what an agent knows by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// Somebody may have to touch or confirm something, and has seen the build go on for an hour.
const CONSENT: Duration = Duration::from_secs(600);

/// An agent that answers at a socket.
#[derive(Debug, Clone)]
pub struct Agent(PathBuf);

impl Agent {
    /// The agent of this process's environment, if there is one.
    pub fn from_env() -> Option<Self> {
        let path = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty())?;
        Some(Agent(path.into()))
    }

    #[cfg(test)]
    pub fn at(path: &std::path::Path) -> Self {
        Agent(path.to_owned())
    }

    /// Whether it holds this key.
    pub async fn holds(&self, key: &PublicKey) -> Result<bool> {
        let answer = self.ask(&[REQUEST_IDENTITIES], IDENTITIES_ANSWER, PATIENCE);
        let answer = answer.await?;
        let wanted = blob(key);
        let mut rest = answer.as_slice();
        let count = number(&mut rest).unwrap_or_default();
        for _ in 0..count {
            let (Some(held), Some(_comment)) = (string(&mut rest), string(&mut rest)) else {
                break;
            };
            if held == wanted {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has it sign a message: 64 bytes.
    pub async fn sign(&self, key: &PublicKey, message: &[u8]) -> Result<Vec<u8>> {
        let mut request = vec![SIGN_REQUEST];
        put(&mut request, &blob(key));
        put(&mut request, message);
        // No flags.
        request.extend([0; 4]);
        let answer = self.ask(&request, SIGN_RESPONSE, CONSENT).await?;
        let mut rest = answer.as_slice();
        let signature = string(&mut rest).and_then(|mut signature| {
            let kind = string(&mut signature)?;
            string(&mut signature).filter(|_| kind == b"ssh-ed25519")
        });
        signature
            .map(<[u8]>::to_vec)
            .ok_or_else(|| self.failed("it gave no ed25519 signature"))
    }

    /// The answer without its type, which must be `wanted` and come in time.
    async fn ask(&self, request: &[u8], wanted: u8, patience: Duration) -> Result<Vec<u8>> {
        let exchange = async {
            let mut stream = UnixStream::connect(&self.0).await?;
            let mut message = vec![];
            put(&mut message, request);
            stream.write_all(&message).await?;
            let length = stream.read_u32().await? as usize;
            if length == 0 || length > LONGEST {
                return Err(std::io::Error::other("it answers with nonsense"));
            }
            let mut answer = vec![0; length];
            stream.read_exact(&mut answer).await?;
            Ok(answer)
        };
        let answer = tokio::time::timeout(patience, exchange).await;
        let answer = answer.map_err(|_| self.failed("it does not answer"))?;
        let mut answer = answer.map_err(|error| self.failed(error))?;
        match answer.remove(0) {
            kind if kind == wanted => Ok(answer),
            _ => Err(self.failed("it refused")),
        }
    }

    pub(super) fn failed(&self, cause: impl Display) -> Error {
        Error::new(format!("asking ssh-agent at {}", self.0.display()))
            .cause(cause)
            .hint("`ssh-add -l` lists the keys that it holds")
    }
}

fn blob(key: &PublicKey) -> Vec<u8> {
    let mut blob = vec![];
    put(&mut blob, b"ssh-ed25519");
    if let Some(data) = key.data().ed25519() {
        put(&mut blob, &data.0);
    }
    blob
}

/// Appends a string: its length, then its bytes. What is sent is far from 4 GiB.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u32).to_be_bytes());
    to.extend(bytes);
}

fn number(from: &mut &[u8]) -> Option<u32> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(u32::from_be_bytes(*bytes))
}

fn string<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(from)? as usize;
    let (string, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(string)
}

#[cfg(test)]
mod tests {
    use super::super::{Private, Signer};
    use super::*;
    use tokio::net::UnixListener;

    /// An agent that gives these answers in turn, and the last one to all who come later.
    fn agent(folder: &std::path::Path, answers: Vec<Vec<u8>>) -> Agent {
        let path = folder.join("agent");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let last = answers.last().cloned();
            for answer in answers.into_iter().chain(last.into_iter().cycle()) {
                let (mut stream, _) = listener.accept().await.unwrap();
                let length = stream.read_u32().await.unwrap();
                let mut request = vec![0; length as usize];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        Agent::at(&path)
    }

    fn message(bytes: &[u8]) -> Vec<u8> {
        let mut message = vec![];
        put(&mut message, bytes);
        message
    }

    /// The list of an agent that holds this key.
    fn list(held: &PublicKey) -> Vec<u8> {
        let mut list = vec![IDENTITIES_ANSWER, 0, 0, 0, 2];
        put(&mut list, b"a key of another kind");
        put(&mut list, b"its comment");
        put(&mut list, &blob(held));
        put(&mut list, b"comment");
        message(&list)
    }

    #[tokio::test]
    async fn an_agent_holds_what_it_lists() {
        let folder = tempfile::tempdir().unwrap();
        let (held, other) = (PublicKey::new([7; 32], "a"), PublicKey::new([8; 32], "b"));
        let agent = agent(folder.path(), vec![list(&held)]);
        assert!(agent.holds(&held).await.unwrap());
        assert!(!agent.holds(&other).await.unwrap());
    }

    #[tokio::test]
    async fn an_agent_that_is_locked_is_waited_for_and_not_for_ever() {
        let key = PublicKey::new([7; 32], "a");
        let locked = message(&[IDENTITIES_ANSWER, 0, 0, 0, 0]);
        let ready = async |answers, patience| {
            let folder = tempfile::tempdir().unwrap();
            let signer = Signer {
                public: key.clone(),
                private: Private::Agent(agent(folder.path(), answers)),
            };
            let mut told = vec![];
            let ready = signer.until_ready(patience, |why| told.push(why.to_string()));
            (ready.await, told)
        };
        let long = Duration::from_secs(600);
        let (done, told) = ready(vec![locked.clone(), locked.clone(), list(&key)], long).await;
        done.unwrap();
        assert!(
            told.len() == 1 && told[0].contains("does not hold"),
            "{told:?}"
        );
        let (done, told) = ready(vec![list(&key)], Duration::ZERO).await;
        done.unwrap();
        assert_eq!(told, Vec::<String>::new());
        let (done, _) = ready(vec![locked], Duration::ZERO).await;
        let error = done.unwrap_err();
        assert!(error.get_hint().unwrap().contains("ssh-add"), "{error:?}");
    }

    #[tokio::test]
    async fn nonsense_is_an_error_whatever_it_claims_to_be() {
        let key = PublicKey::new([7; 32], "a");
        for answer in [
            message(&[5]),
            message(&[SIGN_RESPONSE, 0, 0, 0, 200, 1]),
            u32::MAX.to_be_bytes().to_vec(),
            vec![0; 4],
        ] {
            let folder = tempfile::tempdir().unwrap();
            let agent = agent(folder.path(), vec![answer]);
            agent.sign(&key, b"x").await.unwrap_err();
        }
    }
}
