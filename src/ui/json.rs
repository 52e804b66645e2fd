//! Events as JSON lines on stdout.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::run::events::{Event, Observer, Unit, What};

/// How often a transfer says where it is.
const PERIOD: Duration = Duration::from_secs(1);

/// Shows events as JSON.
#[derive(Default)]
pub struct Json {
    progress: Mutex<Option<Instant>>,
}

impl Json {
    fn is_due(&self) -> bool {
        let mut last = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= PERIOD);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

impl Observer for Json {
    fn observe(&self, event: &Event) {
        if matches!(event.what, What::Progress { .. }) && !self.is_due() {
            return;
        }
        let Some(mut line) = describe(&event.what) else {
            return;
        };
        line["time"] = jiff::Timestamp::now().to_string().into();
        line["build"] = event.build.as_ref().into();
        print(&line);
    }
}

/// Writes one line. A reader that has gone away ends the output, not the build.
pub fn print(line: &Value) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn describe(what: &What) -> Option<Value> {
    Some(match what {
        What::Told(_) => return None,
        What::Started { phase } => json!({"event": "phase-started", "phase": phase}),
        What::Progress {
            phase,
            done,
            total,
            unit,
        } => match unit {
            Unit::Bytes => {
                json!({"event": "progress", "phase": phase, "bytes": done, "total": total})
            }
            Unit::BasisPoints => {
                json!({"event": "progress", "phase": phase, "percent": *done as f64 / 100.0})
            }
        },
        What::Output { phase, line } => json!({"event": "output", "phase": phase, "line": line}),
        What::Done { phase, elapsed } => {
            json!({"event": "phase-done", "phase": phase, "seconds": elapsed.as_secs_f64()})
        }
        What::Failed { phase, elapsed } => {
            json!({"event": "phase-failed", "phase": phase, "seconds": elapsed.as_secs_f64()})
        }
        What::Note(text) => json!({"event": "note", "text": text}),
        What::Warning(text) => json!({"event": "warning", "text": text}),
    })
}
