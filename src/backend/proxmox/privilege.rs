//! What the login must be allowed to do, and the commands that allow it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::call::{Call, Path};
use super::error::Failure;
use super::machine::Hardware;
use super::{Proxmox, Target};

/// The role of docs/proxmox.md. An entry on a longer path replaces what was inherited, so one role with all that is needed is
/// what does no harm anywhere.
const ROLE: &str = "Imgbuild";

/// A role for what is needed on `/`: the other one must not get it, since it is given on storages and nodes as well.
const ROOT_ROLE: &str = "ImgbuildRoot";

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
    if path == ROOT {
        return format!(
            "on the node: pveum role add {ROOT_ROLE} --privs {privilege} && pveum acl modify {ROOT} --propagate 0 --users '{user}'{token} --roles {ROOT_ROLE}"
        );
    }
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

/// Where privileges are for everything.
const ROOT: &str = "/";

/// What a storage of disks takes.
const DISKS: [&str; 2] = ["Datastore.Audit", "Datastore.AllocateSpace"];

fn need(path: String, privileges: &[&'static str], purpose: &str) -> Need {
    Need {
        path,
        give_on: None,
        privileges: privileges.to_vec(),
        purpose: purpose.to_owned(),
        optional: false,
    }
}

fn storage(name: &str) -> String {
    format!("/storage/{name}")
}

/// All that a target needs, by what it names, and by the hardware of a recipe if there is one; one for each path. `major` is the
/// server's version.
pub fn needs(target: &Target, hardware: Option<&Hardware>, major: u32) -> Vec<Need> {
    let mut needs = of_target(target, major);
    for need in hardware
        .into_iter()
        .flat_map(|hardware| of_hardware(target, hardware))
    {
        add(&mut needs, need);
    }
    needs
}

fn of_target(target: &Target, major: u32) -> Vec<Need> {
    let mut needs = vec![need(storage(&target.import), &IMPORT, "base images")];
    if let Some(images) = &target.images {
        add(
            &mut needs,
            need(storage(images), &DISKS, "disks of machines"),
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
    if target.is_auto {
        let purpose = "choosing a node by its free memory";
        needs.push(need(
            format!("/nodes/{}", target.node),
            &["Sys.Audit"],
            purpose,
        ));
    }
    if let Some(bridge) = &target.bridge {
        let purpose = "the network of machines";
        needs.push(need(network(bridge, None), &["SDN.Use"], purpose));
    }
    if let Some(vmids) = &target.vmids {
        // Proxmox VE 9 has split `VM.Monitor`; what the guest agent needs is this.
        let agent = match major < 9 {
            true => "VM.Monitor",
            false => "VM.GuestAgent.Audit",
        };
        let copies = (!target.replicate.is_empty()).then_some("VM.Migrate");
        let all: Vec<_> = MACHINE.into_iter().chain([agent]).chain(copies).collect();
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

/// What the hardware of a recipe needs besides: `check_vm_modify_config_perm`, `check_hostpci_perm` and `clone_vm` in
/// qemu-server's API2/Qemu.pm, `check_vnet_access` in guest-common.
fn of_hardware(target: &Target, hardware: &Hardware) -> Vec<Need> {
    let template = &hardware.template;
    let storages = template.storages().chain(&hardware.storage);
    let mut needs: Vec<Need> = storages
        .map(|name| need(storage(name), &DISKS, "disks of the template"))
        .collect();
    let bridge = hardware.bridge.as_ref().or(target.bridge.as_ref());
    let cards = template.networks.iter().flatten();
    let networks =
        cards.filter_map(|card| Some(network(card.bridge.as_ref().or(bridge)?, card.vlan)));
    let networks = networks.chain(
        hardware
            .bridge
            .as_deref()
            .map(|bridge| network(bridge, None)),
    );
    needs.extend(networks.map(|path| need(path, &["SDN.Use"], "the template's network")));
    needs.extend(template.hostpci.iter().map(|device| {
        let path = format!("/mapping/pci/{}", device.mapping);
        need(path, &["Mapping.Use"], "a device that is passed through")
    }));
    if let Some(pool) = &hardware.pool {
        let path = format!("/pool/{pool}");
        needs.push(need(path, &["VM.Allocate"], "machines in the pool"));
    }
    if let Some(vmids) = target.vmids.as_ref().filter(|_| template.cloud_init_drive) {
        let path = format!("/vms/{}", vmids.start());
        let purpose = "the template's cloud-init drive";
        needs.push(need(path, &["VM.Config.Cloudinit"], purpose));
    }
    if template.start_order.is_some() {
        needs.push(need(ROOT.into(), &["Sys.Modify"], "the start order"));
    }
    needs
}

/// The path of a bridge or of one of its VLANs. A grant on the bridge counts for all of them.
fn network(bridge: &str, vlan: Option<u32>) -> String {
    let bridge = format!("/sdn/zones/localnetwork/{bridge}");
    match vlan {
        Some(vlan) => format!("{bridge}/{vlan}"),
        None => bridge,
    }
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
    if !same
        .purpose
        .split(", ")
        .any(|purpose| purpose == need.purpose)
    {
        same.purpose = format!("{}, {}", same.purpose, need.purpose);
    }
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
    use crate::backend::proxmox::Trust;
    use crate::backend::proxmox::machine::hardware::tests::hardware as usual;
    use crate::backend::proxmox::machine::{Disk, HostPci, Network};

    #[test]
    fn a_grant_goes_to_the_user_and_the_token() {
        assert_eq!(
            grant("VM.Audit", "/vms/999", "me@pve!ci"),
            "on the node: pveum role modify Imgbuild --append 1 --privs VM.Audit && \
             pveum acl modify /vms/999 --users 'me@pve' --tokens 'me@pve!ci' --roles Imgbuild"
        );
        assert!(!grant("VM.Audit", "/vms", "root@pam").contains("--tokens"));
    }

    #[test]
    fn what_is_given_on_everything_is_a_role_of_its_own_that_goes_no_further() {
        assert_eq!(
            grant("Sys.Modify", "/", "me@pve"),
            "on the node: pveum role add ImgbuildRoot --privs Sys.Modify && \
             pveum acl modify / --propagate 0 --users 'me@pve' --roles ImgbuildRoot"
        );
    }

    /// What is needed besides for hardware that a change of the usual one makes, as `privilege on path`.
    fn added(change: impl FnOnce(&mut Hardware)) -> Vec<String> {
        let target = Target::for_tests("https://pve:8006", Trust::System);
        let mut hardware = usual();
        hardware.template.cloud_init_drive = false;
        change(&mut hardware);
        let told = |hardware| -> Vec<String> {
            let needs = needs(&target, hardware, 8).into_iter();
            let each = needs.flat_map(|need| {
                let path = need.path;
                let told = move |privilege| format!("{privilege} on {path}");
                need.privileges.into_iter().map(told)
            });
            each.collect()
        };
        let before = told(None);
        let after = told(Some(&hardware));
        after
            .into_iter()
            .filter(|need| !before.contains(need))
            .collect()
    }

    #[test]
    fn what_a_recipe_uses_is_needed_and_nothing_else() {
        let card = |bridge: Option<&str>, vlan| Network {
            model: "virtio".into(),
            bridge: bridge.map(Into::into),
            vlan,
            mtu: None,
            firewall: false,
        };
        assert_eq!(added(|_| {}), [] as [&str; 0]);
        let drive = added(|hardware| hardware.template.cloud_init_drive = true);
        assert_eq!(drive, ["VM.Config.Cloudinit on /vms/9000"]);
        let pool = added(|hardware| hardware.pool = Some("a/b".into()));
        assert_eq!(pool, ["VM.Allocate on /pool/a/b"]);
        let order = added(|hardware| hardware.template.start_order = Some(1));
        assert_eq!(order, ["Sys.Modify on /"]);
        let storages = added(|hardware| {
            hardware.storage = Some("fast".into());
            hardware.template.disks.push(Disk {
                size: 1,
                storage: Some("slow".into()),
                backup: true,
            });
        });
        assert_eq!(
            storages,
            [
                "Datastore.Audit on /storage/slow",
                "Datastore.AllocateSpace on /storage/slow",
                "Datastore.Audit on /storage/fast",
                "Datastore.AllocateSpace on /storage/fast",
            ]
        );
        let networks = added(|hardware| {
            hardware.template.networks =
                Some(vec![card(None, Some(20)), card(Some("vmbr1"), None)]);
        });
        assert_eq!(
            networks,
            [
                "SDN.Use on /sdn/zones/localnetwork/vmbr0/20",
                "SDN.Use on /sdn/zones/localnetwork/vmbr1",
            ]
        );
        let device = added(|hardware| {
            let gpu = HostPci {
                mapping: "gpu".into(),
                pcie: true,
                primary_gpu: false,
            };
            hardware.template.hostpci.push(gpu);
        });
        assert_eq!(device, ["Mapping.Use on /mapping/pci/gpu"]);
    }
}
