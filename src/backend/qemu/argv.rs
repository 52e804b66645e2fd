//! QEMU's command line, made by pure functions.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::accel::Chosen;
use super::firmware::Ovmf;
use crate::backend::Spec;

/// Everything that the command line depends on.
pub struct Inputs<'i> {
    pub spec: &'i Spec,
    /// Found again by this word in the process list.
    pub word: &'i str,
    pub accel: Chosen,
    /// UEFI's code and this machine's variables; none for BIOS.
    pub ovmf: Option<(&'i Ovmf, &'i Path)>,
    pub disk: &'i Path,
    pub seed: &'i Path,
    pub console: &'i Path,
    /// Inherited socket for QMP.
    pub qmp_fd: i32,
    /// Inherited socket for the guest agent's channel.
    pub agent_fd: i32,
    /// Wait for the content of the memory instead of booting.
    pub waits_for_memory: bool,
}

/// What decides whether saved memory fits a machine: its command line without what is different for each one.
pub fn hardware(spec: &Spec, accel: Chosen, ovmf: Option<&Ovmf>) -> String {
    let place = Path::new("");
    argv(&Inputs {
        spec,
        word: "",
        accel,
        ovmf: ovmf.map(|ovmf| (ovmf, place)),
        disk: place,
        seed: place,
        console: place,
        qmp_fd: 0,
        agent_fd: 0,
        waits_for_memory: false,
    })
    .join(" ")
}

/// The whole command line.
pub fn argv(inputs: &Inputs<'_>) -> Vec<String> {
    let parts = [
        identity_args(inputs.word),
        cpu_args(inputs.spec, inputs.accel),
        firmware_args(inputs.ovmf),
        disk_args(inputs.disk, inputs.seed),
        network_args(inputs.spec.ssh_port),
        channel_args(inputs.console, inputs.qmp_fd, inputs.agent_fd),
        words(if inputs.waits_for_memory {
            "-S -incoming defer"
        } else {
            ""
        }),
    ];
    parts.into_iter().flatten().collect()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn identity_args(word: &str) -> Vec<String> {
    let mut args = words(
        "-nodefaults -no-user-config -display none \
         -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    args.extend(["-name".into(), word.into()]);
    // Tells cloud-init's datasource search to look for NoCloud only.
    args.extend(["-smbios".into(), "type=1,serial=ds=nocloud".into()]);
    args
}

fn cpu_args(spec: &Spec, accel: Chosen) -> Vec<String> {
    let (accel, cpu) = match accel {
        Chosen::Kvm => ("kvm", "host"),
        Chosen::Tcg => ("tcg,thread=multi", "max"),
    };
    let memory = spec.memory >> 20;
    words(&format!(
        "-accel {accel} -cpu {cpu} -smp {} -m {memory}M -device virtio-rng-pci -device pvpanic \
         -device virtio-balloon-pci,free-page-reporting=on",
        spec.cpus
    ))
}

fn firmware_args(ovmf: Option<(&Ovmf, &Path)>) -> Vec<String> {
    let Some((ovmf, vars)) = ovmf else {
        return words("-machine q35");
    };
    let mut args = words("-machine q35,pflash0=firmware,pflash1=variables");
    args.extend(blockdev(json!({
        "driver": "raw", "node-name": "firmware", "read-only": true,
        "file": {"driver": "file", "filename": ovmf.code},
    })));
    args.extend(blockdev(json!({
        "driver": "raw", "node-name": "variables",
        "file": {"driver": "file", "filename": vars},
    })));
    args
}

fn disk_args(disk: &Path, seed: &Path) -> Vec<String> {
    let mut args = blockdev(disk_node("disk", disk));
    args.extend(blockdev(json!({
        "driver": "raw", "node-name": "seed", "read-only": true,
        "file": {"driver": "file", "filename": seed},
    })));
    // Firmware that tries the seed first can hang on it.
    args.extend(words(
        "-device virtio-blk-pci,drive=disk,bootindex=0 -device virtio-blk-pci,drive=seed",
    ));
    args
}

/// The node of a machine's own disk. The overlay is thrown away when the host crashes, so the guest's flushes need not
/// reach the host's disk: that is what makes a package manager's many syncs cheap.
pub fn disk_node(name: &str, disk: &Path) -> serde_json::Value {
    json!({
        "driver": "qcow2", "node-name": name, "discard": "unmap", "detect-zeroes": "unmap",
        "cache": {"no-flush": true},
        "file": {
            "driver": "file", "filename": disk, "discard": "unmap", "cache": {"no-flush": true},
        },
    })
}

fn blockdev(node: serde_json::Value) -> Vec<String> {
    vec!["-blockdev".into(), node.to_string()]
}

fn network_args(ssh_port: u16) -> Vec<String> {
    // Port 0: the kernel chooses a free one when QEMU binds it, so nobody can take it in between.
    words(&format!(
        "-netdev user,id=net,hostfwd=tcp:127.0.0.1:0-:{ssh_port} \
         -device virtio-net-pci,netdev=net,romfile="
    ))
}

fn channel_args(console: &Path, qmp_fd: i32, agent_fd: i32) -> Vec<String> {
    let mut args = vec!["-chardev".into()];
    args.push(format!(
        "file,id=console,append=on,path={}",
        escaped(console)
    ));
    args.extend(words(&format!(
        "-serial chardev:console \
         -chardev socket,id=qmp,fd={qmp_fd} -mon chardev=qmp,mode=control \
         -device virtio-serial-pci -chardev socket,id=agent,fd={agent_fd} \
         -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0"
    )));
    args
}

/// In QEMU's `key=value,…` syntax a comma is written twice.
fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The command line that makes an overlay.
pub fn create_overlay(backing: &crate::backend::Backing, overlay: &Path) -> Vec<PathBuf> {
    let mut args: Vec<PathBuf> = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        backing.format.name(),
        "-b",
    ]
    .map(PathBuf::from)
    .into();
    args.push(backing.path.clone());
    args.push(overlay.to_owned());
    args.push(backing.size.to_string().into());
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Accel, Firmware};

    fn line(ovmf: Option<(&Ovmf, &Path)>, accel: Chosen) -> String {
        let spec = Spec {
            cpus: 3,
            memory: 1536 << 20,
            firmware: Firmware::Bios,
            accel: Accel::Auto,
            ssh_port: 2222,
        };
        argv(&Inputs {
            spec: &spec,
            word: "imgbuild-x",
            accel,
            ovmf,
            disk: Path::new("/w/disk,1"),
            seed: Path::new("/w/seed"),
            console: Path::new("/w/con,sole"),
            qmp_fd: 7,
            agent_fd: 8,
            waits_for_memory: false,
        })
        .join(" ")
    }

    #[test]
    fn ssh_is_forwarded_on_loopback_only_and_the_kernel_picks_the_port() {
        let line = line(None, Chosen::Tcg);
        assert!(line.contains("hostfwd=tcp:127.0.0.1:0-:2222"), "{line}");
    }

    #[test]
    fn commas_in_paths_do_not_end_an_option() {
        let line = line(None, Chosen::Tcg);
        assert!(line.contains("path=/w/con,,sole"), "{line}");
        assert!(line.contains(r#""filename":"/w/disk,1""#), "{line}");
    }

    #[test]
    fn the_accelerator_decides_the_cpu() {
        assert!(line(None, Chosen::Kvm).contains("-accel kvm -cpu host -smp 3 -m 1536M"));
        assert!(line(None, Chosen::Tcg).contains("-accel tcg,thread=multi -cpu max"));
    }

    #[test]
    fn uefi_gets_its_code_read_only_and_variables_of_its_own() {
        let ovmf = Ovmf {
            code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
            variables: "/usr/share/OVMF/OVMF_VARS_4M.fd".into(),
        };
        let line = line(Some((&ovmf, Path::new("/w/vars"))), Chosen::Tcg);
        assert!(
            line.contains("q35,pflash0=firmware,pflash1=variables"),
            "{line}"
        );
        assert!(line.contains(r#""filename":"/w/vars""#), "{line}");
        assert!(
            !line.contains("OVMF_VARS"),
            "the template must not be written to: {line}"
        );
    }

    #[test]
    fn the_hardware_is_what_the_guest_sees_and_not_where_its_files_are() {
        let spec = |cpus, memory| Spec {
            cpus,
            memory,
            firmware: Firmware::Bios,
            accel: Accel::Auto,
            ssh_port: 22,
        };
        let hardware = |cpus, mib: u64, accel| hardware(&spec(cpus, mib << 20), accel, None);
        let first = hardware(2, 1024, Chosen::Tcg);
        assert_eq!(hardware(2, 1024, Chosen::Tcg), first);
        for other in [
            hardware(3, 1024, Chosen::Tcg),
            hardware(2, 1025, Chosen::Tcg),
            hardware(2, 1024, Chosen::Kvm),
        ] {
            assert_ne!(other, first);
        }
        assert!(
            !first.contains("/w/") && !first.contains("incoming"),
            "{first}"
        );
    }
}
