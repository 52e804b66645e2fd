//! UEFI firmware from the system's `ovmf` package.

use std::path::{Path, PathBuf};

use crate::image;
use crate::vm::Config;
use crate::vm::disk::Drive;

const FOLDER: &str = "/usr/share/OVMF";

/// The code, for a machine whose variables are on a disk. Debian's only knows Secure Boot where the processor has a mode that
/// the guest cannot get into; Proxmox's own does without.
pub fn code(config: &Config) -> PathBuf {
    let name = match is_secure(config) {
        true => "OVMF_CODE_4M.secboot.fd",
        false => "OVMF_CODE_4M.fd",
    };
    Path::new(FOLDER).join(name)
}

/// Whether what boots must be signed.
pub fn is_secure(config: &Config) -> bool {
    let disk = config.get("efidisk0").map(|disk| Drive::parse(disk));
    is_uefi(config) && disk.is_some_and(|disk| is_enrolled(&disk))
}

fn is_enrolled(disk: &Drive) -> bool {
    disk.get("pre-enrolled-keys") == Some("1")
}

/// The variables that a new machine has, without keys.
pub fn variables() -> PathBuf {
    Path::new(FOLDER).join("OVMF_VARS_4M.fd")
}

/// Whether the firmware is UEFI's.
pub fn is_uefi(config: &Config) -> bool {
    config.get("bios").is_some_and(|bios| bios == "ovmf")
}

/// Makes an EFI disk have the variables that a new machine has.
pub async fn fill(path: &Path, drive: &Drive) -> Result<(), String> {
    let from = match is_enrolled(drive) {
        true => Path::new(FOLDER).join("OVMF_VARS_4M.ms.fd"),
        false => variables(),
    };
    let format = path.extension().unwrap_or_default().to_string_lossy();
    image::convert(&from, "raw", path, &format).await
}
