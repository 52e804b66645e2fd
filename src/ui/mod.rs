//! What the user sees. Human text goes to stderr; results, and everything in JSON, to stdout.

mod bars;
mod json;
mod plain;
mod report;

use std::io::IsTerminal;
use std::sync::Arc;

use crate::run::events::Observer;
pub use report::{Screen, ago, bytes, duration};

/// For whom output is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Progress bars on a terminal, timestamped lines elsewhere.
    #[default]
    Human,
    /// One JSON object a line, on stdout.
    Json,
}

/// How events are shown here and now.
pub fn observer(format: Format, verbose: bool) -> Arc<dyn Observer> {
    // Log lines of -v would tear bars apart.
    let watched = std::io::stderr().is_terminal() && !is_ci();
    match format {
        Format::Json => Arc::new(json::Json::default()),
        Format::Human if watched && !verbose => Arc::new(bars::Bars::default()),
        Format::Human => Arc::new(plain::Plain::default()),
    }
}

/// Whether this is a CI runner's job: it may have a terminal, but nobody watches it.
pub fn is_ci() -> bool {
    std::env::var_os("CI").is_some()
}

/// Whether colours are wanted on stderr (no-color.org).
pub fn colours() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && std::io::stderr().is_terminal()
}
