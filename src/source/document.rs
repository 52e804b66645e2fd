//! Small documents that a recipe looks things up in.

use super::Context;
use super::address::Address;
use super::cache::Cache;
use super::digest::sha256;
use crate::error::{Error, Result};
use crate::store::write_atomically;

/// The largest document that is read, in bytes.
const MOST: usize = 16 << 20;

/// The document at a URL as it is now; with `offline`, as it was when it was last seen.
pub async fn document(url: &str, cx: &Context<'_>) -> Result<Vec<u8>> {
    let address = Address::parse(url)?;
    let key = sha256(url.as_bytes());
    let kept = cx.dirs.documents().join(&key);
    let doing = || format!("fetching {address}");
    if cx.offline {
        return std::fs::read(&kept).map_err(|_| {
            Error::new(doing())
                .cause("it was never seen on this machine, and the network is off limits")
                .hint("run once without --offline")
        });
    }
    let got = cx.http.document(&address, MOST).await;
    let document = got.map_err(|failure| Error::new(doing()).cause(failure.text()))?;
    Cache::new(cx.dirs).note_origin(&key, &address.to_string())?;
    write_atomically(&kept, &document.bytes)?;
    Ok(document.bytes)
}
