//! Work that would block the runtime, and progress that does not flood the screen.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::error::{Context as _, Result};
use crate::run::events::{Events, Unit};

/// How often progress is told at most: ten times a second looks smooth and costs nothing.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Runs `work` on a thread. When the future is dropped, the token tells the work to stop.
pub(super) async fn heavy<T: Send + 'static>(
    work: impl FnOnce(&CancellationToken) -> Result<T> + Send + 'static,
) -> Result<T> {
    let token = CancellationToken::new();
    let _stops_when_dropped = token.clone().drop_guard();
    tokio::task::spawn_blocking(move || work(&token))
        .await
        .doing(|| "waiting for a worker thread")?
}

/// Tells the progress of one phase, in bytes.
pub(super) struct Meter {
    events: Events,
    phase: &'static str,
    total: Option<u64>,
    told: Option<Instant>,
}

impl Meter {
    /// A meter of `phase`; `total` is the number of bytes at its end, if known.
    pub fn new(events: &Events, phase: &'static str, total: Option<u64>) -> Self {
        Meter {
            events: events.clone(),
            phase,
            total,
            told: None,
        }
    }

    /// `done` bytes are done now.
    pub fn at(&mut self, done: u64) {
        let due = self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY);
        if due || Some(done) == self.total {
            self.told = Some(Instant::now());
            let Meter { phase, total, .. } = *self;
            self.events.progress(phase, done, total, Unit::Bytes);
        }
    }
}
