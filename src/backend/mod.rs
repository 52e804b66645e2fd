//! Where machines run.

pub mod proxmox;
pub mod qemu;

use std::path::PathBuf;

use crate::source::Format;

/// A machine to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    pub firmware: Firmware,
    pub accel: Accel,
    /// The port in the guest that SSH is forwarded to.
    pub ssh_port: u16,
}

/// The firmware of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    Bios,
    Uefi,
}

impl Firmware {
    /// The recipe's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
        }
    }
}

/// How a machine's CPU is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// KVM where it works, else emulation.
    Auto,
    Kvm,
    Tcg,
}

/// The image that a machine's disk is an overlay of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    pub path: PathBuf,
    pub format: Format,
    /// The size of the machine's disk in bytes; at least that of the image.
    pub size: u64,
}
