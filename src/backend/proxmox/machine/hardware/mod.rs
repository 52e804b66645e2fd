//! What a machine is made of, in Proxmox VE's words.

#[cfg(test)]
mod served;
mod template;

use serde::{Deserialize, Serialize};

use super::site::Site;
use super::{Lease, Start};
use crate::backend::Firmware;
use crate::backend::proxmox::StoredImage;
pub use template::{Change, template, tested};

/// The machine's disk. SCSI, since only that controller passes on which blocks are not needed any more.
pub const DISK: &str = "scsi0";

/// The drive of the build's seed, and of the template's cloud-init drive after it. SCSI, since the kernels of some cloud images
/// have no driver for the other drives of a q35.
pub const SEED: &str = "scsi1";

/// A controller for each disk, and so a thread for each.
const SINGLE: &str = "virtio-scsi-single";

/// The display that a machine has if nothing is said.
const DISPLAY: &str = "std";

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// What can be chosen of machines and of the template that comes out. Words are Proxmox VE's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Hardware {
    /// Of machines and template.
    pub pool: Option<String>,
    /// The storage of the disks, if it is not the target's.
    pub storage: Option<String>,
    /// The bridge of machines, and of the template where it names none, if it is not the target's.
    pub bridge: Option<String>,
    /// CPU type.
    pub cpu: String,
    pub board: Board,
    /// Whether there are keys in the EFI disk.
    pub secure_boot: bool,
    pub tpm: bool,
    pub scsi_controller: String,
    pub vga: String,
    pub rng: bool,
    pub numa: bool,
    /// What only the template has.
    pub template: Extras,
}

/// What the template has, and the machine that it is made in has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Extras {
    pub disks: Vec<Disk>,
    /// That of machines, if not given.
    pub networks: Option<Vec<Network>>,
    pub hostpci: Vec<HostPci>,
    pub serial: bool,
    /// Bytes; 0 for no balloon device.
    pub balloon: Option<u64>,
    pub on_boot: bool,
    pub start_order: Option<u32>,
    pub cloud_init_drive: bool,
}

impl Extras {
    /// The storages that it names.
    pub fn storages(&self) -> impl Iterator<Item = &String> {
        self.disks.iter().filter_map(|disk| disk.storage.as_ref())
    }

    /// The bridges that it names.
    pub fn bridges(&self) -> impl Iterator<Item = &String> {
        let cards = self.networks.iter().flatten();
        cards.filter_map(|card| card.bridge.as_ref())
    }
}

/// The board of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Board {
    Q35,
    I440fx,
}

impl Board {
    /// Proxmox VE's word for it.
    fn name(self) -> &'static str {
        match self {
            Board::Q35 => "q35",
            Board::I440fx => "pc",
        }
    }
}

/// An empty disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Disk {
    /// Bytes.
    pub size: u64,
    /// That of the other disks, if not given.
    pub storage: Option<String>,
    pub backup: bool,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Network {
    pub model: String,
    /// That of machines, if not given.
    pub bridge: Option<String>,
    pub vlan: Option<u32>,
    pub mtu: Option<u32>,
    pub firewall: bool,
}

/// A device of the node, by its mapping.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostPci {
    pub mapping: String,
    pub pcie: bool,
    pub primary_gpu: bool,
}

/// A volume in a CD drive.
pub fn cd(volume: &str) -> String {
    format!("{volume},media=cdrom")
}

/// The parameters of the call that creates a machine.
pub fn parameters(
    vmid: u32,
    start: &Start<'_>,
    image: &StoredImage,
    site: &Site<'_>,
    seed: &str,
) -> Vec<(&'static str, String)> {
    let (spec, hardware) = (start.spec, start.hardware);
    let (images, image) = (site.images, &image.volume);
    let mut parameters = vec![
        ("vmid", vmid.to_string()),
        ("name", Lease::name(&start.lease.build)),
        ("tags", start.lease.tags()),
        ("description", start.description.to_owned()),
        ("ostype", "l26".into()),
        ("machine", hardware.board.name().into()),
        ("cpu", hardware.cpu.clone()),
        ("cores", spec.cpus.to_string()),
        ("memory", spec.memory.div_ceil(MIB).to_string()),
        ("scsihw", hardware.scsi_controller.clone()),
        // The size must be 0: it is that of the image.
        (
            DISK,
            hardware.disk(&format!("{images}:0,import-from={image}")),
        ),
        (SEED, cd(seed)),
        ("boot", format!("order={DISK}")),
        (NETWORK, network(site)),
        (SERIAL, "socket".into()),
        ("agent", "enabled=1".into()),
    ];
    if spec.firmware == Firmware::Uefi {
        parameters.push(("bios", "ovmf".into()));
        // Keys turn on Secure Boot, which not every image can.
        let keys = u8::from(hardware.secure_boot);
        let disk = format!("{images}:1,efitype=4m,pre-enrolled-keys={keys}");
        parameters.push(("efidisk0", disk));
    }
    if hardware.tpm {
        // Without a version it would be 1.2.
        parameters.push(("tpmstate0", format!("{images}:1,version=v2.0")));
    }
    if hardware.vga != DISPLAY {
        parameters.push(("vga", hardware.vga.clone()));
    }
    if hardware.rng {
        parameters.push(("rng0", "source=/dev/urandom".into()));
    }
    if hardware.numa {
        parameters.push(("numa", "1".into()));
    }
    if let Some(pool) = &hardware.pool {
        parameters.push(("pool", pool.clone()));
    }
    parameters
}

/// The network card of machines.
const NETWORK: &str = "net0";

/// The console of machines.
const SERIAL: &str = "serial0";

fn network(site: &Site<'_>) -> String {
    format!("virtio,bridge={}", site.bridge)
}

impl Hardware {
    /// The value of a disk that is this volume, or is made as it says.
    fn disk(&self, volume: &str) -> String {
        // Proxmox VE ignores it with a warning where the controller has no threads.
        let thread = match self.scsi_controller == SINGLE {
            true => ",iothread=1",
            false => "",
        };
        format!("{volume},discard=on{thread}")
    }
}

/// The size in bytes that a configuration says of a disk: `local:9000/vm-9000-disk-0.qcow2,size=2G`.
pub fn size(disk: &str) -> Option<u64> {
    let size = disk
        .split(',')
        .find_map(|option| option.strip_prefix("size="))?;
    let (number, shift) = match size.as_bytes().last()? {
        b'K' => (&size[..size.len() - 1], 10),
        b'M' => (&size[..size.len() - 1], 20),
        b'G' => (&size[..size.len() - 1], 30),
        b'T' => (&size[..size.len() - 1], 40),
        _ => (size, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
pub(in crate::backend::proxmox) mod tests;
