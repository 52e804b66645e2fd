//! What this machine needs to build.

use crate::backend::qemu::{accel, firmware, image};
use crate::error::{Error, Result};
use crate::finding::{Finding, State};
use crate::proc::Program;
use crate::store::{Dirs, Registry, space};
use crate::ui::bytes;

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
        Ok(version) => Finding {
            what: what.into(),
            state: State::Good,
            told: version,
        },
        Err(error) => Finding {
            what: what.into(),
            state: State::Missing,
            told: format!("{error}; on Debian and Ubuntu: apt-get install {package}"),
        },
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
        (Ok(system), Ok(tools)) if system == tools => Finding {
            what: what.into(),
            state: State::Good,
            told: "qemu-system and qemu-img are of one version".into(),
        },
        (Ok(system), Ok(tools)) => Finding {
            what: what.into(),
            state: State::Fair,
            told: format!(
                "qemu-system is {system}, qemu-img is {tools}; install both from one place"
            ),
        },
        _ => Finding {
            what: what.into(),
            state: State::Missing,
            told: "cannot be compared".into(),
        },
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
        Ok(true) => Finding {
            what: what.into(),
            state: State::Good,
            told: "qemu-img compresses with zstd".into(),
        },
        _ => Finding {
            what: what.into(),
            state: State::Fair,
            told: "qemu-img has no zstd: images are written uncompressed".into(),
        },
    }
}

fn kvm() -> Finding {
    let (state, told) = match accel::Host::probe().kvm() {
        Ok(()) => (State::Good, "hardware virtualisation works".into()),
        Err(why) => (
            State::Fair,
            format!("{why}; machines run under emulation, about ten times slower"),
        ),
    };
    Finding {
        what: "KVM".into(),
        state,
        told,
    }
}

fn uefi() -> Finding {
    let (state, told) = match firmware::find() {
        Ok(ovmf) => (State::Good, ovmf.code.display().to_string()),
        Err(error) => {
            let hint = error.get_hint().unwrap_or_default();
            (
                State::Fair,
                format!("{error}; needed for `firmware = \"uefi\"` only; {hint}"),
            )
        }
    };
    Finding {
        what: "UEFI firmware".into(),
        state,
        told,
    }
}

/// Whether it is whole, and says what is on the disk.
fn registry(dirs: &Dirs) -> Finding {
    let (state, told) = match Registry::check(dirs) {
        Ok(None) => (State::Good, "there is none yet".into()),
        Ok(Some(checked)) if checked.wrong.is_empty() => (
            State::Good,
            format!("{} versions, all there", checked.versions),
        ),
        Ok(Some(checked)) => (State::Fair, checked.wrong.join("; ")),
        Err(error) => {
            let hint = error.get_hint().unwrap_or_default();
            (State::Missing, format!("{error}; {hint}"))
        }
    };
    Finding {
        what: "registry".into(),
        state,
        told,
    }
}

fn room(dirs: &Dirs) -> Finding {
    let what = "free disk space";
    let existing = dirs.cache.ancestors().find(|path| path.exists());
    let free = existing.map(space::free);
    match free {
        Some(Ok(free)) => Finding {
            what: what.into(),
            state: if free < 4 << 30 {
                State::Fair
            } else {
                State::Good
            },
            told: format!("{} for {}", bytes(free), dirs.cache.display()),
        },
        _ => Finding {
            what: what.into(),
            state: State::Fair,
            told: format!("unknown for {}", dirs.cache.display()),
        },
    }
}
