//! Secrets: where their values come from, and fetching them.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::error::{Context, Error, Kind, Result};
use crate::proc::Program;

/// Where a secret's value comes from; the value itself is never part of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A variable of the environment.
    Env(String),
    File(PathBuf),
    /// What a command for `sh` prints, run in `folder`.
    Command {
        line: String,
        folder: PathBuf,
    },
}

/// Fetches the value of what errors call `name`, without one newline at its end.
pub async fn fetch(name: &str, source: &SecretSource) -> Result<SecretString> {
    let value = value(name, source).await?;
    Ok(SecretString::from(
        value.strip_suffix('\n').unwrap_or(&value),
    ))
}

async fn value(name: &str, source: &SecretSource) -> Result<String> {
    let doing = || format!("fetching {name}");
    match source {
        SecretSource::Env(variable) => std::env::var(variable).map_err(|_| {
            Error::new(doing())
                .kind(Kind::Usage)
                .cause(format!("the environment has no {variable}"))
        }),
        SecretSource::File(path) => std::fs::read_to_string(path)
            .doing(|| format!("{} from {}", doing(), path.display()))
            .map_err(|error| error.kind(Kind::Usage)),
        SecretSource::Command { line, folder } => Program::new("sh")
            .args(["-c", "cd \"$0\" && eval \"$1\""])
            .arg(folder)
            .arg(line)
            .stdout()
            .await
            .map_err(|error| {
                let said = error.get_detail().map_or("", |detail| &detail.text);
                Error::new(doing())
                    .cause(&error)
                    .detail("what it said", said)
            }),
    }
}
