//! What a plan for a Proxmox VE node has besides: the template and its hardware.

use serde::{Deserialize, Serialize};

use super::Inputs;
use crate::backend::proxmox::machine::{
    Board, Disk, Extras, Hardware, HostPci, Network, Whereabouts,
};
use crate::recipe::{self, Address, Recipe, Spanned};

/// What is to come to the node, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Proxmox {
    /// The id of a copy of the newest version.
    pub vmid: Option<u32>,
    /// The recipe's own, besides those that imgbuild gives.
    pub tags: Vec<String>,
    pub hardware: Hardware,
    /// Whether a second machine looks at the finished disk; else its own guest does.
    pub helper: bool,
    /// Where machines are looked for.
    pub address: Address,
}

impl Proxmox {
    /// Resolves `[target.proxmox]`.
    pub(super) fn new(recipe: &Recipe) -> Self {
        let written = &recipe.target.proxmox;
        Proxmox {
            vmid: written.vmid.as_ref().map(|vmid| *vmid.get_ref()),
            tags: written
                .tags
                .iter()
                .map(|tag| tag.get_ref().clone())
                .collect(),
            hardware: hardware(written, recipe.machine.tpm),
            helper: written.helper,
            address: recipe.ssh.address,
        }
    }

    /// Who tells where a machine is.
    pub fn whereabouts(&self) -> Whereabouts {
        match self.address {
            Address::Auto => Whereabouts::Any,
            Address::Agent => Whereabouts::Agent,
            Address::Console => Whereabouts::Console,
            Address::Static(address) => Whereabouts::At(address),
        }
    }

    /// What the guest of the build can notice, so that layers depend on it. Where a disk is, and on which network, it cannot,
    /// and what only the template has, it never sees.
    pub(super) fn inputs(&self) -> Inputs {
        let hardware = &self.hardware;
        Inputs::from(
            [
                ("cpu", hardware.cpu.clone()),
                ("board", board(hardware.board).to_owned()),
                ("secure boot", hardware.secure_boot.to_string()),
                ("tpm", hardware.tpm.to_string()),
                ("scsi controller", hardware.scsi_controller.clone()),
                ("vga", hardware.vga.clone()),
                ("rng", hardware.rng.to_string()),
                ("numa", hardware.numa.to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        )
    }
}

fn hardware(written: &recipe::Proxmox, tpm: bool) -> Hardware {
    let board = match written.machine.get_ref() {
        recipe::Board::Q35 => Board::Q35,
        recipe::Board::I440fx => Board::I440fx,
    };
    let cards = written.networks.as_ref().map(Spanned::get_ref);
    Hardware {
        pool: text(&written.pool),
        storage: text(&written.storage),
        bridge: text(&written.bridge),
        cpu: written.cpu.get_ref().clone(),
        board,
        secure_boot: *written.secure_boot.get_ref(),
        tpm,
        scsi_controller: written.scsi_controller.name().into(),
        vga: written.vga.get_ref().name().into(),
        rng: written.rng,
        numa: written.numa,
        template: Extras {
            disks: written
                .disks
                .iter()
                .map(|disk| self::disk(disk.get_ref()))
                .collect(),
            networks: cards.map(|cards| cards.iter().map(network).collect()),
            hostpci: written
                .hostpci
                .get_ref()
                .iter()
                .map(|device| host_pci(device, board))
                .collect(),
            serial: *written.serial.get_ref(),
            balloon: written.balloon.as_ref().map(|size| size.get_ref().0),
            on_boot: written.on_boot,
            start_order: written.start_order.as_ref().map(|order| *order.get_ref()),
            cloud_init_drive: written.cloud_init_drive,
        },
    }
}

fn disk(disk: &recipe::Disk) -> Disk {
    Disk {
        size: disk.size.get_ref().0,
        storage: text(&disk.storage),
        backup: disk.backup,
    }
}

fn network(card: &recipe::Network) -> Network {
    let number = |number: &Option<Spanned<u32>>| number.as_ref().map(|number| *number.get_ref());
    Network {
        model: card.model.name().into(),
        bridge: text(&card.bridge),
        vlan: number(&card.vlan),
        mtu: number(&card.mtu),
        firewall: card.firewall,
    }
}

fn host_pci(device: &recipe::HostPci, board: Board) -> HostPci {
    HostPci {
        mapping: device.mapping.get_ref().clone(),
        pcie: match &device.pcie {
            Some(pcie) => *pcie.get_ref(),
            None => board == Board::Q35,
        },
        primary_gpu: device.primary_gpu,
    }
}

fn text(value: &Option<Spanned<String>>) -> Option<String> {
    value.as_ref().map(|value| value.get_ref().clone())
}

/// For people.
impl Proxmox {
    /// What machines are.
    pub(super) fn machines(&self) -> String {
        let hardware = &self.hardware;
        let mut parts = vec![
            board(hardware.board).to_owned(),
            format!("cpu {}", hardware.cpu),
            hardware.scsi_controller.clone(),
            format!("vga {}", hardware.vga),
        ];
        let flags = [
            (hardware.secure_boot, "Secure Boot"),
            (hardware.tpm, "TPM"),
            (hardware.rng, "rng"),
            (hardware.numa, "numa"),
        ];
        parts.extend(set(&flags));
        let places = [
            ("storage", &hardware.storage),
            ("bridge", &hardware.bridge),
            ("pool", &hardware.pool),
        ];
        let said = places
            .iter()
            .filter_map(|(what, name)| Some(format!("{what} {}", (*name).as_ref()?)));
        parts.extend(said);
        parts.join(", ")
    }

    /// What is told of the template.
    pub(super) fn template(&self) -> String {
        let extras = &self.hardware.template;
        let mut parts = vec![];
        parts.extend(
            extras
                .disks
                .iter()
                .map(|disk| format!("a disk of {}", indicatif::BinaryBytes(disk.size))),
        );
        if let Some(cards) = &extras.networks {
            parts.push(format!("{} network cards", cards.len()));
        }
        parts.extend(
            extras
                .hostpci
                .iter()
                .map(|device| format!("device {}", device.mapping)),
        );
        let flags = [
            (extras.cloud_init_drive, "cloud-init drive"),
            (!extras.serial, "no serial port"),
            (extras.on_boot, "starts with the node"),
            (!self.helper, "looked at from inside"),
        ];
        parts.extend(set(&flags));
        let numbers = [("copy", self.vmid), ("start order", extras.start_order)];
        parts.extend(
            numbers
                .iter()
                .filter_map(|(what, number)| Some(format!("{what} {}", (*number)?))),
        );
        parts.extend(
            extras
                .balloon
                .map(|size| format!("balloon {}", indicatif::BinaryBytes(size))),
        );
        parts.extend(self.tags.iter().map(|tag| format!("tag {tag}")));
        match parts.is_empty() {
            true => "as the machine is".into(),
            false => parts.join(", "),
        }
    }
}

/// The recipe's word for it.
fn board(board: Board) -> &'static str {
    match board {
        Board::Q35 => "q35",
        Board::I440fx => "i440fx",
    }
}

fn set(flags: &[(bool, &str)]) -> Vec<String> {
    let given = flags.iter().filter(|(is_set, _)| *is_set);
    given.map(|(_, name)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::plan_on;
    use super::*;
    use crate::recipe::Target;

    fn proxmox(lines: &str) -> Proxmox {
        let text = format!("[machine]\nfirmware = 'uefi'\ntpm = true\n[target.proxmox]\n{lines}");
        plan_on(Target::Proxmox, &text).proxmox
    }

    #[test]
    fn what_is_not_said_is_as_on_any_node() {
        let plain = plan_on(Target::Proxmox, "").proxmox;
        assert_eq!(
            plain.machines(),
            "q35, cpu host, virtio-scsi-single, vga std"
        );
        assert_eq!(plain.template(), "cloud-init drive");
        assert_eq!(plain.address, Address::Auto);
    }

    #[test]
    fn what_is_said_is_told() {
        let said = proxmox(
            "cpu = 'max'\nsecure-boot = true\nvga = 'serial0'\nrng = true\nnuma = true\nstorage = 'fast'\n\
             vmid = 9000\ntags = ['debian']\ncloud-init-drive = false\nballoon = '1GiB'\nstart-order = 2\non-boot = true\n\
             helper = false\ndisks = [{ size = '2GiB' }]\nnetworks = [{ vlan = 20 }, {}]\nhostpci = [{ mapping = 'gpu' }]",
        );
        assert_eq!(
            said.machines(),
            "q35, cpu max, virtio-scsi-single, vga serial0, Secure Boot, TPM, rng, numa, storage fast"
        );
        assert_eq!(
            said.template(),
            "a disk of 2.00 GiB, 2 network cards, device gpu, starts with the node, looked at from inside, copy 9000, \
             start order 2, balloon 1.00 GiB, tag debian"
        );
    }

    #[test]
    fn a_device_is_on_pci_express_where_the_board_has_it() {
        let on = |lines: &str| proxmox(&format!("hostpci = [{{ mapping = 'gpu' }}]\n{lines}"));
        let is_pcie = |plan: Proxmox| plan.hardware.template.hostpci[0].pcie;
        assert!(is_pcie(on("")));
        assert!(!is_pcie(on("machine = 'i440fx'")));
    }

    #[test]
    fn it_is_read_again_as_it_was_printed() {
        let said = proxmox("networks = [{ vlan = 20 }]\nballoon = 0");
        let printed = serde_json::to_string(&said).unwrap();
        assert_eq!(serde_json::from_str::<Proxmox>(&printed).unwrap(), said);
    }
}
