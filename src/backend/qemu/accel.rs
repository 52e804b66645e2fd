//! Choosing the accelerator.

use std::path::Path;

use crate::backend::Accel;
use crate::error::{Error, Result};

/// An accelerator that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Chosen {
    Kvm,
    Tcg,
}

impl Chosen {
    /// QEMU's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Chosen::Kvm => "kvm",
            Chosen::Tcg => "tcg",
        }
    }
}

/// What this machine says about virtualisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The CPU has VT-x or AMD-V. A nested host may offer `/dev/kvm` without: guests then crash or crawl.
    pub cpu_flag: bool,
    /// Why `/dev/kvm` cannot be used, if so.
    pub device: std::result::Result<(), String>,
}

impl Host {
    /// Looks at this machine.
    pub fn probe() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let device = Path::new("/dev/kvm");
        let open = std::fs::File::options().read(true).write(true).open(device);
        Host {
            cpu_flag: has_flag(&info),
            device: open
                .map(drop)
                .map_err(|error| format!("{}: {error}", device.display())),
        }
    }

    /// Why KVM does not work here, if so.
    pub fn kvm(&self) -> std::result::Result<(), String> {
        self.device.clone()?;
        match self.cpu_flag {
            true => Ok(()),
            false => Err("/dev/kvm is there, but the CPU shows neither vmx nor svm".into()),
        }
    }
}

fn has_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

/// The accelerator for `wanted` on this host, and what to tell the user about it.
pub fn choose(wanted: Accel, host: &Host) -> Result<(Chosen, Option<String>)> {
    match (wanted, host.kvm()) {
        (Accel::Tcg, _) => Ok((Chosen::Tcg, None)),
        (Accel::Auto | Accel::Kvm, Ok(())) => Ok((Chosen::Kvm, None)),
        (Accel::Auto, Err(why)) => Ok((
            Chosen::Tcg,
            Some(format!("running under emulation, which is slow: {why}")),
        )),
        (Accel::Kvm, Err(why)) => Err(Error::new("using KVM").cause(why).hint(
            "set `[machine] accel = \"auto\"` to fall back to emulation, or see `imgbuild doctor`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(cpu_flag: bool, device: bool) -> Host {
        Host {
            cpu_flag,
            device: device.then_some(()).ok_or("/dev/kvm: no".into()),
        }
    }

    #[test]
    fn auto_is_not_fooled_by_a_device_without_the_cpu_flag() {
        let (chosen, told) = choose(Accel::Auto, &host(false, true)).unwrap();
        assert_eq!(chosen, Chosen::Tcg);
        assert!(told.unwrap().contains("neither vmx nor svm"));
        assert_eq!(
            choose(Accel::Auto, &host(true, true)).unwrap(),
            (Chosen::Kvm, None)
        );
        assert_eq!(
            choose(Accel::Auto, &host(true, false)).unwrap().0,
            Chosen::Tcg
        );
    }

    #[test]
    fn kvm_that_was_asked_for_is_not_silently_replaced() {
        choose(Accel::Kvm, &host(false, true)).unwrap_err();
    }

    #[test]
    fn flags_are_whole_words() {
        assert!(has_flag("flags\t\t: fpu vmx sse\n"));
        assert!(!has_flag("flags\t\t: fpu vmx_like sse\nmodel name: vmx\n"));
    }
}
