//! UEFI firmware from the system's `ovmf` package.

use std::path::{Path, PathBuf};

use crate::image;
use crate::vm::Config;
use crate::vm::disk::Drive;

const FOLDER: &str = "/usr/share/OVMF";

/// The code, for a machine whose variables are on a disk.
pub fn code() -> PathBuf {
    Path::new(FOLDER).join("OVMF_CODE_4M.fd")
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
    let enrolled = drive.get("pre-enrolled-keys") == Some("1");
    let from = match enrolled {
        true => Path::new(FOLDER).join("OVMF_VARS_4M.ms.fd"),
        false => variables(),
    };
    let format = path.extension().unwrap_or_default().to_string_lossy();
    image::convert(&from, "raw", path, &format).await
}
