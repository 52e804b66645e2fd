//! Reading a disk beside the runtime.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Reading a file takes a fraction of a second. What takes this long is fed with an endless file system.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);

/// Does `work`, which reads a disk until its deadline, on a thread called `name`; `doing` goes into errors.
pub async fn read_apart<T: Send + 'static>(
    name: &str,
    doing: impl Into<String>,
    work: impl FnOnce(Instant) -> Result<T> + Send + 'static,
) -> Result<T> {
    within(DEADLINE, name, doing.into(), work).await
}

/// The same with another deadline.
pub(super) async fn within<T: Send + 'static>(
    patience: Duration,
    name: &str,
    doing: String,
    work: impl FnOnce(Instant) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread of its own, not one of the runtime's: should a crafted image keep it busy, nothing waits for it.
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            // Nobody listens any more after a timeout or a cancellation.
            let _ = sender.send(work(Instant::now() + patience));
        })
        .map_err(|error| Error::new(format!("starting the thread {name}")).cause(error))?;
    let failed = |cause: &str| {
        Err(Error::new(doing)
            .cause(cause)
            .hint("the image may be damaged; build it again"))
    };
    match tokio::time::timeout(patience + Duration::from_secs(5), receiver).await {
        Ok(Ok(result)) => result,
        // The sender is gone without a word: the thread panicked in a library.
        Ok(Err(_)) => failed("its file system cannot be understood"),
        Err(_) => failed("reading its file system takes far too long"),
    }
}
