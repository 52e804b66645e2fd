//! What a build keeps from running in its guest: timers that start a package manager, those stages of cloud-init that
//! have nothing to do but take a third of its time, and a systemd of the build's user.
//!
//! The first two are start jobs of systemd's boot transaction. All are cancelled or masked from `bootcmd`, which
//! cloud-init runs in its first stage at every boot. Nothing of it is on the disk: the next boot, if it is not the build's, has them all.

use serde_json::{Value, json};

use super::{Extra, UserData};

/// There (in memory) when the late stages will not run.
pub const SKIPPED: &str = "/run/cloud-init/imgbuild-skipped-late-stages";

/// Timers of apt and dnf.
const NO_TIMERS: &str = "command -v systemctl >/dev/null || exit 0
systemctl --no-block stop apt-daily.timer apt-daily-upgrade.timer dnf-makecache.timer dnf-automatic.timer || :";

/// systemd's manager for the build's user, which its login waits for (logind answers when the unit has started); the
/// build has no use for one. The number is [`BUILDER_UID`](super::BUILDER_UID).
const NO_USER_MANAGER: &str = "command -v systemctl >/dev/null || exit 0
mkdir -p /run/systemd/system && ln -sf /dev/null /run/systemd/system/user@60999.service";

/// The stages config and final; and that of the network when all modules of the first two ran before it, as they do
/// when the data comes from a local disk and cloud-init is old enough to have no need of the network for that.
const NO_LATE_STAGES: &str = "command -v systemctl >/dev/null || exit 0
set -- cloud-config.service cloud-final.service
! grep -qs '\"stage\": \"init-local\"' /run/cloud-init/status.json || set -- \"$@\" cloud-init.service
! systemctl --no-block stop \"$@\" || : >/run/cloud-init/imgbuild-skipped-late-stages";

/// The commands for `bootcmd`.
pub fn bootcmd(extra: &Extra) -> Vec<Value> {
    let mut scripts = vec![NO_TIMERS, NO_USER_MANAGER];
    if !late_ones_needed(extra) {
        scripts.push(NO_LATE_STAGES);
    }
    scripts
        .into_iter()
        .map(|script| json!(["sh", "-c", script]))
        .collect()
}

/// The keys of cloud-config that modules of the first stages handle (`cloud_init_modules` in the cloud.cfg that
/// Debian and Ubuntu ship). Whatever else is there wants the late ones.
const EARLY: &[&str] = &[
    "bootcmd",
    "ca_certs",
    "disable_root",
    "disk_setup",
    "fqdn",
    "fs_setup",
    "groups",
    "growpart",
    "hostname",
    "manage_etc_hosts",
    "mounts",
    "preserve_hostname",
    "random_seed",
    "resize_rootfs",
    "ssh_authorized_keys",
    "ssh_deletekeys",
    "ssh_genkeytypes",
    "ssh_keys",
    "swap",
    "users",
    "write_files",
];

/// Whether the user's data has anything for the late stages. What cannot be seen through is taken to have.
fn late_ones_needed(extra: &Extra) -> bool {
    let user_data = match &extra.user_data {
        None => false,
        Some(UserData::Text(_)) => true,
        Some(UserData::Config(config)) => !config.as_object().is_some_and(|keys| {
            keys.iter()
                .all(|(key, value)| EARLY.contains(&key.as_str()) && is_early(key, value))
        }),
    };
    user_data || extra.vendor_data.is_some()
}

/// Some early keys have parts for a late stage.
fn is_early(key: &str, value: &Value) -> bool {
    let late_part = match key {
        "write_files" => "defer",
        "users" => "ssh_import_id",
        _ => return true,
    };
    let entries = value.as_array().into_iter().flatten();
    entries
        .filter_map(Value::as_object)
        .all(|entry| !entry.contains_key(late_part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn needed(config: Value) -> bool {
        late_ones_needed(&Extra {
            user_data: Some(UserData::Config(config)),
            ..Extra::default()
        })
    }

    #[test]
    fn late_stages_run_only_for_what_they_do() {
        assert!(!late_ones_needed(&Extra::default()));
        assert!(!needed(
            json!({"users": ["default", {"name": "a"}], "write_files": [{"path": "/x"}]})
        ));
        assert!(needed(json!({"runcmd": ["true"]})));
        assert!(needed(json!({"packages": ["jq"]})));
        assert!(needed(
            json!({"write_files": [{"path": "/x", "defer": true}]})
        ));
        assert!(needed(
            json!({"users": [{"name": "a", "ssh_import_id": ["gh:a"]}]})
        ));
    }

    #[test]
    fn the_manager_that_is_masked_is_the_builders() {
        let unit = format!("user@{}.service", super::super::BUILDER_UID);
        assert!(NO_USER_MANAGER.ends_with(&unit));
    }

    #[test]
    fn the_mark_is_the_one_that_is_looked_for() {
        assert!(NO_LATE_STAGES.ends_with(SKIPPED));
    }

    #[test]
    fn what_cannot_be_seen_through_is_taken_to_need_them() {
        let text = Extra {
            user_data: Some(UserData::Text("#cloud-config\n{}".into())),
            ..Extra::default()
        };
        assert!(late_ones_needed(&text));
    }
}
