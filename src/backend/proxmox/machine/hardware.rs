//! What a machine is made of, in Proxmox VE's words.

use super::site::Site;
use super::{Lease, Start};
use crate::backend::Firmware;
use crate::backend::proxmox::StoredImage;

/// The machine's disk. SCSI, since only that controller passes on which blocks are not needed any more.
pub const DISK: &str = "scsi0";

/// The drive that the seed is in.
pub const SEED: &str = "scsi1";

/// A volume in a CD drive.
pub fn cd(volume: &str) -> String {
    format!("{volume},media=cdrom")
}

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// The parameters of the call that creates a machine.
pub fn parameters(
    vmid: u32,
    start: &Start<'_>,
    image: &StoredImage,
    site: &Site<'_>,
    seed: &str,
) -> Vec<(&'static str, String)> {
    let spec = start.spec;
    let (images, bridge) = (site.images, site.bridge);
    let image = &image.volume;
    let mut parameters = vec![
        ("vmid", vmid.to_string()),
        ("name", Lease::name(&start.lease.build)),
        ("tags", start.lease.tags()),
        ("description", start.description.to_owned()),
        ("ostype", "l26".into()),
        ("machine", "q35".into()),
        // All that the node's processor can: the machine is neither moved nor kept.
        ("cpu", "host".into()),
        ("cores", spec.cpus.to_string()),
        ("memory", spec.memory.div_ceil(MIB).to_string()),
        ("scsihw", "virtio-scsi-single".into()),
        // The size must be 0: it is that of the image.
        (
            DISK,
            format!("{images}:0,import-from={image},discard=on,iothread=1"),
        ),
        (SEED, cd(seed)),
        ("boot", format!("order={DISK}")),
        ("net0", format!("virtio,bridge={bridge}")),
        ("serial0", "socket".into()),
        ("agent", "enabled=1".into()),
    ];
    if spec.firmware == Firmware::Uefi {
        parameters.push(("bios", "ovmf".into()));
        // Keys would turn on Secure Boot, which not every image can.
        let disk = format!("{images}:1,efitype=4m,pre-enrolled-keys=0");
        parameters.push(("efidisk0", disk));
    }
    parameters
}

/// The size in bytes that a configuration says of a disk: `local:9000/vm-9000-disk-0.qcow2,size=2G`.
pub fn size(disk: &str) -> Option<u64> {
    let size = disk
        .split(',')
        .find_map(|option| option.strip_prefix("size="))?;
    let (number, shift) = match size.as_bytes().last()? {
        b'K' => (&size[..size.len() - 1], 10),
        b'M' => (&size[..size.len() - 1], 20),
        b'G' => (&size[..size.len() - 1], 30),
        b'T' => (&size[..size.len() - 1], 40),
        _ => (size, 0),
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::proxmox::machine::Origin;
    use crate::backend::{Accel, Spec};

    fn made(firmware: Firmware) -> Vec<(&'static str, String)> {
        let spec = Spec {
            cpus: 2,
            memory: (1536 << 20) - 1,
            firmware,
            accel: Accel::Auto,
            ssh_port: 22,
        };
        let image = StoredImage {
            volume: "local:import/imgbuild-0a.qcow2".into(),
            digest: "0a".into(),
            size: 1,
        };
        let start = Start {
            spec: &spec,
            origin: Origin::Image(&image),
            disk: None,
            seed: &[],
            lease: Lease {
                build: "20261125-142800-0a0b".into(),
                until: "2026-11-25T18:00:00Z".parse().unwrap(),
            },
            description: "of a test",
        };
        let site = Site {
            images: "fast",
            iso: "local",
            bridge: "vmbr1",
            vmids: 9000..=9000,
        };
        parameters(9000, &start, &image, &site, "local:iso/seed.iso")
    }

    fn value<'p>(parameters: &'p [(&str, String)], name: &str) -> Option<&'p str> {
        let found = parameters.iter().find(|(other, _)| *other == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_machine_is_what_recipe_and_target_say() {
        let bios = made(Firmware::Bios);
        for (name, expected) in [
            ("vmid", "9000"),
            ("name", "imgbuild-20261125-142800-0a0b"),
            ("cores", "2"),
            // Never less than was asked for.
            ("memory", "1536"),
            (
                "scsi0",
                "fast:0,import-from=local:import/imgbuild-0a.qcow2,discard=on,iothread=1",
            ),
            ("scsi1", "local:iso/seed.iso,media=cdrom"),
            ("net0", "virtio,bridge=vmbr1"),
        ] {
            assert_eq!(value(&bios, name), Some(expected));
        }
        assert_eq!(value(&bios, "bios"), None);
        assert_eq!(value(&bios, "efidisk0"), None);
    }

    #[test]
    fn uefi_has_a_disk_for_its_variables() {
        let uefi = made(Firmware::Uefi);
        assert_eq!(value(&uefi, "bios"), Some("ovmf"));
        let disk = "fast:1,efitype=4m,pre-enrolled-keys=0";
        assert_eq!(value(&uefi, "efidisk0"), Some(disk));
    }

    #[test]
    fn sizes_are_read() {
        for (disk, expected) in [
            ("local:9000/vm-9000-disk-0.qcow2,size=2G", Some(2 << 30)),
            ("a:b,size=528K,discard=on", Some(528 << 10)),
            ("a:b,size=2252M", Some(2252 << 20)),
            ("a:b,size=1T", Some(1 << 40)),
            ("a:b,size=512", Some(512)),
            ("a:b,size=", None),
            ("a:b,size=G", None),
            ("a:b,size=99999999999999999T", None),
            ("a:b", None),
        ] {
            assert_eq!(size(disk), expected, "{disk}");
        }
    }
}
