//! UEFI firmware from the system's `ovmf` package.

use std::path::{Path, PathBuf};

use crate::image;
use crate::vm::disk::Drive;

const FOLDER: &str = "/usr/share/OVMF";

/// The code, for a machine whose variables are on a disk.
pub fn code() -> PathBuf {
    Path::new(FOLDER).join("OVMF_CODE_4M.fd")
}

/// Makes an EFI disk have the variables that a new machine has.
pub async fn fill(path: &Path, drive: &Drive) -> Result<(), String> {
    let enrolled = drive.get("pre-enrolled-keys") == Some("1");
    let name = if enrolled {
        "OVMF_VARS_4M.ms.fd"
    } else {
        "OVMF_VARS_4M.fd"
    };
    let format = path.extension().unwrap_or_default().to_string_lossy();
    image::convert(&Path::new(FOLDER).join(name), "raw", path, &format).await
}
