//! Waiting for cloud-init, in its own words.

use serde_json::Value;

use super::Guest;
use super::shell::as_root;
use crate::error::{Error, Result};
use crate::ssh::{Session, capture};

/// Masks timers that run package managers on their own, in /run, so that the next boot has them back.
const MASK_TIMERS: &str = r#"
[ -d /run/systemd/system ] || exit 0
for unit in apt-daily.timer apt-daily-upgrade.timer dnf-makecache.timer dnf-automatic.timer; do
    for place in /usr/lib/systemd/system /lib/systemd/system; do
        if [ -e "$place/$unit" ]; then
            set -- "$@" "$unit"
            break
        fi
    done
done
[ $# = 0 ] || systemctl mask --quiet --runtime --now "$@"
"#;

/// Waits until cloud-init has written its result (cloud-init's documentation, "boot status": result.json appears when
/// it is done).
const SETTLE: &str = r#"
if [ -d /run/cloud-init ] && command -v cloud-init >/dev/null; then
    until [ -e /run/cloud-init/result.json ]; do sleep 0.2; done
    cat /run/cloud-init/status.json
fi
"#;

/// What cloud-init says of its work.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    errors: Vec<String>,
    warnings: Vec<String>,
}

pub(super) async fn mask_timers<S: Session>(guest: &mut Guest<'_, S>) -> Result<()> {
    let (ended, said) = capture(&mut guest.session, &as_root(MASK_TIMERS, &[])).await?;
    match ended.is_success() {
        true => Ok(()),
        false => Err(Error::new("keeping the package managers' timers off")
            .cause(ended)
            .detail("what the guest said", said)),
    }
}

pub(super) async fn settle<S: Session>(guest: &mut Guest<'_, S>) -> Result<()> {
    let command = as_root(SETTLE, &[]);
    let timeout = guest.plan.boot_timeout;
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
    let outcome = outcome(&text);
    for warning in &outcome.warnings {
        guest.run.events.warn(format!("cloud-init: {warning}"));
    }
    match outcome.errors.as_slice() {
        [] => Ok(()),
        errors => Err(Error::new("cloud-init in the guest")
            .cause("it reports errors")
            .detail("cloud-init's own words", errors.join("\n"))
            .hint("check [cloud-init] in the recipe; /var/log/cloud-init.log in the guest has more (--on-error keep)")),
    }
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
