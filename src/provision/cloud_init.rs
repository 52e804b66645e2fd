//! Waiting for cloud-init, in its own words.

use serde_json::Value;

use super::Guest;
use crate::error::{Error, Kind, Result};
use crate::seed::{BUILDER_UID, LATE_STAGES_SKIPPED};
use crate::ssh::{Session, as_root, capture};

/// Waits until cloud-init has written its result (cloud-init's documentation, "boot status": result.json appears when
/// it is done).
/// Its first line is the number of the user that logged in. Where the seed keeps the late stages from running, it is done when no stage is under way.
const SETTLE: &str = r#"
echo "$SUDO_UID"
cd /run/cloud-init 2>/dev/null && command -v cloud-init >/dev/null || exit 0
until [ -e result.json ] || { [ -e "$1" ] && grep -qs '"stage": null' status.json; }; do sleep 0.2; done
cat status.json
"#;

/// What cloud-init says of its work.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    errors: Vec<String>,
    warnings: Vec<String>,
}

pub(super) async fn settle<S: Session>(guest: &mut Guest<'_, S>) -> Result<()> {
    let command = as_root(SETTLE, &[LATE_STAGES_SKIPPED]);
    let timeout = guest.means.plan.boot_timeout;
    let settled = tokio::time::timeout(timeout, capture(&mut guest.session, &command)).await;
    let Ok(settled) = settled else {
        return Err(Error::new("waiting for cloud-init")
            .cause(format!("it was not done after {} s", timeout.as_secs()))
            .hint("raise `[ssh] timeout`, or look at what it does with --on-error keep"));
    };
    let (ended, text) = settled?;
    if !ended.is_success() {
        return Err(Error::new("waiting for cloud-init")
            .cause(ended)
            .detail("what the guest said", text));
    }
    let (uid, text) = text.split_once('\n').unwrap_or((&text, ""));
    own_user(guest, uid)?;
    let outcome = outcome(text);
    for warning in &outcome.warnings {
        guest
            .means
            .run
            .events
            .warn(format!("cloud-init: {warning}"));
    }
    match outcome.errors.as_slice() {
        [] => Ok(()),
        errors => Err(Error::new("cloud-init in the guest")
            .cause("it reports errors")
            .detail("cloud-init's own words", errors.join("\n"))
            .hint("check [cloud-init] in the recipe; /var/log/cloud-init.log in the guest has more (--on-error keep)")),
    }
}

/// Sealing deletes the build's user, so that must not be one that the image had before.
fn own_user<S>(guest: &Guest<'_, S>, uid: &str) -> Result<()> {
    if uid == BUILDER_UID.to_string() {
        return Ok(());
    }
    Err(Error::new("making the build's user")
        .kind(Kind::Usage)
        .cause(format!(
            "the image has a user `{}` already",
            guest.means.plan.user
        ))
        .hint("give the build one of its own: leave `[ssh] user` out, or name another"))
}

/// Reads status.json. Each stage has `errors`; newer versions also `recoverable_errors` by level. A guest without
/// cloud-init says nothing.
fn outcome(text: &str) -> Outcome {
    let status: Value = serde_json::from_str(text).unwrap_or_default();
    let mut outcome = Outcome::default();
    let stages = status.get("v1").and_then(Value::as_object);
    for stage in stages.into_iter().flat_map(|stages| stages.values()) {
        outcome.errors.extend(strings(stage.get("errors")));
        let levels = stage.get("recoverable_errors").and_then(Value::as_object);
        for (level, messages) in levels.into_iter().flatten() {
            // A deprecated key is news for the image's maker, not for every build.
            if level != "DEPRECATED" {
                outcome.warnings.extend(strings(Some(messages)));
            }
        }
    }
    outcome
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_degraded_runs_are_told_apart() {
        let text = r#"{"v1": {"datasource": "NoCloud", "stage": null,
            "init": {"errors": [], "recoverable_errors": {"WARNING": ["odd"], "DEPRECATED": ["old"]}},
            "modules-final": {"errors": ["('scripts_user', ProcessExecutionError())"]}}}"#;
        let outcome = outcome(text);
        assert_eq!(
            outcome.errors,
            ["('scripts_user', ProcessExecutionError())"]
        );
        assert_eq!(outcome.warnings, ["odd"]);
    }

    #[test]
    fn a_guest_without_cloud_init_is_fine() {
        assert_eq!(outcome(""), Outcome::default());
    }
}
