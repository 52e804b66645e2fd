//! A block device in a guest, read from here.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::disk::{CHUNK, Fetch, Origin, Remote};
use crate::error::{Error, Result};
use crate::run::Events;
use crate::run::events::Unit;
use crate::ssh::{Dialogue, Exec, Session, SshSession, Stdin, as_root, capture};
use crate::text::Lines;

/// Waits until a disk is there, and says what the guest calls it, its sectors of 512 bytes, and whether it is read-only. A SCSI
/// disk of QEMU has its drive's name in the page of its identification, for which no udev is needed.
const FIND: &str = r#"
while :; do
    for page in /sys/block/*/device/vpd_pg83; do
        grep -q "$1" "$page" 2>/dev/null || continue
        disk=${page#/sys/block/} disk=${disk%%/*}
        [ -b "/dev/$disk" ] || continue
        echo "$disk $(cat "/sys/block/$disk/size" "/sys/block/$disk/ro" | tr '\n' ' ')"
        exit
    done
    sleep 0.1
done
"#;

/// How long a guest may take to see a disk that was plugged in.
const SEEN: Duration = Duration::from_secs(2 * 60);

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

/// Prints the digest of a device, and until then each second how far it is.
const DIGEST: &str = r#"
exec 3<"$1"
sha256sum <&3 &
sum=$!
while sleep 1 >/dev/null; do sed -n 's/^pos:/at/p' "/proc/$sum/fdinfo/0"; done 2>/dev/null &
clock=$!
status=0
wait "$sum" || status=$?
kill "$clock"
exit "$status"
"#;

/// How long that may take: a disk of a terabyte at 150 MB/s.
const HASHING: Duration = Duration::from_secs(2 * 60 * 60);

/// A read-only disk in a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    path: String,
    /// Bytes.
    pub size: u64,
}

impl Device {
    /// Waits until the guest has the disk of this drive.
    pub async fn find(session: &mut SshSession, drive: &str) -> Result<Self> {
        let doing = || Error::new(format!("looking for the disk {drive} in the guest"));
        let command = as_root(FIND, &[drive]);
        let told = timeout(SEEN, capture(session, &command)).await;
        let (ended, said) = told.map_err(|_| {
            doing().cause(format!(
                "the guest has not seen it for {} s",
                SEEN.as_secs()
            ))
        })??;
        if !ended.is_success() {
            return Err(doing().cause(ended).detail("what it said", said));
        }
        Device::read(&said).map_err(|why| doing().cause(why).detail("what it said", said))
    }

    /// Reads what [`FIND`] says.
    fn read(said: &str) -> Result<Self, &'static str> {
        let words: Vec<&str> = said.split_whitespace().collect();
        let [name, sectors, fixed] = words[..] else {
            return Err("the guest does not say what it is");
        };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err("that is no name of a disk");
        }
        if fixed != "1" {
            return Err("the guest can write to it");
        }
        let size = sectors.parse().ok().and_then(|n: u64| n.checked_mul(512));
        Ok(Device {
            path: format!("/dev/{name}"),
            size: size
                .filter(|size| *size > 0)
                .ok_or("that is no size of a disk")?,
        })
    }

    /// Gives the disk, called `name` in errors, to `work`, and serves what is read of it.
    ///
    /// Errors: those of `work`; the connection, or the device, fails.
    pub async fn serve<T>(
        &self,
        session: SshSession,
        name: String,
        work: impl AsyncFnOnce(&Origin) -> Result<T>,
    ) -> Result<T> {
        let doing = format!("reading {name} in a guest");
        let command = as_root(SERVE, &[&self.path, &CHUNK.to_string()]);
        let dialogue = session.converse(&command).await?;
        let (asks, asked) = mpsc::channel(1);
        let remote = Remote::new(name, self.size, READING, Box::new(Line(asks)));
        let origin = Origin::Remote(remote);
        // What cannot be read looks like a damaged file system to who reads, so the reason goes first.
        tokio::select! {
            biased;
            Err(error) = answer(dialogue, self.size, asked) => Err(Error::new(doing).cause(error)),
            done = work(&origin) => done,
        }
    }

    /// The sha256 of the whole disk. `phase` is what progress is reported of.
    pub async fn sha256(
        &self,
        session: &mut SshSession,
        phase: &str,
        events: &Events,
    ) -> Result<String> {
        let doing = || Error::new("taking the digest of a disk in a guest");
        let (mut lines, mut digest, mut said) = (Lines::default(), None, String::new());
        let mut output = |bytes: &[u8]| {
            lines.feed(bytes, |line| match Said::of(line) {
                Said::At(done) => events.progress(phase, done, Some(self.size), Unit::Bytes),
                Said::Digest(hex) => digest = Some(hex),
                Said::Other(line) => said = line,
            });
            // A process that waits for the end of its second does not hold up ours.
            match digest {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        };
        let exec = Exec {
            command: &as_root(DIGEST, &[&self.path]),
            stdin: Stdin::empty(),
            output: &mut output,
        };
        let ended = timeout(HASHING, session.exec(exec)).await;
        let ended = ended.map_err(|_| doing().cause("it takes far too long"))??;
        digest.ok_or_else(|| doing().cause(format!("{ended}: {said}")))
    }
}

/// A line of what [`DIGEST`] prints.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// So many bytes are done.
    At(u64),
    Digest(String),
    Other(String),
}

impl Said {
    fn of(line: &str) -> Said {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let is_digest = first.len() == 64 && first.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (first, words.next().map(str::parse)) {
            ("at", Some(Ok(done))) => Said::At(done),
            _ if is_digest => Said::Digest(first.to_ascii_lowercase()),
            _ => Said::Other(line.to_owned()),
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
        let telling = dialogue.ask(question.as_bytes(), &mut piece);
        let told = timeout(ANSWER, telling).await;
        told.map_err(|_| {
            io::Error::other(format!("no answer came within {} s", ANSWER.as_secs()))
        })??;
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
    fn a_device_is_known_by_its_name_and_size() {
        let device = Device {
            path: "/dev/sdb".into(),
            size: 2 << 30,
        };
        assert_eq!(Device::read("sdb 4194304 1 \n"), Ok(device));
        for (said, why) in [
            ("", "does not say"),
            ("sdb 1", "does not say"),
            ("sdb 1 1 1", "does not say"),
            ("../sdb 1 1", "no name"),
            ("sdb;reboot 1 1", "no name"),
            ("sdb 0 1", "no size"),
            ("sdb -1 1", "no size"),
            ("sdb 36028797018963968 1", "no size"),
            ("sdb 1 0", "can write"),
        ] {
            assert!(Device::read(said).unwrap_err().contains(why), "{said}");
        }
    }

    #[test]
    fn what_a_digest_s_command_says_is_told_apart() {
        let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(
            Said::of(&format!("{digest}  -")),
            Said::Digest(digest.into())
        );
        assert_eq!(Said::of("at\t4096"), Said::At(4096));
        for other in ["", "at", "at x", "sha256sum: read error", &digest[1..]] {
            assert_eq!(Said::of(other), Said::Other(other.to_owned()));
        }
    }
}
