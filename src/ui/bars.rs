//! Progress bars for a terminal: one line for each phase that is under way, and a line that stays when it ended.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::report::duration;
use crate::run::events::{Event, Observer, Unit, What};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(120);

/// Shows events as bars.
#[derive(Default)]
pub struct Bars {
    all: MultiProgress,
    open: Mutex<HashMap<(Arc<str>, String), ProgressBar>>,
}

impl Bars {
    fn bar(&self, event: &Event, phase: &str) -> ProgressBar {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (event.build.clone(), phase.to_owned());
        let new = || {
            let bar = self.all.add(ProgressBar::no_length());
            bar.set_style(style("{prefix} {spinner} {elapsed} {wide_msg}"));
            bar.set_prefix(format!("{} {phase}", event.build));
            bar.enable_steady_tick(TICK);
            bar
        };
        open.entry(key).or_insert_with(new).clone()
    }

    fn end(&self, event: &Event, phase: &str, line: String) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = open.remove(&(event.build.clone(), phase.to_owned())) {
            bar.finish_and_clear();
        }
        drop(open);
        self.say(line);
    }

    fn say(&self, line: String) {
        // Not by the bars' own `println`: that pads lines with blanks instead of ending them, so that whoever copies a
        // command gets what is around it as well.
        self.all.suspend(|| {
            // A terminal that cannot be written to has nobody to tell.
            let _ = writeln!(std::io::stderr(), "{line}");
        });
    }
}

impl Observer for Bars {
    fn observe(&self, event: &Event) {
        let build = &event.build;
        match &event.what {
            What::Started { phase } => drop(self.bar(event, phase)),
            What::Progress {
                phase,
                done,
                total,
                unit,
            } => {
                let bar = self.bar(event, phase);
                if bar.length() != *total {
                    bar.set_style(style(match (unit, total) {
                        (Unit::Bytes, Some(_)) => {
                            "{prefix} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}"
                        }
                        (Unit::Bytes, None) => "{prefix} {spinner} {binary_bytes} {binary_bytes_per_sec}",
                        (Unit::BasisPoints, _) => "{prefix} [{wide_bar}] {percent}% {eta}",
                    }));
                    if let Some(total) = total {
                        bar.set_length(*total);
                    }
                }
                bar.set_position(*done);
                if Some(*done) == *total {
                    bar.finish_and_clear();
                    let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
                    open.remove(&(build.clone(), phase.clone()));
                }
            }
            What::Output { phase, line } => self.bar(event, phase).set_message(line.clone()),
            What::Done { phase, elapsed } => {
                self.end(
                    event,
                    phase,
                    format!("{build} {phase}: {}", duration(*elapsed)),
                );
            }
            What::Failed { phase, elapsed } => {
                let line = format!("{build} {phase}: failed after {}", duration(*elapsed));
                self.end(event, phase, line);
            }
            What::Told(_) => {}
            What::Note(text) => self.say(format!("{build}: {text}")),
            What::Warning(text) => self.say(format!("{build}: warning: {text}")),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    let plain = ProgressStyle::with_template(template);
    plain.unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    #[test]
    fn templates_are_valid() {
        for template in [
            "{prefix} {spinner} {elapsed} {wide_msg}",
            "{prefix} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
            "{prefix} {spinner} {binary_bytes} {binary_bytes_per_sec}",
            "{prefix} [{wide_bar}] {percent}% {eta}",
        ] {
            indicatif::ProgressStyle::with_template(template).unwrap();
        }
    }
}
