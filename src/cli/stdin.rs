//! Reading stdin where something else must go on meanwhile.

use std::io::{self, StdinLock};

/// What `read` gets from stdin, on a thread of its own: reading blocks, and Ctrl-C is to end the wait for it.
pub async fn on_stdin<T: Send + 'static>(
    read: impl FnOnce(&mut StdinLock<'_>) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let reading = tokio::task::spawn_blocking(move || read(&mut io::stdin().lock()));
    reading.await.map_err(io::Error::other)?
}
