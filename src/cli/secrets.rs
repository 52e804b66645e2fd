//! Fetching the values of a recipe's secrets, just before a build.

use std::collections::BTreeSet;

use secrecy::ExposeSecret;

use crate::error::Result;
use crate::plan::Plan;
use crate::provision::Secrets;
use crate::run::Events;
use crate::secret::{self, SecretSource};

/// Fetches the secrets that steps use, and masks them in everything that is shown or logged from now on.
pub async fn fetch(plan: &Plan, events: &Events) -> Result<Secrets> {
    let used: BTreeSet<&String> = plan.all_steps().flat_map(|step| &step.secrets).collect();
    let mut secrets = Secrets::new();
    for (name, source) in plan.secrets.iter().filter(|(name, _)| used.contains(name)) {
        let value = secret::fetch(&format!("the secret {name}"), source).await?;
        events.mask(value.expose_secret());
        secrets.insert(name.clone(), value);
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
        if let Ok(value) = secret::fetch(&format!("the secret {name}"), source).await {
            events.mask(value.expose_secret());
            secrets.insert(name.clone(), value);
        }
    }
    secrets
}
