use super::*;
use crate::backend::proxmox::machine::Origin;
use crate::backend::{Accel, Spec};

/// What a recipe that says nothing asks for.
pub fn hardware() -> Hardware {
    Hardware {
        pool: None,
        storage: None,
        bridge: None,
        cpu: "host".into(),
        board: Board::Q35,
        secure_boot: false,
        tpm: false,
        scsi_controller: SINGLE.into(),
        vga: DISPLAY.into(),
        rng: false,
        numa: false,
        template: Extras {
            disks: vec![],
            networks: None,
            hostpci: vec![],
            serial: true,
            balloon: None,
            on_boot: false,
            start_order: None,
            cloud_init_drive: true,
        },
    }
}

pub fn site() -> Site<'static> {
    Site {
        images: "fast",
        iso: "local",
        bridge: "vmbr1",
        vmids: 9000..=9000,
    }
}

pub fn spec(firmware: Firmware) -> Spec {
    Spec {
        cpus: 2,
        memory: (1536 << 20) - 1,
        firmware,
        accel: Accel::Auto,
        ssh_port: 22,
    }
}

pub fn lease() -> Lease {
    Lease {
        build: "20261125-142800-0a0b".into(),
        until: "2026-11-25T18:00:00Z".parse().unwrap(),
    }
}

fn made(firmware: Firmware, hardware: &Hardware) -> Vec<(&'static str, String)> {
    let spec = spec(firmware);
    let image = StoredImage {
        volume: "local:import/imgbuild-0a.qcow2".into(),
        digest: "0a".into(),
        size: 1,
    };
    let start = Start {
        spec: &spec,
        hardware,
        origin: Origin::Image(&image),
        disk: None,
        seed: &[],
        lease: lease(),
        description: "of a test",
    };
    parameters(9000, &start, &image, &site(), "local:iso/seed.iso")
}

fn value<'p>(parameters: &'p [(&str, String)], name: &str) -> Option<&'p str> {
    let found = parameters.iter().find(|(other, _)| *other == name);
    found.map(|(_, value)| value.as_str())
}

#[test]
fn a_machine_is_what_recipe_and_target_say() {
    let bios = made(Firmware::Bios, &hardware());
    for (name, expected) in [
        ("vmid", "9000"),
        ("name", "imgbuild-20261125-142800-0a0b"),
        ("machine", "q35"),
        ("cpu", "host"),
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
    for name in [
        "bios",
        "efidisk0",
        "tpmstate0",
        "vga",
        "rng0",
        "numa",
        "pool",
    ] {
        assert_eq!(value(&bios, name), None, "{name}");
    }
}

#[test]
fn what_is_chosen_becomes_a_parameter() {
    let chosen = Hardware {
        pool: Some("templates".into()),
        cpu: "x86-64-v2-AES".into(),
        board: Board::I440fx,
        tpm: true,
        scsi_controller: "virtio-scsi-pci".into(),
        vga: "serial0".into(),
        rng: true,
        numa: true,
        ..hardware()
    };
    let machine = made(Firmware::Bios, &chosen);
    for (name, expected) in [
        ("pool", "templates"),
        ("cpu", "x86-64-v2-AES"),
        ("machine", "pc"),
        ("tpmstate0", "fast:1,version=v2.0"),
        ("scsihw", "virtio-scsi-pci"),
        // No thread of its own: that controller has none for it.
        (
            "scsi0",
            "fast:0,import-from=local:import/imgbuild-0a.qcow2,discard=on",
        ),
        ("vga", "serial0"),
        ("rng0", "source=/dev/urandom"),
        ("numa", "1"),
    ] {
        assert_eq!(value(&machine, name), Some(expected));
    }
}

#[test]
fn uefi_has_a_disk_for_its_variables() {
    for (secure_boot, disk) in [
        (false, "fast:1,efitype=4m,pre-enrolled-keys=0"),
        (true, "fast:1,efitype=4m,pre-enrolled-keys=1"),
    ] {
        let chosen = Hardware {
            secure_boot,
            ..hardware()
        };
        let uefi = made(Firmware::Uefi, &chosen);
        assert_eq!(value(&uefi, "bios"), Some("ovmf"));
        assert_eq!(value(&uefi, "efidisk0"), Some(disk));
    }
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
