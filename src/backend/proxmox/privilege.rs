//! What the login must be allowed to do, and the commands that allow it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::call::{Call, Path};
use super::error::Failure;
use super::{Proxmox, Target};

/// The role of docs/proxmox.md. An entry on a longer path replaces what was inherited, so one role with all that is needed is
/// what does no harm anywhere.
const ROLE: &str = "Imgbuild";

/// Privileges on one path, and what they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub path: String,
    /// The path to give them on, where the other is only one of those below it.
    pub give_on: Option<&'static str>,
    pub privileges: Vec<&'static str>,
    pub purpose: String,
    /// Whether it works without, in another way.
    pub optional: bool,
}

/// The commands that give a privilege on a path to a login: to its user and its token, since a token has at most what its
/// user has.
pub fn grant(privilege: &str, path: &str, identity: &str) -> String {
    let user = identity.split('!').next().unwrap_or_default();
    let token = match identity.contains('!') {
        true => format!(" --tokens '{identity}'"),
        false => String::new(),
    };
    format!(
        "on the node: pveum role modify {ROLE} --append 1 --privs {privilege} && pveum acl modify {path} --users '{user}'{token} --roles {ROLE}"
    )
}

/// What the storage of base images takes: listing them (also `Datastore.AllocateSpace` would do), bringing them, removing them.
const IMPORT: [&str; 3] = [
    "Datastore.Audit",
    "Datastore.AllocateTemplate",
    "Datastore.Allocate",
];

/// What making, changing, starting, looking into and removing a machine takes.
const MACHINE: [&str; 11] = [
    "VM.Allocate",
    "VM.Audit",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.PowerMgmt",
];

/// All that a target needs, by what it names; one for each path. `major` is the server's version.
pub fn needs(target: &Target, major: u32) -> Vec<Need> {
    let storage = |name: &str| format!("/storage/{name}");
    let need = |path: String, privileges: &[&'static str], purpose: &str| Need {
        path,
        give_on: None,
        privileges: privileges.to_vec(),
        purpose: purpose.to_owned(),
        optional: false,
    };
    let mut needs = vec![need(storage(&target.import), &IMPORT, "base images")];
    if let Some(images) = &target.images {
        let privileges = ["Datastore.Audit", "Datastore.AllocateSpace"];
        add(
            &mut needs,
            need(storage(images), &privileges, "disks of machines"),
        );
    }
    if let Some(iso) = &target.iso {
        add(
            &mut needs,
            need(storage(iso), &IMPORT, "seed volumes of machines"),
        );
    }
    let purpose = "base images downloaded by the node itself";
    needs.push(Need {
        optional: true,
        ..need(
            format!("/nodes/{}", target.node),
            &["Sys.AccessNetwork"],
            purpose,
        )
    });
    if let Some(bridge) = &target.bridge {
        let path = format!("/sdn/zones/localnetwork/{bridge}");
        needs.push(need(path, &["SDN.Use"], "the network of machines"));
    }
    if let Some(vmids) = &target.vmids {
        // Proxmox VE 9 has split `VM.Monitor`; what the guest agent needs is this.
        let agent = match major < 9 {
            true => "VM.Monitor",
            false => "VM.GuestAgent.Audit",
        };
        let all: Vec<_> = MACHINE.into_iter().chain([agent]).collect();
        needs.push(Need {
            give_on: Some("/vms"),
            // An entry on `/vms` may be one that does not go on to what is below.
            ..need(format!("/vms/{}", vmids.start()), &all, "machines")
        });
        needs.push(Need {
            give_on: Some("/vms"),
            optional: true,
            ..need(
                format!("/vms/{}", vmids.start()),
                &["VM.Console"],
                "reading the serial console: where a guest without agent is, and why a boot fails",
            )
        });
    }
    needs
}

/// Adds a need, to one on the same path if there is one: a storage may be for several things.
fn add(needs: &mut Vec<Need>, need: Need) {
    let Some(same) = needs.iter_mut().find(|other| other.path == need.path) else {
        return needs.push(need);
    };
    for privilege in need.privileges {
        if !same.privileges.contains(&privilege) {
            same.privileges.push(privilege);
        }
    }
    same.purpose = format!("{}, {}", same.purpose, need.purpose);
}

impl Proxmox {
    /// The privileges of this login on a path, inherited ones included.
    pub async fn privileges(&self, path: &str) -> Result<Vec<String>, Failure> {
        let call = Call::get(Path::new(["access", "permissions"])).with("path", path);
        let mut all: BTreeMap<String, BTreeMap<String, Value>> = self.client.call(call).await?;
        let on_path = all.remove(path).unwrap_or_default();
        // The value tells whether it goes on to paths below; what a token has but its user has not is null.
        let held = on_path.into_iter().filter(|(_, value)| !value.is_null());
        Ok(held.map(|(privilege, _)| privilege).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_goes_to_the_user_and_the_token() {
        assert_eq!(
            grant("VM.Audit", "/vms/999", "me@pve!ci"),
            "on the node: pveum role modify Imgbuild --append 1 --privs VM.Audit && \
             pveum acl modify /vms/999 --users 'me@pve' --tokens 'me@pve!ci' --roles Imgbuild"
        );
        assert!(!grant("VM.Audit", "/", "root@pam").contains("--tokens"));
    }
}
