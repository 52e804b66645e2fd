//! Timestamped lines, for logs and CI.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::report::{bytes, duration};
use crate::run::events::{Event, Observer, Unit, What};

/// How often a long transfer says where it is.
const PERIOD: Duration = Duration::from_secs(10);

/// Shows events as lines.
#[derive(Default)]
pub struct Plain {
    progress: Mutex<HashMap<(Arc<str>, String), Instant>>,
}

impl Plain {
    fn is_due(&self, event: &Event, phase: &str) -> bool {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (event.build.clone(), phase.to_owned());
        let now = Instant::now();
        let last = progress.entry(key).or_insert(now);
        let due = now.duration_since(*last) >= PERIOD;
        if due {
            *last = now;
        }
        due
    }
}

impl Observer for Plain {
    fn observe(&self, event: &Event) {
        let text = match &event.what {
            What::Started { phase } => phase.clone(),
            What::Progress {
                phase,
                done,
                total,
                unit,
            } => {
                if !self.is_due(event, phase) {
                    return;
                }
                match (unit, total) {
                    (Unit::Bytes, Some(total)) => {
                        format!("{phase}: {} of {}", bytes(*done), bytes(*total))
                    }
                    (Unit::Bytes, None) => format!("{phase}: {}", bytes(*done)),
                    (Unit::BasisPoints, _) => format!("{phase}: {} %", done / 100),
                }
            }
            What::Output { phase, line } => format!("{phase}| {line}"),
            What::Done { phase, elapsed } => format!("{phase}: done in {}", duration(*elapsed)),
            What::Failed { phase, elapsed } => {
                format!("{phase}: failed after {}", duration(*elapsed))
            }
            What::Told(_) => return,
            What::Note(text) => text.clone(),
            What::Warning(text) => format!("warning: {text}"),
        };
        let now = jiff::Zoned::now().strftime("%H:%M:%S");
        // Nobody reads a stderr that cannot be written to.
        let _ = writeln!(std::io::stderr(), "{now} {} {text}", event.build);
    }
}
