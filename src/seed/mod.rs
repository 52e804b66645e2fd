//! cloud-init's NoCloud data: what a machine is told at its first boot, and the volume that carries it.

mod announce;
mod identity;
mod stages;
mod userdata;
mod volume;

use ssh_key::{LineEnding, PrivateKey};

use crate::error::{Context, Result};
pub use announce::{addresses, is_announcement};
pub use identity::Identity;
pub use stages::SKIPPED as LATE_STAGES_SKIPPED;
pub use userdata::UserData;

/// The UID of the build's user: in the small range that neither distributions nor systemd hand out (systemd's
/// UIDS-GIDS.md leaves 60578–61183 unused), so that the first real user of the image still gets 1000.
pub const BUILDER_UID: u32 = 60999;

/// What the user adds to the seed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    pub user_data: Option<UserData>,
    pub network_config: Option<String>,
    pub vendor_data: Option<String>,
}

/// What runs by itself in a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stages {
    /// Everything, as for any user of the image.
    All,
    /// Of cloud-init only what the given data asks for, which is quicker; no timer that starts a package manager.
    Needed,
}

/// Whether the guest tells its addresses on its serial console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announce {
    /// With its instance id, see [`addresses`].
    OnConsole,
    /// It is known where the guest is, or somebody else tells.
    Not,
}

/// The seed volume as the bytes of a disk.
pub fn build(
    identity: &Identity,
    user: &str,
    extra: &Extra,
    run: Stages,
    announce: Announce,
) -> Result<Vec<u8>> {
    let private = |key: &PrivateKey| {
        let text = key.to_openssh(LineEnding::LF);
        text.doing(|| "writing an SSH key")
    };
    let public = |key: &PrivateKey| {
        let text = key.public_key().to_openssh();
        text.doing(|| "writing an SSH key")
    };
    let mut ours = serde_json::json!({
        "users": [{
            "name": user,
            "uid": BUILDER_UID,
            // A group of its own would take the number that the first real user's group gets.
            "primary_group": "users",
            "no_user_group": true,
            "gecos": "imgbuild",
            "shell": "/bin/sh",
            "lock_passwd": true,
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "ssh_authorized_keys": [public(&identity.client_key)?],
        }],
        "ssh_keys": {
            "ed25519_private": private(&identity.host_key)?.as_str(),
            "ed25519_public": public(&identity.host_key)?,
        },
    });
    let mut commands = match run {
        Stages::Needed => stages::bootcmd(extra),
        Stages::All => vec![],
    };
    if announce == Announce::OnConsole {
        commands.push(announce::command(&identity.instance_id));
    }
    if !commands.is_empty() {
        ours["bootcmd"] = commands.into();
    }
    let meta = serde_json::json!({
        "instance-id": identity.instance_id,
        "local-hostname": identity.hostname,
    });
    let user_data = userdata::merge(&ours, extra.user_data.as_ref());
    let meta = meta.to_string();
    let mut files = vec![("user-data", user_data.as_str()), ("meta-data", &meta)];
    files.extend(
        extra
            .network_config
            .as_deref()
            .map(|text| ("network-config", text)),
    );
    files.extend(
        extra
            .vendor_data
            .as_deref()
            .map(|text| ("vendor-data", text)),
    );
    volume::fat(&files)
}
