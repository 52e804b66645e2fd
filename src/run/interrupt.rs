//! Ctrl-C and SIGTERM. The first ends the work at once and has everything removed that the build has made; machines are
//! killed, not asked, so there is no wait that a second one could cut short.

use tokio::sync::watch;

use crate::error::{Error, Kind, Result};

/// Which signal asked us to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Int,
    /// `kill`, a service manager, a CI runner.
    Term,
}

/// Tells whether the user wants the work to end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Interrupt {
    state: watch::Receiver<Option<Signal>>,
}

/// The side that announces signals.
#[derive(Debug)]
pub struct Announcer {
    state: watch::Sender<Option<Signal>>,
}

/// A new pair.
pub fn channel() -> (Announcer, Interrupt) {
    let (sender, receiver) = watch::channel(None);
    (Announcer { state: sender }, Interrupt { state: receiver })
}

impl Announcer {
    /// Announces a signal. The first one decides the exit code.
    pub fn announce(&self, signal: Signal) {
        self.state.send_modify(|first| {
            first.get_or_insert(signal);
        });
    }
}

impl Interrupt {
    /// Whether a signal came.
    pub fn is_set(&self) -> bool {
        self.state.borrow().is_some()
    }

    /// Runs `work` until it is done or a signal comes, which drops it.
    pub async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            error = self.wait() => Err(error),
            result = work => result,
        }
    }

    /// Waits for a signal and returns the error that stands for it.
    pub async fn wait(&self) -> Error {
        let mut state = self.state.clone();
        let signal = match state.wait_for(Option::is_some).await {
            Ok(signal) => *signal,
            // Without an announcer no signal can come any more.
            Err(_) => std::future::pending().await,
        };
        match signal {
            Some(Signal::Term) => Error::new("terminated (SIGTERM)").kind(Kind::Terminated),
            _ => Error::new("interrupted (Ctrl-C)").kind(Kind::Interrupted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_signal_decides() {
        let (announcer, interrupt) = channel();
        assert!(!interrupt.is_set());
        announcer.announce(Signal::Term);
        announcer.announce(Signal::Int);
        let error = interrupt
            .or::<()>(std::future::pending())
            .await
            .unwrap_err();
        assert_eq!(error.get_kind(), Kind::Terminated);
    }

    #[tokio::test]
    async fn work_that_was_asked_to_stop_does_not_begin() {
        let (announcer, interrupt) = channel();
        announcer.announce(Signal::Int);
        let work = async { panic!("must not be polled") };
        assert_eq!(
            interrupt.or::<()>(work).await.unwrap_err().get_kind(),
            Kind::Interrupted
        );
    }
}
