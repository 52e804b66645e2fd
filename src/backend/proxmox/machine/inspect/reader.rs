//! Reading a disk in a guest from here, while the guest takes its digest.

use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::time::Duration;

use futures_util::future::try_join;
use tokio::sync::{mpsc, oneshot};

use super::device::Device;
use crate::disk::{CHUNK, Fetch, Origin, Remote};
use crate::error::{Error, Result};
use crate::run::events::Unit;
use crate::run::{Events, Run};
use crate::ssh::{Dialogue, SshSession, as_root};
use crate::text::Lines;

/// What a command says that is there and waits to be asked.
const READY: &[u8] = b"ready\n";

/// How long each may take: connecting, starting a command, and its first word.
const START: Duration = Duration::from_secs(60);

/// Gives the pieces of a device that it is asked for, each by its number.
const SERVE: &str = r#"
exec 3>&1
while read -r number; do
    said=$(dd if="$1" bs="$2" skip="$number" count=1 2>&1 >&3) || { echo "$said" >&2; exit 1; }
done
"#;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// How long an audit, or listing packages, may take. In an emulated guest on a loaded machine that is minutes.
const READING: Duration = Duration::from_secs(30 * 60);

/// When it is told to, prints the digest of a device, and until then each second how far it is. If there is none, it says so
/// after the reason: the end of a program may not be seen in a guest whose file systems are frozen.
const DIGEST: &str = r#"
read -r go || exit
exec 2>&1
sha256sum <"$1" &
sum=$!
while sleep 1 >/dev/null; do sed -n 's/^pos:/at/p' "/proc/$sum/fdinfo/0"; done 2>/dev/null &
clock=$!
status=0
wait "$sum" || status=$?
kill "$clock"
[ "$status" = 0 ] || echo failed
"#;

/// How long that may take: a disk of a terabyte at 150 MB/s.
const HASHING: Duration = Duration::from_secs(2 * 60 * 60);

/// The phase in which that is done, and what its progress is reported of.
const PHASE: &str = "digest";

/// What reads a disk in a guest: two commands there that wait to be asked.
pub struct Reader {
    device: Device,
    /// What the disk is called in errors.
    name: String,
    pieces: Dialogue,
    digest: Dialogue,
}

impl Reader {
    /// Starts the commands, on connections of their own beside `session`. After this, they need no login any more.
    pub async fn start(device: Device, name: String, session: &SshSession) -> Result<Self> {
        let path = device.path();
        let (pieces, digest) = try_join(
            stand_by(session, SERVE, &[&path, &CHUNK.to_string()]),
            stand_by(session, DIGEST, &[&path]),
        )
        .await?;
        Ok(Reader {
            device,
            name,
            pieces,
            digest,
        })
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.device.size
    }

    /// Gives the disk to `work`, which may read of it what it likes, and takes the sha256 of its content meanwhile.
    ///
    /// Errors: those of `work`; a connection, or the device, fails.
    pub async fn read<T>(
        self,
        run: &Run,
        work: impl AsyncFnOnce(&Origin) -> Result<T>,
    ) -> Result<(T, String)> {
        let size = self.device.size;
        let digest = sha256(self.digest, &self.name, size, &run.events);
        let reading = serve(self.pieces, &self.name, size, work);
        try_join(reading, run.phase(PHASE, digest)).await
    }
}

/// Starts a command as root, and waits until it is there.
pub async fn stand_by(session: &SshSession, script: &str, args: &[&str]) -> Result<Dialogue> {
    let doing = || Error::new("starting in the guest what reads its disk");
    let command = as_root(&format!("echo ready\n{script}"), args);
    let session = session.another(START).await?;
    let mut dialogue = session.converse(&command, START).await?;
    let mut said = [0; READY.len()];
    let ready = dialogue.ask(b"", &mut said, START).await;
    ready.map_err(|error| doing().cause(error))?;
    match said == READY {
        true => Ok(dialogue),
        false => Err(doing()
            .cause("it says something else than what was asked for")
            .hint("a login of the build's user must print nothing by itself")),
    }
}

/// Gives a disk of `size` bytes, called `name` in errors, to `work`, and gets what is read of it.
async fn serve<T>(
    dialogue: Dialogue,
    name: &str,
    size: u64,
    work: impl AsyncFnOnce(&Origin) -> Result<T>,
) -> Result<T> {
    let (asks, asked) = mpsc::channel(1);
    let remote = Remote::new(name.to_owned(), size, READING, Box::new(Line(asks)));
    let origin = Origin::Remote(remote);
    // What cannot be read looks like a damaged file system to who reads, so the reason goes first.
    tokio::select! {
        biased;
        Err(error) = answer(dialogue, size, asked) => Err(Error::new(format!("reading {name} in a guest")).cause(error)),
        done = work(&origin) => done,
    }
}

/// The sha256 of a whole disk of `size` bytes.
async fn sha256(mut dialogue: Dialogue, name: &str, size: u64, events: &Events) -> Result<String> {
    let doing = || Error::new(format!("taking the digest of {name} in a guest"));
    let (mut lines, mut reason, mut digest) = (Lines::default(), String::new(), None);
    let mut output = |bytes: &[u8]| {
        lines.feed(bytes, |line| match Said::of(line) {
            Said::At(done) => events.progress(PHASE, done, Some(size), Unit::Bytes),
            Said::Digest(hex) => digest = Some(Ok(hex)),
            Said::Failed => digest = Some(Err(mem::take(&mut reason))),
            Said::Other if line.is_empty() => {}
            Said::Other => reason = line.to_owned(),
        });
        // A process that waits for the end of its second does not hold up ours.
        match digest {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    };
    let heard = dialogue.hear(b"\n", &mut output, HASHING).await;
    heard.map_err(|error| doing().cause(error))?;
    let digest = digest.ok_or_else(|| doing().cause("nothing was said"))?;
    digest.map_err(|reason| doing().cause(reason))
}

/// A line of what [`DIGEST`] prints.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// So many bytes are done.
    At(u64),
    Digest(String),
    /// There is no digest; why not was said before.
    Failed,
    Other,
}

impl Said {
    fn of(line: &str) -> Said {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let is_digest = first.len() == 64 && first.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (first, words.next().map(str::parse)) {
            ("at", Some(Ok(done))) => Said::At(done),
            ("failed", None) => Said::Failed,
            _ if is_digest => Said::Digest(first.to_ascii_lowercase()),
            _ => Said::Other,
        }
    }
}

/// A chunk that a thread wants to read.
struct Ask {
    number: u64,
    answer: oneshot::Sender<io::Result<Vec<u8>>>,
}

/// The end of the thread that reads.
struct Line(mpsc::Sender<Ask>);

impl Fetch for Line {
    fn fetch(&mut self, number: u64) -> io::Result<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask { number, answer };
        let gone = || io::Error::other("nobody reads the device any more");
        self.0.blocking_send(ask).map_err(|_| gone())?;
        answered.blocking_recv().map_err(|_| gone())?
    }
}

/// Answers until nobody asks any more. After an error nothing is answered.
async fn answer(
    mut dialogue: Dialogue,
    size: u64,
    mut asked: mpsc::Receiver<Ask>,
) -> io::Result<()> {
    let (mut requests, mut bytes) = (0_u32, 0);
    while let Some(ask) = asked.recv().await {
        let left = size.saturating_sub(ask.number.saturating_mul(CHUNK));
        let len = left.min(CHUNK);
        let mut piece = vec![0; len as usize];
        let question = format!("{}\n", ask.number);
        dialogue
            .ask(question.as_bytes(), &mut piece, ANSWER)
            .await?;
        (requests, bytes) = (requests + 1, bytes + len);
        tracing::trace!("{requests} requests, {bytes} bytes");
        // Who was given up does not listen.
        let _ = ask.answer.send(Ok(piece));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_digest_s_command_says_is_told_apart() {
        let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(
            Said::of(&format!("{digest}  -")),
            Said::Digest(digest.into())
        );
        assert_eq!(Said::of("at\t4096"), Said::At(4096));
        assert_eq!(Said::of("failed"), Said::Failed);
        for other in ["", "at", "at x", "sha256sum: read error", &digest[1..]] {
            assert_eq!(Said::of(other), Said::Other);
        }
    }

    #[test]
    fn why_there_is_no_digest_is_said_before_that_there_is_none() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", DIGEST, "imgbuild", "/nowhere"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut shell.stdin.take().unwrap(), b"\n").unwrap();
        let said = shell.wait_with_output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        let (reason, end) = said.trim_end().rsplit_once('\n').unwrap();
        assert!(reason.contains("/nowhere"), "{said}");
        assert_eq!(Said::of(reason), Said::Other);
        assert_eq!(Said::of(end), Said::Failed);
    }
}
