//! Secrets: where their values come from, fetching them, and who else may have them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretString;

use crate::error::{Context, Error, Kind, Result};
use crate::proc::Program;

/// How long a command may take that prints a secret. A person may have to touch a key or to answer a dialog for it.
const PATIENCE: Duration = Duration::from_secs(120);

/// How the names of the variables begin in which other tools for Proxmox VE find their logins.
pub const LOGINS: [&str; 2] = ["PROXMOX_", "PM_"];

/// The other variables that secrets are in, as far as they have been fetched.
static VARIABLES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

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

/// Whether a variable of our environment is known to hold a secret. Programs that imgbuild needs for itself do not get it: the one
/// that runs a guest would have it for hours.
pub fn is_in(variable: &OsStr) -> bool {
    let name = variable.to_string_lossy();
    let variables = VARIABLES.lock().unwrap_or_else(PoisonError::into_inner);
    LOGINS.iter().any(|login| name.starts_with(login)) || variables.contains(&*name)
}

async fn value(name: &str, source: &SecretSource) -> Result<String> {
    let doing = || format!("fetching {name}");
    match source {
        SecretSource::Env(variable) => {
            let mut variables = VARIABLES.lock().unwrap_or_else(PoisonError::into_inner);
            variables.insert(variable.clone());
            std::env::var(variable).map_err(|_| {
                Error::new(doing())
                    .kind(Kind::Usage)
                    .cause(format!("the environment has no {variable}"))
            })
        }
        SecretSource::File(path) => std::fs::read_to_string(path)
            .doing(|| format!("{} from {}", doing(), path.display()))
            .map_err(|error| error.kind(Kind::Usage)),
        SecretSource::Command { line, folder } => {
            let printed = printed(line, folder, PATIENCE).await;
            printed.map_err(|error| {
                let said = error.get_detail().map_or("", |detail| &detail.text);
                let failed = Error::new(doing())
                    .cause(&error)
                    .detail("what it said", said);
                match error.get_hint() {
                    Some(hint) => failed.hint(hint),
                    None => failed,
                }
            })
        }
    }
}

/// What a command prints.
async fn printed(line: &str, folder: &Path, patience: Duration) -> Result<String> {
    let program = Program::of_user("sh")
        .args(["-c", "cd \"$0\" && eval \"$1\""])
        .arg(folder)
        .arg(line);
    let printed = tokio::time::timeout(patience, program.stdout()).await;
    printed.map_err(|_| {
        Error::new(format!("running `{line}`"))
            .cause(format!("it did not end within {} s", patience.as_secs()))
            .hint("run it by hand to see what it waits for: here it cannot ask, its input is empty")
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_does_not_end_is_given_up_and_told_with_what_to_do() {
        let error = printed("sleep 1000", Path::new("/"), Duration::ZERO).await;
        let error = error.unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
        assert!(error.get_hint().unwrap().contains("by hand"));
        let printed = printed("pwd", Path::new("/"), PATIENCE).await;
        assert_eq!(printed.unwrap(), "/\n");
    }

    #[tokio::test]
    async fn variables_with_logins_and_those_that_secrets_were_fetched_from_are_known() {
        let variable = "SECRETS_TEST_TOKEN";
        assert!(!is_in(OsStr::new(variable)));
        let source = SecretSource::Env(variable.into());
        fetch("the secret", &source).await.unwrap_err();
        assert!(is_in(OsStr::new(variable)));
        assert!(is_in(OsStr::new("PM_PASS")) && is_in(OsStr::new("PROXMOX_VE_API_TOKEN")));
        assert!(!is_in(OsStr::new("PATH")));
    }
}
