//! The build's own log: every event, with time, in `builds/ID/log.txt`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::events::{Event, Observer, What};
use crate::error::{Context, Result};

/// Writes events as lines of text.
pub struct Log {
    file: Mutex<BufWriter<File>>,
}

impl Log {
    /// Creates the file.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).doing(|| format!("creating the log {}", path.display()))?;
        Ok(Log {
            file: Mutex::new(BufWriter::new(file)),
        })
    }
}

impl Observer for Log {
    fn observe(&self, event: &Event) {
        let line = match &event.what {
            What::Progress { .. } => return,
            What::Started { phase } => format!("== {phase}"),
            What::Output { phase, line } => format!("{phase}: {line}"),
            What::Done { phase, elapsed } => format!("== {phase}: {:.1} s", elapsed.as_secs_f64()),
            What::Failed { phase, elapsed } => {
                format!("== {phase}: failed after {:.1} s", elapsed.as_secs_f64())
            }
            What::Note(text) => text.clone(),
            What::Told(text) => format!("error: {text}"),
            What::Warning(text) => format!("warning: {text}"),
        };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written (disk full) must not end the build: the disk's own errors will.
        let _ = writeln!(file, "{now} {line}");
        if !matches!(event.what, What::Output { .. }) {
            let _ = file.flush();
        }
    }
}
