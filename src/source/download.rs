//! Downloading one file from the first of several URLs that serves it well.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Response, StatusCode};

use super::Context;
use super::address::Address;
use super::digest::{Digest, sha256};
use super::http::Failure;
use super::partial::{Origin, Partial};
use super::unpack::Limits;
use super::work::Meter;
use crate::error::{Context as _, Error, Kind, Result};

/// How many pieces of an answer may wait for the disk; each is at most a few dozen KiB.
const AHEAD: usize = 64;

/// The file, shared with the thread that writes it.
type Shared = Arc<Mutex<Partial>>;

/// How one attempt ended without the whole file.
enum Ended {
    Failed(Failure),
    /// No server is to blame (a full disk, for instance).
    Fatal(Error),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Ended::Failed(failure)
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Ended::Fatal(error)
    }
}

/// Completes `partial` so that it is what was `expected`; returns it with the URL that served it last, or `None` when
/// all bytes were there already.
///
/// Every URL is asked a bounded number of times. A file with another digest is never kept, and counts against its URL
/// only when it came in one piece: pieces that do not fit together are downloaded again.
pub(super) async fn download(
    urls: &[Address],
    expected: &Digest,
    partial: Partial,
    cx: &Context<'_>,
) -> Result<(Partial, Option<Address>)> {
    let shared = Arc::new(Mutex::new(partial));
    if lock(&shared).is_complete() && lock(&shared).digests().satisfy(expected) {
        return Ok((release(shared)?, None));
    }
    let mut reports = Reports::default();
    for url in urls {
        match from_url(url, expected, &shared, cx).await {
            Ok(()) => return Ok((release(shared)?, Some(url.clone()))),
            Err(Ended::Fatal(error)) => {
                discard_empty(&shared)?;
                return Err(error);
            }
            Err(Ended::Failed(failure)) => {
                if urls.len() > 1 {
                    cx.events.warn(format!("{url}: {}", failure.text()));
                }
                reports.add(url, failure);
            }
        }
    }
    discard_empty(&shared)?;
    Err(reports.into_error(urls))
}

/// Leaves no file that there is nothing to resume from. A file with a wrong digest is empty by now, see [`judge`].
fn discard_empty(shared: &Shared) -> Result<()> {
    let partial = lock(shared);
    match partial.length() {
        0 => partial.discard(),
        _ => Ok(()),
    }
}

/// What each URL answered.
#[derive(Default)]
struct Reports {
    lines: Vec<String>,
    mismatch: bool,
    missing: bool,
}

/// Begins the report of a file with a wrong digest.
const MISMATCH: &str = "its content is not the expected one";

impl Reports {
    fn add(&mut self, url: &Address, failure: Failure) {
        self.mismatch |= failure.text().starts_with(MISMATCH);
        self.missing |= failure.is_missing();
        self.lines.push(format!("{url}: {}", failure.text()));
    }

    fn into_error(self, urls: &[Address]) -> Error {
        let name = urls.first().map(Address::file_name).unwrap_or_default();
        let error = Error::new(format!("downloading {name}"));
        let error = match self.lines.as_slice() {
            [only] => error.cause(only),
            lines => error
                .cause(format!("none of {} URLs served it", lines.len()))
                .detail("what each of them answered", lines.join("\n")),
        };
        if self.mismatch {
            error.kind(Kind::Verification).hint(
                "if upstream has just published a new image, run again; otherwise the pinned digest is out of \
                 date, or somebody changed the file",
            )
        } else if self.missing {
            error.hint(
                "the server does not have the file that its index or the recipe names: it may be outdated or in the \
                 middle of an update; try again later, or set `mirrors`",
            )
        } else {
            error.hint("what has arrived is kept; running again goes on from there")
        }
    }
}

/// Asks one URL until it has served the rest of the file, or there is no point in asking.
async fn from_url(
    url: &Address,
    expected: &Digest,
    shared: &Shared,
    cx: &Context<'_>,
) -> Result<(), Ended> {
    let mut failed = 0;
    loop {
        let failure = match attempt(url, shared, cx).await {
            Ok(()) => match judge(expected, shared)? {
                None => return Ok(()),
                Some(failure) => failure,
            },
            Err(Ended::Failed(failure)) => failure,
            Err(fatal) => return Err(fatal),
        };
        failed += 1;
        if !matches!(failure, Failure::Transient(_)) || failed >= cx.http.attempts() {
            return Err(Ended::Failed(failure));
        }
        cx.http.back_off(failed).await;
    }
}

/// Whether the complete file is the expected one. A wrong one is forgotten.
fn judge(expected: &Digest, shared: &Shared) -> Result<Option<Failure>> {
    let mut partial = lock(shared);
    let digests = partial.digests();
    if digests.satisfy(expected) {
        return Ok(None);
    }
    let found = digests.of(expected.algorithm).unwrap_or_default();
    let algorithm = expected.algorithm.name();
    let text = format!("{MISMATCH}: {expected} was expected, {algorithm}:{found} came");
    let spliced = partial.is_spliced();
    partial.restart(Origin::default())?;
    Ok(Some(match spliced {
        true => Failure::Transient(text),
        false => Failure::Permanent(text),
    }))
}

/// Asks once, for what is missing.
async fn attempt(url: &Address, shared: &Shared, cx: &Context<'_>) -> Result<(), Ended> {
    let identity = sha256(url.url().as_str().as_bytes());
    let headers = range(&lock(shared), &identity);
    let mut response = cx.http.get(url, headers).await?;
    prepare(&response, identity, &mut lock(shared))?;

    let (length, total) = {
        let partial = lock(shared);
        (partial.length(), partial.origin().total)
    };
    let missing = total.map_or(0, |total| total.saturating_sub(length));
    Limits::default().check_space(lock(shared).path(), missing)?;

    let (chunks, mut incoming) = tokio::sync::mpsc::channel(AHEAD);
    let writer = tokio::task::spawn_blocking({
        let shared = shared.clone();
        move || -> Result<()> {
            let mut partial = lock(&shared);
            // The channel closes when the answer ends, and also when the download is dropped.
            while let Some(chunk) = incoming.blocking_recv() {
                append(&mut partial, &chunk)?;
            }
            Ok(())
        }
    });
    let mut meter = Meter::new(cx.events, "download", total);
    let mut done = length;
    let received = loop {
        let chunk = match cx.http.chunk(&mut response).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break Ok(()),
            Err(failure) => break Err(failure),
        };
        done += chunk.as_ref().len() as u64;
        if total.is_some_and(|total| done > total) {
            let text = "the server sent more than it announced";
            break Err(Failure::Permanent(text.into()));
        }
        meter.at(done);
        if chunks.send(chunk).await.is_err() {
            break Ok(());
        }
    };
    drop(chunks);
    writer
        .await
        .doing(|| "waiting for the writer of a download")??;
    received?;
    match total {
        Some(total) if done < total => {
            let text = format!("the connection ended after {done} of {total} bytes");
            Err(Failure::Transient(text).into())
        }
        _ => Ok(()),
    }
}

fn append(partial: &mut Partial, chunk: &impl AsRef<[u8]>) -> Result<()> {
    partial.append(chunk.as_ref(), &Limits::default())
}

/// The headers that ask for the bytes after those that are there. Only the server that sent the first ones can tell by
/// its validator whether the file is still the same; for others the final digest tells.
fn range(partial: &Partial, identity: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if partial.length() == 0 {
        return headers;
    }
    let origin = partial.origin();
    let validator = match origin.url == identity {
        true => origin.validator.as_deref(),
        false => None,
    };
    if let Ok(range) = HeaderValue::try_from(format!("bytes={}-", partial.length())) {
        headers.insert(RANGE, range);
    }
    if let Some(validator) = validator.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(IF_RANGE, validator);
    }
    headers
}

/// Makes the file ready for the bytes of this answer: to be continued, or from its beginning.
fn prepare(response: &Response, url: String, partial: &mut Partial) -> Result<(), Ended> {
    let header = |name| {
        let value: Option<&HeaderValue> = response.headers().get(name);
        value.and_then(|value| value.to_str().ok())
    };
    let continues = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = header(CONTENT_RANGE).and_then(content_range);
            range.is_some_and(|(from, total)| {
                let known = partial.origin().total;
                from == partial.length() && (known.is_none() || total.is_none() || known == total)
            })
        }
        StatusCode::RANGE_NOT_SATISFIABLE => false,
        _ => {
            let length = header(CONTENT_LENGTH).and_then(|text| text.parse().ok());
            let strong = header(ETAG).filter(|tag| !tag.starts_with("W/"));
            partial.restart(Origin {
                url,
                validator: strong.or(header(LAST_MODIFIED)).map(str::to_owned),
                total: length,
            })?;
            return Ok(());
        }
    };
    if !continues {
        partial.restart(Origin::default())?;
        let text = "the file on the server is not the one that was begun";
        return Err(Failure::Transient(text.into()).into());
    }
    partial.splice();
    Ok(())
}

/// Reads `bytes FROM-TO/TOTAL`, where the total may be `*`.
pub(super) fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    Some((from.parse().ok()?, total.parse().ok()))
}

fn lock(shared: &Shared) -> MutexGuard<'_, Partial> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the file back from a writer that has ended.
fn release(shared: Shared) -> Result<Partial> {
    let mutex = Arc::into_inner(shared)
        .ok_or_else(|| Error::new("completing a download").cause("it is still being written"))?;
    Ok(mutex.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_an_answer_is_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for broken in [
            "",
            "bytes */10",
            "bytes 5/10",
            "items 5-9/10",
            "bytes x-9/10",
        ] {
            assert_eq!(content_range(broken), None, "{broken}");
        }
    }
}
