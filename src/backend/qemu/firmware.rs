//! Finding OVMF, the UEFI firmware for QEMU.

use std::path::PathBuf;

use crate::error::{Error, Result};

/// One build of OVMF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ovmf {
    pub code: PathBuf,
    /// A template; each machine gets a copy.
    pub variables: PathBuf,
}

/// Where distributions put it: Debian and Ubuntu (4 MiB, then 2 MiB), Fedora, Arch, openSUSE.
const PLACES: &[(&str, &str)] = &[
    (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/OVMF/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
    (
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
    (
        "/usr/share/qemu/ovmf-x86_64-code.bin",
        "/usr/share/qemu/ovmf-x86_64-vars.bin",
    ),
];

/// The first one that is installed.
pub fn find() -> Result<Ovmf> {
    PLACES
        .iter()
        .map(|(code, variables)| Ovmf {
            code: code.into(),
            variables: variables.into(),
        })
        .find(|ovmf| ovmf.code.exists() && ovmf.variables.exists())
        .ok_or_else(|| {
            Error::new("booting by UEFI")
                .cause("OVMF, the firmware for it, is not installed")
                .hint("on Debian and Ubuntu: apt-get install ovmf")
        })
}
