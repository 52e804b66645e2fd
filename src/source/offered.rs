//! Images that somebody else can download by himself: a server has them as they are to be used.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};

use super::address::Address;
use super::download::content_range;
use super::format::{SEEN, is_qcow2};
use super::resolve::{Place, Resolved};
use super::{Context, Digest};

/// An image on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    /// Without anything secret in it.
    pub url: String,
    /// What it must have.
    pub digest: Digest,
    /// Bytes, where the server says it.
    pub size: Option<u64>,
}

/// Where the image that `resolved` stands for can be had as qcow2. `None` if it is nowhere so, if its address has credentials
/// that are nobody else's affair, or if no server answers.
pub async fn offered(resolved: &Resolved, cx: &Context<'_>) -> Option<Offered> {
    let (Place::Urls(urls), Some(digest)) = (&resolved.place, &resolved.expected) else {
        return None;
    };
    for url in urls.iter().filter(|url| url.is_open()) {
        if let Some((true, size)) = look(url, cx).await {
            return Some(Offered {
                url: url.to_string(),
                digest: digest.clone(),
                size,
            });
        }
    }
    None
}

/// Whether it is a qcow2 image by its beginning, and how many bytes it has.
async fn look(url: &Address, cx: &Context<'_>) -> Option<(bool, Option<u64>)> {
    let range = HeaderValue::try_from(format!("bytes=0-{}", SEEN - 1)).ok()?;
    let headers = HeaderMap::from_iter([(RANGE, range)]);
    let mut response = cx.http.get(url, headers).await.ok()?;
    let header = |name| {
        let value: Option<&HeaderValue> = response.headers().get(name);
        value.and_then(|value| value.to_str().ok())
    };
    let size = match response.status() {
        StatusCode::PARTIAL_CONTENT => header(CONTENT_RANGE).and_then(content_range)?.1,
        _ => header(CONTENT_LENGTH).and_then(|text| text.parse().ok()),
    };
    let mut start = vec![];
    // A server that does not know ranges sends all of it, which is not wanted here.
    while (start.len() as u64) < SEEN
        && let Some(chunk) = cx.http.chunk(&mut response).await.ok()?
    {
        start.extend_from_slice(chunk.as_ref());
    }
    Some((is_qcow2(&start), size))
}
