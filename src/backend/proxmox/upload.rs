//! Sending a file. Proxmox VE reads the form by itself and takes no other shape of it than this: the fields in this order,
//! each with nothing but its `Content-Disposition`, the file last (what follows it would be taken for a part of it), no
//! quotes around the boundary, and a Content-Length, since it does not know chunks.

use std::fs::File;
use std::io::Read;
use std::path::Path as FilePath;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use reqwest::Body;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use tokio::sync::{mpsc, watch};

use super::Proxmox;
use super::copy::TASK;
use super::error::{Failure, Why};
use super::task::{Begun, Upid};
use crate::error::{Context, Error, Result};
use crate::run::Events;
use crate::run::events::Unit;

/// How much is read at once.
const CHUNK: usize = 256 << 10;

/// How many chunks may wait for the network. Reading is ahead of it, so that the server never waits: it hangs up after 5 s
/// without data.
const AHEAD: usize = 16;

/// How long the network may take none. The server itself gives up earlier; this is for a network that swallows everything.
const STALL: Duration = Duration::from_secs(60);

/// How long the server may take to answer when it has everything: it makes the storage available first.
const ANSWER: Duration = Duration::from_secs(10 * 60);

/// How often a file is sent when connections break, the first time included.
const ATTEMPTS: u32 = 3;

/// A file to be sent.
pub struct Upload<'u> {
    /// The storage that it goes to.
    pub storage: &'u str,
    /// What it is there, in Proxmox VE's words.
    pub content: &'static str,
    /// The name that it gets.
    pub name: &'u str,
    pub path: &'u FilePath,
    /// Lower-case hex.
    pub sha256: &'u str,
    /// Bytes.
    pub size: u64,
}

/// What goes before the file, and what after it.
fn frame(upload: &Upload<'_>, boundary: &str) -> (String, String) {
    let field = |name: &str, value: &str| {
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
    };
    let head = [
        field("content", upload.content),
        field("checksum-algorithm", "sha256"),
        field("checksum", upload.sha256),
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"{}\"\r\n\r\n",
            upload.name
        ),
    ];
    (head.concat(), format!("\r\n--{boundary}--\r\n"))
}

impl Proxmox {
    /// Sends a file, and returns the task that puts it in its place. The checksum is compared in that task. When the
    /// connection breaks, it is sent again.
    pub async fn upload(&self, upload: &Upload<'_>, doing: &str, events: &Events) -> Result<Begun> {
        let failed = |failure: Failure| failure.during(doing);
        let before = self.tasks(TASK).await.map_err(failed)?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let failure = match self.send(upload, events).await {
                Ok(upid) => return Ok(Begun::told(upid)),
                Err(Unsent::Here(error)) => return Err(error),
                Err(Unsent::There(failure)) => failure,
            };
            if failure.why.is_uncertain() {
                // When the connection breaks in the middle, the server throws away what came. It may also have been just
                // before the answer. Other builds with this login upload, too.
                let after = self.tasks(TASK).await.map_err(failed)?;
                let new = after.difference(&before);
                if let Some(upid) = self.copying(upload.name, new).await.map_err(failed)? {
                    return Ok(Begun::found(upid));
                }
            } else if !failure.why.is_unsent() {
                return Err(failed(failure));
            }
            if attempt >= ATTEMPTS {
                return Err(failed(failure));
            }
            events.warn(format!("{failure}; sending it again"));
        }
    }

    async fn send(&self, upload: &Upload<'_>, events: &Events) -> Result<Upid, Unsent> {
        let file = File::open(upload.path).doing(|| format!("reading {}", upload.path.display()));
        let file = file.map_err(Unsent::Here)?;
        // The file is what has this digest; no text in it is likely to be one with the digest turned round.
        let turned: String = upload.sha256.chars().rev().take(32).collect();
        let boundary = format!("imgbuild{turned}");
        let (head, tail) = frame(upload, &boundary);
        let length = head.len() as u64 + upload.size + tail.len() as u64;

        let (sent, mut progress) = watch::channel(0);
        let chunks = read_ahead(file, upload.size);
        let body = body(head, chunks, tail, sent);
        let path = self.node_path(&["storage", upload.storage, "upload"]);
        let request = self
            .client
            .post(&path)
            .header(
                CONTENT_TYPE,
                format!("multipart/form-data; boundary={boundary}"),
            )
            .header(CONTENT_LENGTH, length)
            .body(Body::wrap_stream(body));
        let answer = self.client.send_once::<Upid>(request);
        tokio::pin!(answer);
        loop {
            let patience = match *progress.borrow() >= upload.size {
                true => ANSWER,
                false => STALL,
            };
            let moved = tokio::time::timeout(patience, progress.changed());
            let why = tokio::select! {
                answer = &mut answer => match answer {
                    Ok(upid) => return Ok(upid),
                    Err(why) => why,
                },
                moved = moved => match moved {
                    Ok(Ok(())) => {
                        let done = *progress.borrow_and_update();
                        events.progress("upload", done, Some(upload.size), Unit::Bytes);
                        continue;
                    }
                    // The body is gone, so the answer is there or about to be.
                    Ok(Err(_)) => match tokio::time::timeout(ANSWER, &mut answer).await {
                        Ok(Ok(upid)) => return Ok(upid),
                        Ok(Err(why)) => why,
                        Err(_) => Why::Lost("the server did not answer in time".into()),
                    },
                    Err(_) => Why::Lost(format!("the server took nothing for {} s", patience.as_secs())),
                },
            };
            return Err(Unsent::There(self.client.failure(
                &reqwest::Method::POST,
                &path,
                why,
            )));
        }
    }
}

/// Why a file was not sent.
enum Unsent {
    /// It cannot be read.
    Here(Error),
    There(Failure),
}

type Chunks = mpsc::Receiver<std::io::Result<Bytes>>;

/// Reads `size` bytes of a file on a thread of its own.
fn read_ahead(file: File, size: u64) -> Chunks {
    let (chunks, incoming) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut left = size;
        while left > 0 {
            let wanted = left.min(CHUNK as u64);
            let mut chunk = Vec::with_capacity(CHUNK);
            let read = (&file).take(wanted).read_to_end(&mut chunk);
            let read = read.and_then(|read| match read as u64 == wanted {
                true => Ok(Bytes::from(chunk)),
                false => Err(std::io::Error::other("the file has become shorter")),
            });
            left -= wanted;
            let failed = read.is_err();
            // Nobody takes it when the upload has ended.
            if chunks.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    incoming
}

/// The parts of the form, one after the other. `sent` is told how much of the file the connection has taken.
fn body(
    head: String,
    chunks: Chunks,
    tail: String,
    sent: watch::Sender<u64>,
) -> impl Stream<Item = std::io::Result<Bytes>> {
    enum At {
        Head(String, Chunks, String),
        File(Chunks, String, u64),
        End,
    }
    futures_util::stream::unfold(
        (At::Head(head, chunks, tail), sent),
        |(at, sent)| async move {
            let (piece, next) = match at {
                At::Head(head, chunks, tail) => (Ok(Bytes::from(head)), At::File(chunks, tail, 0)),
                At::File(mut chunks, tail, done) => {
                    sent.send_replace(done);
                    match chunks.recv().await {
                        Some(Ok(chunk)) => {
                            let done = done + chunk.len() as u64;
                            (Ok(chunk), At::File(chunks, tail, done))
                        }
                        Some(Err(error)) => (Err(error), At::End),
                        None => (Ok(Bytes::from(tail)), At::End),
                    }
                }
                At::End => return None,
            };
            Some((piece, (next, sent)))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_has_the_shape_that_the_server_reads() {
        let upload = Upload {
            storage: "local",
            content: "import",
            name: "imgbuild-0a.qcow2",
            path: FilePath::new("/x"),
            sha256: "0a0b",
            size: 3,
        };
        let (head, tail) = frame(&upload, "B");
        assert_eq!(
            format!("{head}QFI{tail}"),
            "--B\r\nContent-Disposition: form-data; name=\"content\"\r\n\r\nimport\r\n\
             --B\r\nContent-Disposition: form-data; name=\"checksum-algorithm\"\r\n\r\nsha256\r\n\
             --B\r\nContent-Disposition: form-data; name=\"checksum\"\r\n\r\n0a0b\r\n\
             --B\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"imgbuild-0a.qcow2\"\r\n\
             \r\nQFI\r\n--B--\r\n"
        );
    }

    #[tokio::test]
    async fn the_task_of_an_upload_is_told_from_those_of_others() {
        let node = pve_lab::Server::start(pve_lab::Setup::new());
        let server = Proxmox::of_lab(&node);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, b"QFI\xfb").unwrap();
        let sha256 = crate::text::hex(&<sha2::Sha256 as sha2::Digest>::digest(b"QFI\xfb"));
        let events = Events::new("web", vec![]);
        let mut sent = vec![];
        for name in ["one.raw", "two.raw"] {
            let upload = Upload {
                storage: "local",
                content: "import",
                name,
                path: &path,
                sha256: &sha256,
                size: 4,
            };
            let begun = server.upload(&upload, "sending", &events).await.unwrap();
            sent.push(begun.upid);
        }
        let tasks = server.tasks("imgcopy").await.unwrap();
        assert_eq!(tasks.len(), 2);
        for (name, upid) in [
            ("one.raw", Some(&sent[0])),
            ("two.raw", Some(&sent[1])),
            ("x.raw", None),
        ] {
            let found = server.copying(name, &tasks).await.unwrap();
            assert_eq!(found.as_ref(), upid, "{name}");
        }
    }

    #[tokio::test]
    async fn a_file_that_shrinks_is_an_error_and_not_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, vec![7; CHUNK + 5]).unwrap();
        let mut chunks = read_ahead(File::open(&path).unwrap(), CHUNK as u64 + 9);
        assert_eq!(chunks.recv().await.unwrap().unwrap().len(), CHUNK);
        chunks.recv().await.unwrap().unwrap_err();
        assert!(chunks.recv().await.is_none());
    }
}
