//! What a build reports while it works. Work emits; only observers (the screen, the build's log) print.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::Error;

/// One thing that happened in one build.
#[derive(Debug, Clone)]
pub struct Event {
    /// The image's name, or a label such as `image pull`; tells parallel builds apart.
    pub build: Arc<str>,
    /// What happened.
    pub what: What,
}

/// The kinds of event.
#[derive(Debug, Clone)]
pub enum What {
    /// A phase or step began.
    Started { phase: String },
    /// Progress of a phase; `unit` tells how to show the numbers.
    Progress {
        phase: String,
        done: u64,
        total: Option<u64>,
        unit: Unit,
    },
    /// One line of output of the guest, of a tool or of the console; without its newline, secrets masked.
    Output { phase: String, line: String },
    /// A phase ended well.
    Done { phase: String, elapsed: Duration },
    /// A phase failed or was interrupted.
    Failed { phase: String, elapsed: Duration },
    /// Something worth knowing.
    Note(String),
    /// Something that may be wrong but does not end the build.
    Warning(String),
    /// Something that was shown in another way, and belongs into the log only.
    Told(String),
}

/// What the numbers of a [`What::Progress`] count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    /// Hundredths of a percent of the whole.
    BasisPoints,
}

/// Something that shows or records events.
pub trait Observer: Send + Sync {
    /// Called for each event, in order, on whatever thread emits it.
    fn observe(&self, event: &Event);
}

/// The build's end of the event stream. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    build: Arc<str>,
    observers: Arc<Vec<Arc<dyn Observer>>>,
    masks: Arc<Mutex<Vec<String>>>,
}

/// What stands in place of a secret in every output.
pub const MASK: &str = "********";

impl Events {
    /// Events of the build called `build`, shown by these observers.
    pub fn new(build: &str, observers: Vec<Arc<dyn Observer>>) -> Self {
        Events {
            build: build.into(),
            observers: Arc::new(observers),
            masks: Arc::default(),
        }
    }

    /// Masks `secret` in all events from now on: as a whole, and each of its lines, since output comes in lines.
    pub fn mask(&self, secret: &str) {
        let mut masks = self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        let pieces = secret.lines().map(str::trim).filter(|line| line.len() > 3);
        masks.extend(pieces.map(str::to_owned));
        masks.sort_by_key(|mask| std::cmp::Reverse(mask.len()));
        masks.dedup();
    }

    /// `text` with every known secret replaced by [`MASK`].
    pub fn masked(&self, text: &str) -> String {
        let masks = self.masks.lock().unwrap_or_else(PoisonError::into_inner);
        masks.iter().fold(text.to_owned(), |text, mask| {
            if text.contains(mask.as_str()) {
                text.replace(mask.as_str(), MASK)
            } else {
                text
            }
        })
    }

    /// The same for an error: a console or a server may have said a secret, too.
    pub fn without_secrets(&self, error: Error) -> Error {
        error.rewritten(|text| self.masked(text))
    }

    /// A phase began.
    pub fn started(&self, phase: &str) {
        self.emit(What::Started {
            phase: phase.into(),
        });
    }

    /// A phase progressed.
    pub fn progress(&self, phase: &str, done: u64, total: Option<u64>, unit: Unit) {
        self.emit(What::Progress {
            phase: phase.into(),
            done,
            total,
            unit,
        });
    }

    /// A line of output.
    pub fn output(&self, phase: &str, line: &str) {
        self.emit(What::Output {
            phase: phase.into(),
            line: self.masked(line),
        });
    }

    /// A phase ended.
    pub fn ended(&self, phase: &str, elapsed: Duration, well: bool) {
        let phase = phase.into();
        self.emit(if well {
            What::Done { phase, elapsed }
        } else {
            What::Failed { phase, elapsed }
        });
    }

    /// Something worth knowing.
    pub fn note(&self, text: impl AsRef<str>) {
        self.emit(What::Note(self.masked(text.as_ref())));
    }

    /// Something that may be wrong.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.emit(What::Warning(self.masked(text.as_ref())));
    }

    /// Something that the user has been told already, for the build's log.
    pub fn log_only(&self, text: &str) {
        self.emit(What::Told(self.masked(text)));
    }

    fn emit(&self, what: What) {
        let event = Event {
            build: self.build.clone(),
            what,
        };
        for observer in self.observers.iter() {
            observer.observe(&event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_no_secret_in_any_of_its_parts() {
        let events = Events::new("web", vec![]);
        events.mask("hunter2000");
        let error = Error::new("asking for hunter2000")
            .cause("it is not hunter2000")
            .detail("what it said", "hunter2000\nhunter2000")
            .hint("try hunter2000");
        let error = events.without_secrets(error);
        assert!(!format!("{error:?} {error}").contains("hunter2000"));
        assert_eq!(error.get_doing(), format!("asking for {MASK}"));
        assert_eq!(error.get_detail().unwrap().text, format!("{MASK}\n{MASK}"));
    }

    #[test]
    fn secrets_are_masked_whole_and_by_line() {
        let events = Events::new("x", vec![]);
        events.mask("hunter2000");
        events.mask("-----BEGIN KEY-----\nabcdef\n-----END KEY-----\n");
        assert_eq!(
            events.masked("password=hunter2000 key abcdef."),
            "password=******** key ********."
        );
    }

    #[test]
    fn of_two_overlapping_secrets_the_longer_wins() {
        let events = Events::new("x", vec![]);
        events.mask("token");
        events.mask("token-and-more");
        assert_eq!(events.masked("a token-and-more b"), "a ******** b");
    }
}
