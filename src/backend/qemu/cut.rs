//! Cutting a running machine: its disk becomes immutable as it is now, an overlay takes its place, and the RAM of the
//! same moment is saved if wanted. The guest notices nothing but that time passes.

use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::accel::Chosen;
use super::memory::{self, Saved};
use super::{Machine, argv, firmware, image};
use crate::backend::{Backing, Firmware, Spec};
use crate::error::{Context, Result};
use crate::proc::Program;
use crate::source::Format;
use crate::store::Stamp;

/// Where the pieces of a cut go.
pub struct Cut<'c> {
    /// The disk that the machine goes on with, made by [`Machine::make_next`].
    pub next: &'c Path,
    /// A copy of UEFI's variables, if the machine has any.
    pub variables: &'c Path,
    /// The RAM, if it is to be saved.
    pub memory: Option<&'c Path>,
}

impl Machine {
    /// Makes the disk of `size` bytes that a cut goes on with. The machine is not touched.
    pub async fn make_next(&self, next: &Path, size: u64) -> Result<()> {
        let backing = Backing {
            path: self.disk.clone(),
            format: Format::Qcow2,
            size,
        };
        image::overlay_of_open(&backing, next).await
    }

    /// Cuts, with the next disk [made](Machine::make_next), and says how saving the RAM went, if that was wanted: the machine goes on without it. What the guest has not
    /// written to its disk yet is in the RAM only, so sync before.
    pub async fn cut(&mut self, cut: Cut<'_>) -> Result<Option<Result<Saved>>> {
        self.qmp.execute("stop", json!({})).await?;
        let name = format!("disk-{}", self.cuts + 1);
        let mut node = argv::disk_node(&name, cut.next);
        // QEMU puts the machine's present disk there.
        node["backing"] = json!(null);
        self.qmp.execute("blockdev-add", node).await?;
        let snapshot = json!({"node": self.node(), "overlay": name});
        self.qmp.execute("blockdev-snapshot", snapshot).await?;
        self.cuts += 1;
        self.disk = cut.next.to_owned();
        if let Some(variables) = &self.variables {
            std::fs::copy(variables, cut.variables)
                .doing(|| format!("copying {}", variables.display()))?;
        }
        let saved = match cut.memory {
            Some(path) => Some(memory::save(&mut self.qmp, path).await),
            None => None,
        };
        self.qmp.execute("cont", json!({})).await?;
        Ok(saved)
    }

    /// QEMU's name of the disk that the machine writes to.
    fn node(&self) -> String {
        match self.cuts {
            0 => "disk".into(),
            cuts => format!("disk-{cuts}"),
        }
    }
}

/// Saved memory may be restored where this is the same: QEMU's version, the machine's hardware, and the host's CPU where
/// the guest sees it.
pub async fn memory_key(spec: &Spec, accel: Chosen) -> Result<String> {
    let version = Program::new("qemu-system-x86_64").arg("--version").stdout();
    let version = version.await?;
    let ovmf = match spec.firmware {
        Firmware::Bios => None,
        Firmware::Uefi => Some(firmware::find()?),
    };
    // Its code is in the machine's address space, but not in its memory.
    let code = ovmf
        .as_ref()
        .map(|ovmf| Stamp::of_path(&ovmf.code))
        .transpose()?;
    let cpu = match accel {
        Chosen::Tcg => String::new(),
        Chosen::Kvm => host_cpu(),
    };
    let facts = json!([
        version,
        argv::hardware(spec, accel, ovmf.as_ref()),
        cpu,
        code
    ]);
    Ok(crate::text::hex(&Sha256::digest(facts.to_string())))
}

/// The model and the flags of the host's CPU.
fn host_cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = info.lines().take_while(|line| !line.is_empty());
    let wanted = [
        "vendor_id",
        "cpu family",
        "model",
        "stepping",
        "microcode",
        "flags",
    ];
    first
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
        .collect::<Vec<_>>()
        .join("\n")
}
