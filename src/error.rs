//! What failed, why, and what to do now.
//!
//! Every error that reaches a user says what was being done (`doing`), the cause, and a hint where one helps.
//! The kind decides the exit code, which is documented API.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The class of a failure. Each has one documented exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The build or operation failed: exit code 1.
    Operation,
    /// A program that runs machines crashed, which nothing that it was given explains: exit code 1. Where nothing is lost by
    /// it, the work is done once more.
    Crash,
    /// The command line or the recipe is wrong: exit code 2.
    Usage,
    /// A `[[test]]` of the recipe failed: exit code 3.
    Test,
    /// A run would do work, which is what was asked: exit code 4.
    Pending,
    /// Somebody else holds what this command needs: exit code 5.
    Conflict,
    /// A digest, signature or policy does not hold: exit code 6.
    Verification,
    /// Ended by SIGINT: exit code 130.
    Interrupted,
    /// Ended by SIGTERM: exit code 143.
    Terminated,
}

impl Kind {
    /// The process exit code for this kind (128 + signal number for the signals, as shells report them).
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Operation | Kind::Crash => 1,
            Kind::Usage => 2,
            Kind::Test => 3,
            Kind::Pending => 4,
            Kind::Conflict => 5,
            Kind::Verification => 6,
            Kind::Interrupted => 130,
            Kind::Terminated => 143,
        }
    }
}

/// A failure in the user's terms.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    doing: String,
    cause: Option<String>,
    detail: Option<Detail>,
    hint: Option<String>,
    faults: Option<Faults>,
    told: bool,
}

/// Faults in some texts, each pointing at its place.
#[derive(Debug, Clone)]
pub struct Faults {
    /// The texts they point into.
    pub sources: Sources,
    /// In the order of the texts.
    pub list: Vec<Fault>,
}

/// A text that faults can point into.
#[derive(Debug, Clone)]
pub struct Source {
    /// What the user calls it: a path.
    pub name: Arc<str>,
    /// Its content.
    pub text: Arc<str>,
    /// Where relative paths in it start; none for a text that is no file.
    pub folder: Option<Arc<Path>>,
}

/// Texts laid end to end, so that one number says both which text is meant and where in it. The first is the recipe that
/// the user named.
#[derive(Debug, Clone, Default)]
pub struct Sources(Vec<(usize, Source)>);

impl Sources {
    /// Adds a text, and says where it starts: the spans of its own are to be moved by that much.
    pub fn add(&mut self, source: Source) -> usize {
        // One more than the text is long, since a span may be empty at its end.
        let end = |(start, source): &(usize, Source)| start + source.text.len() + 1;
        let start = self.0.last().map_or(0, end);
        self.0.push((start, source));
        start
    }

    /// The text that a span is in, and where in it.
    pub fn locate(&self, span: &Range<usize>) -> Option<(&Source, Range<usize>)> {
        let after = self.0.partition_point(|(start, _)| *start <= span.start);
        let (start, source) = self.0.get(after.checked_sub(1)?)?;
        let length = source.text.len();
        let within = |at: usize| at.saturating_sub(*start).min(length);
        Some((source, within(span.start)..within(span.end)))
    }

    /// All texts, in the order in which they were read.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.iter().map(|(_, source)| source)
    }

    /// The name of the first text.
    pub fn name(&self) -> &str {
        self.0.first().map_or("", |(_, source)| &source.name)
    }
}

/// One fault in a source text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where, as a byte range.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault without a hint.
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Fault {
            span,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what to write instead.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Evidence shown under the message: the end of a step's output, the tail of the serial console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// What the text is, for instance "last lines of the serial console".
    pub title: String,
    /// The text itself, one or more lines.
    pub text: String,
}

/// The result of everything in this crate that can fail for a user.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of kind [`Kind::Operation`]; `doing` completes the sentence "… failed".
    pub fn new(doing: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind: Kind::Operation,
            doing: doing.into(),
            cause: None,
            detail: None,
            hint: None,
            faults: None,
            told: false,
        }))
    }

    /// A recipe that cannot be used, with everything that is wrong with it.
    pub fn invalid(faults: Faults) -> Self {
        let count = match faults.list.len() {
            1 => "one fault".to_owned(),
            n => format!("{n} faults"),
        };
        Error::new(format!("{}: {count}", faults.sources.name()))
            .kind(Kind::Usage)
            .faults(faults)
    }

    /// Points into the recipe.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.0.faults = Some(faults);
        self
    }

    /// Sets the kind, and with it the exit code.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Sets the cause: the underlying error with its own sources, in one line.
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// Sets the cause from an error and everything beneath it.
    pub fn caused_by(self, error: &(dyn std::error::Error + 'static)) -> Self {
        self.cause(chain(error))
    }

    /// Sets what the user can do now.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Attaches evidence; empty text is dropped.
    pub fn detail(mut self, title: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        if !text.trim().is_empty() {
            self.0.detail = Some(Detail {
                title: title.into(),
                text,
            });
        }
        self
    }

    /// It with what to do, in one line: for lists of several.
    pub fn with_hint(&self) -> String {
        match self.get_hint() {
            Some(hint) => format!("{self}; hint: {hint}"),
            None => self.to_string(),
        }
    }

    /// Changes what it says in its own words; what it points at in a recipe stays.
    pub fn rewritten(mut self, change: impl Fn(&str) -> String) -> Self {
        let inner = &mut *self.0;
        inner.doing = change(&inner.doing);
        let detail = inner.detail.as_mut().map(|detail| &mut detail.text);
        let others = [inner.cause.as_mut(), inner.hint.as_mut(), detail];
        for text in others.into_iter().flatten() {
            *text = change(text);
        }
        self
    }

    /// Marks it as shown to the user already: what remains is its exit code.
    pub fn told(mut self) -> Self {
        self.0.told = true;
        self
    }

    /// Whether the user has seen it.
    pub fn is_told(&self) -> bool {
        self.0.told
    }

    /// The kind of this failure.
    pub fn get_kind(&self) -> Kind {
        self.0.kind
    }

    /// What was being done.
    pub fn get_doing(&self) -> &str {
        &self.0.doing
    }

    /// The cause, if one is known.
    pub fn get_cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// The hint, if there is one.
    pub fn get_hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Where in the recipe it is, if that is known.
    pub fn get_faults(&self) -> Option<&Faults> {
        self.0.faults.as_ref()
    }

    /// The evidence, if there is any.
    pub fn get_detail(&self) -> Option<&Detail> {
        self.0.detail.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.doing)?;
        match &self.0.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// An error and its sources as one line, without saying the same thing twice.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        let text = next.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = next.source();
    }
    line
}

/// Adds "what was being done" to errors of libraries.
pub trait Context<T> {
    /// Turns an error into an [`Error`] of kind [`Kind::Operation`] with itself as the cause.
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: std::error::Error + 'static> Context<T> for std::result::Result<T, E> {
    fn doing<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::new(doing()).caused_by(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_one_sentence() {
        let error = std::fs::read("/nonexistent/x")
            .doing(|| "reading the recipe")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "reading the recipe: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn exit_codes_are_those_documented() {
        let codes = [
            Kind::Operation,
            Kind::Usage,
            Kind::Test,
            Kind::Pending,
            Kind::Conflict,
            Kind::Verification,
            Kind::Interrupted,
            Kind::Terminated,
        ]
        .map(Kind::exit_code);
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 130, 143]);
    }

    #[test]
    fn a_span_is_found_in_the_text_that_it_is_in() {
        let text = |name: &str, text: &str| Source {
            name: name.into(),
            text: text.into(),
            folder: None,
        };
        let mut sources = Sources::default();
        assert_eq!(sources.add(text("a", "12345")), 0);
        let start = sources.add(text("b", "123"));
        let found = |span: Range<usize>| {
            let (source, span) = sources.locate(&span).unwrap();
            (source.name.to_string(), span)
        };
        assert_eq!(found(0..5), ("a".into(), 0..5));
        assert_eq!(found(5..5), ("a".into(), 5..5), "at the end");
        assert_eq!(found(start..start + 1), ("b".into(), 0..1));
        assert_eq!(found(start + 1..start + 3), ("b".into(), 1..3));
    }

    #[test]
    fn empty_evidence_is_dropped() {
        assert_eq!(Error::new("x").detail("console", " \n").get_detail(), None);
    }
}
