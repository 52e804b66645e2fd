//! `[target.proxmox]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::schema::{self, pattern};
use super::{Size, Spanned};

/// What is so only where an image is built on a target of `imgbuild.toml`. Builds on this machine's QEMU do not look at it.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Targets {
    /// On a Proxmox VE node.
    pub proxmox: Proxmox,
}

/// The template on a Proxmox VE node, and the machines that it is made and tested in. CPUs, memory, disk, firmware and TPM are
/// in `[machine]`. `cpu`, `machine`, `secure-boot`, `scsi-controller`, `vga`, `rng`, `numa`, `storage`, `bridge` and `pool`
/// count for the build's machines too; everything else is given to the finished template alone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Proxmox {
    /// Keeps a copy of the newest version under this id as well, for tools that know templates by their ids: 100 to
    /// 999999999. If not given, there is no copy, and versions have ids of the target's range.
    #[schemars(range(min = 100, max = 999_999_999), example = 9000)]
    pub vmid: Option<Spanned<u32>>,
    /// The resource pool that the template is in. If not given: none.
    #[schemars(example = &"templates")]
    pub pool: Option<Spanned<String>>,
    /// Tags of the template besides those that imgbuild gives it: small letters, digits, `_`, `-`, `+` and `.`. Not the
    /// image's name, no version (`v7`), no channel, and nothing that begins with `imgbuild`.
    #[schemars(inner(regex(pattern = pattern::TAG)), example = ["debian", "web"])]
    pub tags: Vec<Spanned<String>>,
    /// The storage of the disks. If not given: the target's `storages.images`.
    #[schemars(example = &"local-zfs")]
    pub storage: Option<Spanned<String>>,
    /// The bridge of the build's machines, and of the template's network cards that name none. If not given: the target's.
    #[schemars(example = &"vmbr1")]
    pub bridge: Option<Spanned<String>>,
    /// The type of the CPU. `host` is all that the node's processor can; machines that are to move between nodes with
    /// different processors need one that all of them have, such as `x86-64-v2-AES`.
    #[schemars(example = &"x86-64-v2-AES")]
    pub cpu: Spanned<String>,
    /// The board. `i440fx` is older, and has no PCI Express.
    #[schemars(example = &"i440fx")]
    pub machine: Spanned<Board>,
    /// Puts the keys of Microsoft and of distributions into the EFI disk (`pre-enrolled-keys`), which turns Secure Boot on.
    /// Needs `[machine] firmware = "uefi"`.
    #[schemars(example = true)]
    pub secure_boot: Spanned<bool>,
    /// The controller of the disks (`scsihw`); `virtio-scsi-single` is one for each disk, with a thread of its own. The base image
    /// must have a driver for it.
    #[schemars(example = &"virtio-scsi-pci")]
    pub scsi_controller: ScsiController,
    /// The display: `qxl` is for SPICE, and with `serial0` it is the serial port. Machines have a serial console beside it, see
    /// `serial`.
    #[schemars(example = &"serial0")]
    pub vga: Spanned<Vga>,
    /// A random number generator (VirtIO) that is fed from the node's `/dev/urandom`.
    #[schemars(example = true)]
    pub rng: bool,
    /// Shows the guest NUMA nodes, which hot-plugging memory needs.
    #[schemars(example = true)]
    pub numa: bool,
    /// Further disks, empty, as `scsi2`, `scsi3` and so on. At most 29.
    #[schemars(length(max = 29), example = json!([{"size": "100GiB"}]))]
    pub disks: Vec<Spanned<Disk>>,
    /// The network cards, `net0` first. At most 32; an empty list means none. If not given: one on `bridge`. The build's
    /// machines always have just that one.
    #[schemars(length(max = 32), example = json!([{"bridge": "vmbr1", "vlan": 20}]))]
    pub networks: Option<Spanned<Vec<Network>>>,
    /// Devices of the node that are passed through. At most 16.
    #[schemars(length(max = 16), example = json!([{"mapping": "gpu"}]))]
    pub hostpci: Spanned<Vec<HostPci>>,
    /// Whether the template has a serial port (`serial0`), on which cloud images show their console. The build's machines
    /// always have it.
    #[schemars(example = false)]
    pub serial: Spanned<bool>,
    /// The memory that a machine keeps when the node needs some back; `0` for no balloon device at all. If not given, the
    /// device is there, and no memory is taken back.
    #[schemars(example = &"1GiB")]
    pub balloon: Option<Spanned<Size>>,
    /// Whether machines made from the template start with the node.
    #[schemars(example = true)]
    pub on_boot: bool,
    /// Their place in the order in which the node starts and stops machines. If not given: after those that have one. Setting
    /// it takes the privilege `Sys.Modify` on `/`.
    #[schemars(example = 2)]
    pub start_order: Option<Spanned<u32>>,
    /// Whether the finished disk is looked at in a second machine, the helper. `false` is for nodes that have no room for one: the
    /// guest that was built, sealed, reads its own disk then, and is stopped by force afterwards. A guest that lies would not be
    /// found out, and services are not ended in order, so stop in a step what must be. The record says which it was.
    #[schemars(example = false)]
    pub helper: bool,
    /// Whether the template has an own cloud-init drive (`scsi1`), through which Proxmox VE tells a machine its name, user, keys
    /// and addresses at its first start. Without one, a machine knows none of that until somebody adds a drive.
    #[schemars(example = false)]
    pub cloud_init_drive: bool,
}

impl Default for Proxmox {
    fn default() -> Self {
        let unsaid = 0..0;
        Proxmox {
            vmid: None,
            pool: None,
            tags: vec![],
            storage: None,
            bridge: None,
            cpu: Spanned::new(unsaid.clone(), "host".into()),
            machine: Spanned::new(unsaid.clone(), Board::Q35),
            secure_boot: Spanned::new(unsaid.clone(), false),
            scsi_controller: ScsiController::VirtioScsiSingle,
            vga: Spanned::new(unsaid.clone(), Vga::Std),
            rng: false,
            numa: false,
            disks: vec![],
            networks: None,
            hostpci: Spanned::new(unsaid.clone(), vec![]),
            serial: Spanned::new(unsaid, true),
            balloon: None,
            on_boot: false,
            start_order: None,
            helper: true,
            cloud_init_drive: true,
        }
    }
}

/// A further disk of the template.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// 1 MiB to 16 TiB, in whole MiB.
    #[schemars(example = &"100GiB")]
    pub size: Spanned<Size>,
    /// If not given: that of the other disks.
    #[schemars(example = &"slow")]
    pub storage: Option<Spanned<String>>,
    /// Whether backups have it.
    #[serde(default = "yes")]
    #[schemars(example = false)]
    pub backup: bool,
}

/// A network card of the template.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// A bridge or a virtual network. If not given: `bridge` of `[target.proxmox]`, or the target's.
    #[schemars(example = &"vmbr1")]
    pub bridge: Option<Spanned<String>>,
    /// The VLAN (`tag`), 1 to 4094. If not given: untagged.
    #[schemars(range(min = 1, max = 4094), example = 20)]
    pub vlan: Option<Spanned<u32>>,
    /// 576 to 65520, or 1 for the bridge's. For `virtio` only. If not given: the guest's own.
    #[schemars(range(min = 1, max = 65520), example = 1)]
    pub mtu: Option<Spanned<u32>>,
    /// Whether Proxmox VE's firewall filters it.
    #[schemars(example = true)]
    pub firewall: bool,
    /// What it is to the guest. `virtio` is the quickest.
    #[schemars(example = &"e1000e")]
    pub model: NetworkModel,
}

/// A device of the node.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostPci {
    /// The name of a mapping of the cluster (Datacenter, Resource Mappings). Addresses such as `0000:01:00.0` are for root
    /// alone, and different on each node.
    #[schemars(example = &"gpu")]
    pub mapping: Spanned<String>,
    /// Whether it is on a PCI Express bus. Needs the board `q35`; if not given, it is so there.
    #[schemars(example = false)]
    pub pcie: Option<Spanned<bool>>,
    /// Whether it is the primary graphics card (`x-vga`).
    #[serde(default)]
    #[schemars(example = true)]
    pub primary_gpu: bool,
}

fn yes() -> bool {
    true
}

/// The board of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = schema::or_template)]
pub enum Board {
    Q35,
    I440fx,
}

/// The controller of the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = schema::or_template)]
pub enum ScsiController {
    VirtioScsiSingle,
    VirtioScsiPci,
    Lsi,
    Lsi53c810,
    Megasas,
    Pvscsi,
}

/// The display.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = schema::or_template)]
pub enum Vga {
    Std,
    Virtio,
    Qxl,
    Serial0,
    None,
}

/// What a network card is to the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = schema::or_template)]
pub enum NetworkModel {
    #[default]
    Virtio,
    E1000,
    E1000e,
    Rtl8139,
    Vmxnet3,
}

impl ScsiController {
    /// Proxmox VE's word for it.
    pub fn name(self) -> &'static str {
        match self {
            ScsiController::VirtioScsiSingle => "virtio-scsi-single",
            ScsiController::VirtioScsiPci => "virtio-scsi-pci",
            ScsiController::Lsi => "lsi",
            ScsiController::Lsi53c810 => "lsi53c810",
            ScsiController::Megasas => "megasas",
            ScsiController::Pvscsi => "pvscsi",
        }
    }
}

impl Vga {
    /// Proxmox VE's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Vga::Std => "std",
            Vga::Virtio => "virtio",
            Vga::Qxl => "qxl",
            Vga::Serial0 => "serial0",
            Vga::None => "none",
        }
    }
}

impl NetworkModel {
    /// Proxmox VE's word for it.
    pub fn name(self) -> &'static str {
        match self {
            NetworkModel::Virtio => "virtio",
            NetworkModel::E1000 => "e1000",
            NetworkModel::E1000e => "e1000e",
            NetworkModel::Rtl8139 => "rtl8139",
            NetworkModel::Vmxnet3 => "vmxnet3",
        }
    }
}
