//! From the hardware of a machine to that of a template, and to that of a machine which tries a template out.

use std::borrow::Cow;

use super::{Hardware, Site};
use super::{HostPci, MIB, NETWORK, Network, SEED, SERIAL, network};

/// The number of the first of the further disks: they come after the machine's own and [`SEED`].
const FIRST_DISK: usize = 2;

/// What one `POST …/config` changes. No option is both set and deleted, which Proxmox VE refuses.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub set: Vec<(Cow<'static, str>, String)>,
    pub delete: Vec<Cow<'static, str>>,
}

impl Change {
    /// Sets an option.
    pub fn set(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        self.set.push((name.into(), value.into()));
    }

    /// Whether there is nothing to change: Proxmox VE refuses a call that says nothing.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.delete.is_empty()
    }
}

/// What makes a machine that is off, and has no seed any more, as the template is to be. What both have is there since the
/// machine was created: board, firmware with its disk, TPM, controller, display. The boot order stays.
pub fn template(hardware: &Hardware, site: &Site<'_>) -> Change {
    let extras = &hardware.template;
    let mut change = Change::default();
    if extras.cloud_init_drive {
        change.set(SEED, format!("{}:cloudinit", site.images));
    }
    for (number, disk) in extras.disks.iter().enumerate() {
        let storage = disk.storage.as_deref().unwrap_or(site.images);
        let backup = match disk.backup {
            true => "",
            false => ",backup=0",
        };
        let volume = format!("{storage}:{}", gib(disk.size));
        let value = hardware.disk(&volume) + backup;
        change.set(format!("scsi{}", number + FIRST_DISK), value);
    }
    if let Some(cards) = &extras.networks {
        for (number, card) in cards.iter().enumerate() {
            change.set(format!("net{number}"), card.value(site));
        }
        if cards.is_empty() {
            change.delete.push(NETWORK.into());
        }
    }
    for (number, device) in extras.hostpci.iter().enumerate() {
        change.set(format!("hostpci{number}"), device.value());
    }
    if !extras.serial {
        change.delete.push(SERIAL.into());
    }
    if let Some(balloon) = extras.balloon {
        change.set("balloon", (balloon / MIB).to_string());
    }
    if extras.on_boot {
        change.set("onboot", "1");
    }
    if let Some(order) = extras.start_order {
        change.set("startup", format!("order={order}"));
    }
    change
}

/// What makes a clone of the template one that can be reached and started here: the network card and the console of the build's
/// machines, and no devices of the node, which another machine may have. Its seed goes to [`SEED`], in the place of the
/// template's cloud-init drive.
pub fn tested(hardware: &Hardware, site: &Site<'_>) -> Change {
    let extras = &hardware.template;
    let mut change = Change::default();
    if let Some(cards) = &extras.networks {
        change.set(NETWORK, network(site));
        let others = (1..cards.len()).map(|number| format!("net{number}").into());
        change.delete.extend(others);
    }
    let devices = (0..extras.hostpci.len()).map(|number| format!("hostpci{number}").into());
    change.delete.extend(devices);
    if !extras.serial {
        change.set(SERIAL, "socket");
    }
    if extras.on_boot {
        change.delete.push("onboot".into());
    }
    change
}

impl Network {
    fn value(&self, site: &Site<'_>) -> String {
        let bridge = self.bridge.as_deref().unwrap_or(site.bridge);
        let mut value = format!("{},bridge={bridge}", self.model);
        for (name, number) in [("tag", self.vlan), ("mtu", self.mtu)] {
            if let Some(number) = number {
                value += &format!(",{name}={number}");
            }
        }
        if self.firewall {
            value += ",firewall=1";
        }
        value
    }
}

impl HostPci {
    fn value(&self) -> String {
        let mut value = format!("mapping={}", self.mapping);
        if self.pcie {
            value += ",pcie=1";
        }
        if self.primary_gpu {
            value += ",x-vga=1";
        }
        value
    }
}

/// A size as a new disk is asked for: in GiB, with a fraction if need be.
fn gib(bytes: u64) -> String {
    // Exact: the fraction is a number of 1024ths.
    (bytes.div_ceil(MIB) as f64 / 1024.0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::proxmox::machine::hardware::tests::{hardware, site};
    use crate::backend::proxmox::machine::hardware::{Disk, Extras};

    fn card(model: &str) -> Network {
        Network {
            model: model.into(),
            bridge: None,
            vlan: None,
            mtu: None,
            firewall: false,
        }
    }

    /// What changes, as `name=value` and `-name`.
    fn told(change: Change) -> Vec<String> {
        let set = change
            .set
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let delete = change.delete.iter().map(|name| format!("-{name}"));
        set.chain(delete).collect()
    }

    fn changed(extras: Extras) -> (Vec<String>, Vec<String>) {
        let hardware = Hardware {
            template: extras,
            ..hardware()
        };
        let site = site();
        (
            told(template(&hardware, &site)),
            told(tested(&hardware, &site)),
        )
    }

    #[test]
    fn a_template_gets_what_only_it_has() {
        let plain = || Extras {
            cloud_init_drive: false,
            ..hardware().template
        };
        let cases: [(Extras, &[&str], &[&str]); 8] = [
            (plain(), &[], &[]),
            (hardware().template, &["scsi1=fast:cloudinit"], &[]),
            (
                Extras {
                    disks: vec![
                        Disk {
                            size: 100 << 30,
                            storage: None,
                            backup: true,
                        },
                        Disk {
                            size: 1536 << 20,
                            storage: Some("slow".into()),
                            backup: false,
                        },
                    ],
                    ..plain()
                },
                &[
                    "scsi2=fast:100,discard=on,iothread=1",
                    "scsi3=slow:1.5,discard=on,iothread=1,backup=0",
                ],
                &[],
            ),
            (
                Extras {
                    networks: Some(vec![
                        Network {
                            vlan: Some(20),
                            mtu: Some(1),
                            firewall: true,
                            ..card("virtio")
                        },
                        Network {
                            bridge: Some("vmbr2".into()),
                            ..card("e1000e")
                        },
                    ]),
                    ..plain()
                },
                &[
                    "net0=virtio,bridge=vmbr1,tag=20,mtu=1,firewall=1",
                    "net1=e1000e,bridge=vmbr2",
                ],
                &["net0=virtio,bridge=vmbr1", "-net1"],
            ),
            (
                Extras {
                    networks: Some(vec![]),
                    ..plain()
                },
                &["-net0"],
                &["net0=virtio,bridge=vmbr1"],
            ),
            (
                Extras {
                    hostpci: vec![HostPci {
                        mapping: "gpu".into(),
                        pcie: true,
                        primary_gpu: true,
                    }],
                    ..plain()
                },
                &["hostpci0=mapping=gpu,pcie=1,x-vga=1"],
                &["-hostpci0"],
            ),
            (
                Extras {
                    serial: false,
                    balloon: Some(0),
                    ..plain()
                },
                &["balloon=0", "-serial0"],
                &["serial0=socket"],
            ),
            (
                Extras {
                    on_boot: true,
                    start_order: Some(2),
                    balloon: Some(1 << 30),
                    ..plain()
                },
                &["balloon=1024", "onboot=1", "startup=order=2"],
                &["-onboot"],
            ),
        ];
        for (extras, of_template, of_test) in cases {
            let case = format!("{extras:?}");
            let (template, test) = changed(extras);
            assert_eq!(template, of_template, "{case}");
            assert_eq!(test, of_test, "{case}");
        }
    }

    #[test]
    fn nothing_to_change_can_be_told() {
        assert!(Change::default().is_empty());
        assert!(!template(&hardware(), &site()).is_empty());
    }

    #[test]
    fn sizes_of_new_disks_are_in_gib() {
        for (mib, expected) in [
            (1024, "1"),
            (512, "0.5"),
            (1, "0.0009765625"),
            (16 << 20, "16384"),
        ] {
            assert_eq!(gib(mib * MIB), expected);
        }
    }
}
