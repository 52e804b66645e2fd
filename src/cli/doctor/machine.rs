//! What this machine needs to build.

use crate::backend::qemu::{accel, firmware, image};
use crate::error::{Error, Result};
use crate::finding::Finding;
use crate::proc::Program;
use crate::store::{Dirs, Registry, space};
use crate::ui::bytes;

/// Less free space than this is told, in bytes.
const SCARCE: u64 = 4 << 30;

/// Checks this machine.
pub async fn findings() -> Result<Vec<Finding>> {
    let dirs = Dirs::from_env()?;
    Ok(vec![
        program("qemu-system-x86_64", "qemu-system-x86").await,
        program("qemu-img", "qemu-utils").await,
        program("qemu-io", "qemu-utils").await,
        same_version().await,
        zstd(&dirs).await,
        kvm(),
        uefi(),
        room(&dirs),
        registry(&dirs),
    ])
}

async fn version(name: &str) -> Result<String> {
    let said = Program::new(name).arg("--version").stdout().await?;
    let first = said.lines().next().unwrap_or_default();
    let (_, version) = first.split_once("version ").unwrap_or(("", first));
    Ok(version.to_owned())
}

async fn program(what: &'static str, package: &str) -> Finding {
    match version(what).await {
        Ok(version) => Finding::good(what, version),
        Err(error) => Finding::missing(
            what,
            format!("{error}; on Debian and Ubuntu: apt-get install {package}"),
        ),
    }
}

/// A guest's disk that a newer qemu-img made may have features that an older QEMU does not know.
async fn same_version() -> Finding {
    let what = "QEMU versions";
    let (system, tools) = (
        version("qemu-system-x86_64").await,
        version("qemu-img").await,
    );
    match (system, tools) {
        (Ok(system), Ok(tools)) if system == tools => {
            Finding::good(what, "qemu-system and qemu-img are of one version")
        }
        (Ok(system), Ok(tools)) => Finding::fair(
            what,
            format!("qemu-system is {system}, qemu-img is {tools}; install both from one place"),
        ),
        _ => Finding::missing(what, "cannot be compared"),
    }
}

async fn zstd(dirs: &Dirs) -> Finding {
    let what = "zstd compression";
    let folder = dirs.work();
    let has_zstd = match std::fs::create_dir_all(&folder) {
        Ok(()) => image::has_zstd(&folder).await,
        Err(error) => Err(Error::new("creating a folder").cause(error)),
    };
    match has_zstd {
        Ok(true) => Finding::good(what, "qemu-img compresses with zstd"),
        _ => Finding::fair(
            what,
            "qemu-img has no zstd: images are written uncompressed",
        ),
    }
}

fn kvm() -> Finding {
    let what = "KVM";
    match accel::Host::probe().kvm() {
        Ok(()) => Finding::good(what, "hardware virtualisation works"),
        Err(why) => {
            let told = format!("{why}; machines run under emulation, about ten times slower");
            Finding::fair(what, told)
        }
    }
}

fn uefi() -> Finding {
    let what = "UEFI firmware";
    match firmware::find() {
        Ok(ovmf) => Finding::good(what, ovmf.code.display().to_string()),
        Err(error) => {
            let hint = error.get_hint().unwrap_or_default();
            let told = format!("{error}; needed for `firmware = \"uefi\"` only; {hint}");
            Finding::fair(what, told)
        }
    }
}

/// Whether it is whole, and says what is on the disk.
fn registry(dirs: &Dirs) -> Finding {
    let what = "registry";
    match Registry::check(dirs) {
        Ok(None) => Finding::good(what, "there is none yet"),
        Ok(Some(checked)) if checked.wrong.is_empty() => {
            Finding::good(what, format!("{} versions, all there", checked.versions))
        }
        Ok(Some(checked)) => Finding::fair(what, checked.wrong.join("; ")),
        Err(error) => {
            let hint = error.get_hint().unwrap_or_default();
            Finding::missing(what, format!("{error}; {hint}"))
        }
    }
}

fn room(dirs: &Dirs) -> Finding {
    let what = "free disk space";
    let existing = dirs.cache.ancestors().find(|path| path.exists());
    let Some(Ok(free)) = existing.map(space::free) else {
        return Finding::fair(what, format!("unknown for {}", dirs.cache.display()));
    };
    let told = format!("{} for {}", bytes(free), dirs.cache.display());
    match free < SCARCE {
        true => Finding::fair(what, told),
        false => Finding::good(what, told),
    }
}
