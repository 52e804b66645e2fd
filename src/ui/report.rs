//! Results and errors.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource};
use serde_json::{Value, json};

use super::{Format, colours, json};
use crate::error::{Error, Fault, Faults, Sources};
use crate::pipeline::Artifact;
use crate::run::Timing;

/// Where results and errors are shown.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    pub format: Format,
}

impl Screen {
    /// Shows why something failed, and in which build, if in one.
    pub fn error(self, build: Option<&str>, error: &Error) {
        match self.format {
            Format::Json => {
                let mut line = error_json(error);
                line["build"] = build.into();
                line["time"] = jiff::Timestamp::now().to_string().into();
                json::print(&line);
            }
            Format::Human => tell(&error_text(error)),
        }
    }

    /// Shows something worth knowing that no build says.
    pub fn note(self, text: &str) {
        match self.format {
            Format::Json => json::print(&json!({"event": "note", "text": text})),
            Format::Human => tell(&format!("{text}\n")),
        }
    }

    /// Shows a finished image and where its time went.
    pub fn artifact(self, name: &str, artifact: &Artifact, timings: &[Timing]) {
        match self.format {
            Format::Json => json::print(&json!({
                "event": "result", "build": name, "artifact": artifact, "timings": timings,
            })),
            Format::Human => {
                let state = match artifact.up_to_date {
                    true => "up to date: ",
                    false => {
                        tell(&format!("\n{}", table(name, timings)));
                        ""
                    }
                };
                let text = format!(
                    "{name}@{}: {state}{} ({})\nsha256 {}\nrecord {}\nprovenance {}\n",
                    artifact.version,
                    artifact.path.display(),
                    bytes(artifact.size),
                    artifact.sha256,
                    artifact.record.display(),
                    artifact.provenance.display()
                );
                self.result(&text, &Value::Null);
            }
        }
    }

    /// As [`Screen::result`], for results that take time to be put into words: only what is wanted is made.
    pub fn result_of(self, text: impl FnOnce() -> String, value: impl FnOnce() -> Value) {
        match self.format {
            Format::Json => self.result("", &value()),
            Format::Human => self.result(&text(), &Value::Null),
        }
    }

    /// A result on stdout: `text` for people, `value` for programs.
    pub fn result(self, text: &str, value: &Value) {
        match self.format {
            Format::Json => json::print(value),
            // A reader that has gone away has seen enough.
            Format::Human => drop(std::io::stdout().write_all(text.as_bytes())),
        }
    }
}

fn tell(text: &str) {
    // Nobody reads a stderr that cannot be written to.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A number of bytes for people.
pub fn bytes(number: u64) -> String {
    indicatif::BinaryBytes(number).to_string()
}

/// How long ago that was, for people.
pub fn ago(then: std::time::SystemTime) -> String {
    // A clock that was set back makes everything new.
    crate::text::span(then.elapsed().unwrap_or_default().as_secs_f64())
}

/// A duration for people: tenths below a minute.
pub fn duration(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    match seconds < 60.0 {
        true => format!("{seconds:.1} s"),
        false => format!(
            "{} min {:02} s",
            elapsed.as_secs() / 60,
            elapsed.as_secs() % 60
        ),
    }
}

fn table(name: &str, timings: &[Timing]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([name, "time"]);
    for timing in timings {
        table.add_row([timing.phase.clone(), duration(timing.elapsed)]);
    }
    format!("{table}\n")
}

fn error_text(error: &Error) -> String {
    let mut text = String::new();
    let invalid = error.get_faults().filter(|_| error.get_cause().is_none());
    if let Some(faults) = invalid {
        text.push_str(&excerpts(faults));
    }
    let place = error
        .get_faults()
        .filter(|_| invalid.is_none())
        .and_then(place);
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "error: {error}{}",
        place.map_or(String::new(), |at| format!("\n   at {at}"))
    );
    if let Some(detail) = error.get_detail() {
        let _ = writeln!(text, "{}:", detail.title);
        for line in detail.text.trim_end().lines() {
            let _ = writeln!(text, "   | {line}");
        }
    }
    if let Some(hint) = error.get_hint() {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

/// `file:line:column` of the first fault.
fn place(faults: &Faults) -> Option<String> {
    let fault = faults.list.first()?;
    let (source, span) = faults.sources.locate(&fault.span)?;
    let (line, column) = position(&source.text, span.start);
    Some(format!("{}:{line}:{column}", source.name))
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[line_start..].chars().count();
    (before.matches('\n').count() + 1, column + 1)
}

fn excerpts(faults: &Faults) -> String {
    let theme = match colours() {
        true => GraphicalTheme::unicode(),
        false => GraphicalTheme::unicode_nocolor(),
    };
    let handler = GraphicalReportHandler::new_themed(theme).with_links(false);
    let mut text = String::new();
    for fault in &faults.list {
        let report = miette::Report::new(diagnostic(fault, &faults.sources));
        let report = match faults.sources.locate(&fault.span) {
            None => report,
            Some((source, _)) => {
                report.with_source_code(NamedSource::new(&source.name, source.text.to_string()))
            }
        };
        // Rendering into a String fails only if the source cannot be read, which is text in memory.
        let _ = handler.render_report(&mut text, report.as_ref());
        text.push('\n');
    }
    text
}

fn diagnostic(fault: &Fault, sources: &Sources) -> MietteDiagnostic {
    let diagnostic = MietteDiagnostic::new(fault.message.clone());
    // A text's 0..0 is no place; another empty span is a point, and miette draws nothing for those.
    let diagnostic = match sources.locate(&fault.span) {
        Some((_, span)) if span.end > 0 => {
            let start = span.start.min(span.end - 1);
            diagnostic.with_label(LabeledSpan::underline(start..span.end))
        }
        _ => diagnostic,
    };
    match &fault.hint {
        Some(hint) => diagnostic.with_help(hint),
        None => diagnostic,
    }
}

fn error_json(error: &Error) -> Value {
    let faults = error.get_faults().map(|faults| {
        let list = faults.list.iter().map(|fault| {
            let (source, span) = faults.sources.locate(&fault.span).unzip();
            let (line, column) = source
                .zip(span.as_ref())
                .map(|(source, span)| position(&source.text, span.start))
                .unzip();
            json!({
                "file": source.map(|source| source.name.as_ref()), "line": line, "column": column,
                "start": span.as_ref().map(|span| span.start), "end": span.map(|span| span.end),
                "message": fault.message, "hint": fault.hint,
            })
        });
        list.collect::<Vec<_>>()
    });
    json!({
        "event": "error",
        "exit-code": error.get_kind().exit_code(),
        "doing": error.get_doing(),
        "cause": error.get_cause(),
        "detail": error.get_detail().map(|detail| json!({"title": detail.title, "text": detail.text})),
        "hint": error.get_hint(),
        "faults": faults,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_for_people_says_cause_evidence_and_hint() {
        let error = Error::new("step `x`")
            .cause("exit status 7")
            .detail("last lines of its output", "one\ntwo\n")
            .hint("look");
        let text = error_text(&error);
        let expected = "error: step `x`: exit status 7\nlast lines of its output:\n   | one\n   | two\nhint: look\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        assert_eq!(position("ä\nbc", 4), (2, 2));
        assert_eq!(position("", 0), (1, 1));
    }
}
