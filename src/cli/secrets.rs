//! Fetching the values of a recipe's secrets, just before a build.

use std::collections::BTreeSet;

use secrecy::SecretString;

use crate::error::{Context, Error, Kind, Result};
use crate::plan::{Plan, SecretSource};
use crate::proc::Program;
use crate::provision::Secrets;
use crate::run::Events;

/// Fetches the secrets that steps use, and masks them in everything that is shown or logged from now on.
pub async fn fetch(plan: &Plan, events: &Events) -> Result<Secrets> {
    let used: BTreeSet<&String> = plan.all_steps().flat_map(|step| &step.secrets).collect();
    let mut secrets = Secrets::new();
    for (name, source) in plan.secrets.iter().filter(|(name, _)| used.contains(name)) {
        let value = value(name, source).await?;
        let value = value.strip_suffix('\n').unwrap_or(&value);
        events.mask(value);
        secrets.insert(name.clone(), SecretString::from(value));
    }
    Ok(secrets)
}

/// The secrets that can be had without running anything, for a plan.
pub async fn at_hand(plan: &Plan, events: &Events) -> Secrets {
    let mut secrets = Secrets::new();
    for (name, source) in &plan.secrets {
        if matches!(source, SecretSource::Command { .. }) {
            continue;
        }
        // One that is missing is a fault of the run, not of the plan.
        if let Ok(value) = value(name, source).await {
            let value = value.strip_suffix('\n').unwrap_or(&value);
            events.mask(value);
            secrets.insert(name.clone(), SecretString::from(value));
        }
    }
    secrets
}

async fn value(name: &str, source: &SecretSource) -> Result<String> {
    let doing = || format!("fetching the secret {name}");
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
