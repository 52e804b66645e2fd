//! The rules of `[target.proxmox]`: what Proxmox VE would refuse, and what it would take and not mean.

use std::collections::BTreeSet;

use super::{GIB, MIB, size};
use crate::error::Fault;
use crate::recipe::Spanned;
use crate::recipe::types::*;
use crate::text::is_plain_name;

/// The ids that machines can have.
const VMIDS: std::ops::RangeInclusive<u32> = 100..=999_999_999;

/// What each kind of device there may be most of: `scsi2` to `scsi30`, `net0` to `net31`, `hostpci0` to `hostpci15`.
const MOST_DISKS: usize = 29;
const MOST_NETWORKS: usize = 32;
const MOST_DEVICES: usize = 16;

/// How deep pools can be in pools.
const MOST_POOLS: usize = 3;

/// Tables that the rules look at too, as far as they could be decoded.
pub struct Beside<'r> {
    pub image: Option<&'r Image>,
    pub machine: Option<&'r Machine>,
}

pub fn proxmox(proxmox: &Proxmox, beside: &Beside<'_>, faults: &mut Vec<Fault>) {
    if let Some(vmid) = &proxmox.vmid
        && !VMIDS.contains(vmid.get_ref())
    {
        let message = format!("{} can be no machine's id", vmid.get_ref());
        faults.push(Fault::new(vmid.span(), message).hint("100 to 999999999"));
    }
    if let Some(pool) = &proxmox.pool {
        let parts: Vec<&str> = pool.get_ref().split('/').collect();
        if parts.len() > MOST_POOLS || !parts.into_iter().all(is_plain_name) {
            let message = format!("`{}` cannot be a pool", pool.get_ref());
            let hint = "letters, digits, `.`, `-` and `_`; at most three, with `/` between them";
            faults.push(Fault::new(pool.span(), message).hint(hint));
        }
    }
    tags(&proxmox.tags, beside.image, faults);
    let names = [&proxmox.storage, &proxmox.bridge].into_iter().flatten();
    for name in names.chain([&proxmox.cpu]) {
        plain(name, faults);
    }
    firmware(proxmox, beside.machine, faults);
    if *proxmox.vga.get_ref() == Vga::Serial0 && !proxmox.serial.get_ref() {
        let fault = Fault::new(proxmox.serial.span(), "the display is the serial port");
        faults.push(fault.hint("remove this, or `vga = \"serial0\"`"));
    }
    disks(&proxmox.disks, faults);
    if let Some(networks) = &proxmox.networks {
        at_most(MOST_NETWORKS, networks, "network cards", faults);
        for card in networks.get_ref() {
            network(card, faults);
        }
    }
    at_most(MOST_DEVICES, &proxmox.hostpci, "devices", faults);
    for device in proxmox.hostpci.get_ref() {
        host_pci(device, *proxmox.machine.get_ref(), faults);
    }
    if let Some(balloon) = &proxmox.balloon {
        let memory = beside.machine.map(|machine| machine.memory.get_ref().0);
        size("balloon", balloon, 0, memory.unwrap_or(u64::MAX), faults);
    }
}

/// Tags that imgbuild gives, or would take for its own, are no recipe's.
fn tags(tags: &[Spanned<String>], image: Option<&Image>, faults: &mut Vec<Fault>) {
    let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let more = |c: char| first(c) || matches!(c, '-' | '+' | '.');
    let mut seen = BTreeSet::new();
    for written in tags {
        let tag = written.get_ref().as_str();
        let is_version = tag
            .strip_prefix('v')
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
        let is_name = image.is_some_and(|image| image.name.get_ref() == tag);
        let (message, hint) = if !tag.starts_with(first) || !tag.chars().all(more) {
            let hint =
                "a tag begins with a small letter, a digit or `_`; `-`, `+` and `.` can follow";
            (format!("`{tag}` cannot be a tag"), hint)
        } else if tag.starts_with("imgbuild") || is_version || is_name {
            let hint = "a template has the tags `imgbuild`, `imgbuild-template`, its image's name and its version anyway";
            (format!("the tag `{tag}` is imgbuild's own"), hint)
        } else if !seen.insert(tag) {
            (format!("the tag `{tag}` is there twice"), "remove one")
        } else {
            continue;
        };
        faults.push(Fault::new(written.span(), message).hint(hint));
    }
}

fn plain(name: &Spanned<String>, faults: &mut Vec<Fault>) {
    if !is_plain_name(name.get_ref()) {
        let message = format!("`{}` cannot be a name on Proxmox VE", name.get_ref());
        faults.push(Fault::new(name.span(), message).hint("letters, digits, `.`, `-` and `_`"));
    }
}

fn firmware(proxmox: &Proxmox, machine: Option<&Machine>, faults: &mut Vec<Fault>) {
    let is_bios = machine.is_some_and(|machine| machine.firmware == Firmware::Bios);
    if *proxmox.secure_boot.get_ref() && is_bios {
        let message = "Secure Boot needs UEFI, and this machine boots by BIOS";
        let fault = Fault::new(proxmox.secure_boot.span(), message);
        faults.push(fault.hint("write firmware = \"uefi\" in [machine], or remove this"));
    }
}

fn at_most<T>(most: usize, list: &Spanned<Vec<T>>, what: &str, faults: &mut Vec<Fault>) {
    if list.get_ref().len() > most {
        let message = format!("a machine has at most {most} {what}");
        faults.push(Fault::new(list.span(), message));
    }
}

fn disks(disks: &[Spanned<Disk>], faults: &mut Vec<Fault>) {
    if let Some(first) = disks.get(MOST_DISKS) {
        let message = format!("a machine has at most {MOST_DISKS} disks besides its own");
        faults.push(Fault::new(first.span(), message));
    }
    for disk in disks {
        let disk = disk.get_ref();
        size("a disk", &disk.size, MIB, 16 * 1024 * GIB, faults);
        if let Some(storage) = &disk.storage {
            plain(storage, faults);
        }
    }
}

fn network(card: &Network, faults: &mut Vec<Fault>) {
    if let Some(bridge) = &card.bridge {
        plain(bridge, faults);
    }
    if let Some(vlan) = &card.vlan
        && !(1..=4094).contains(vlan.get_ref())
    {
        let message = format!("there is no VLAN {}", vlan.get_ref());
        faults.push(Fault::new(vlan.span(), message).hint("1 to 4094"));
    }
    let Some(mtu) = &card.mtu else {
        return;
    };
    // Proxmox VE takes smaller ones as well, but IPv4 does not work with them.
    if *mtu.get_ref() != 1 && !(576..=65520).contains(mtu.get_ref()) {
        let message = format!("no network card works with an MTU of {}", mtu.get_ref());
        faults.push(Fault::new(mtu.span(), message).hint("576 to 65520, or 1 for the bridge's"));
    }
    if card.model != NetworkModel::Virtio {
        let fault = Fault::new(mtu.span(), "only a `virtio` card is told its MTU");
        faults.push(fault.hint("remove `model`, or set the MTU in the guest"));
    }
}

fn host_pci(device: &HostPci, board: Board, faults: &mut Vec<Fault>) {
    let name = device.mapping.get_ref();
    if !is_plain_name(name) {
        let message = format!("`{name}` cannot be the name of a mapping");
        faults.push(Fault::new(device.mapping.span(), message).hint(
            "give the device a name under Datacenter, Resource Mappings: addresses are for root alone",
        ));
    }
    if let Some(pcie) = &device.pcie
        && *pcie.get_ref()
        && board == Board::I440fx
    {
        let fault = Fault::new(pcie.span(), "the board `i440fx` has no PCI Express");
        faults.push(fault.hint("remove this, or `machine = \"i440fx\"`"));
    }
}
