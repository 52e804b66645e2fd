//! What a VM's configuration can say: qemu-server's QemuServer.pm, QemuServer/Drive.pm, Network.pm, PCI.pm, RNG.pm, Machine.pm.

use crate::params::Kind::{Flag, Format, Integer, Number, OneOf, Properties as Property, Text};
use crate::params::{Kind, Param, dns_name, may, tags};
use crate::property::{self, Properties, first, has, of, plain};

const COUNT: Kind = Integer(0, i64::MAX);
const NAME: Kind = Text(100);
/// A property string of which nothing is known here.
const ANY: Kind = Text(4096);

pub const OPTIONS: &[Param] = &[
    may("acpi", Flag),
    may("affinity", Text(256)),
    may("agent", Property(&AGENT)),
    may("args", ANY),
    may("autostart", Flag),
    may("audio0", ANY),
    may("balloon", COUNT),
    may("bios", OneOf(&["seabios", "ovmf"])),
    may("boot", Property(&BOOT)),
    may("bootdisk", Text(32)),
    may("cicustom", ANY),
    may("cipassword", Text(1024)),
    may("citype", OneOf(&["configdrive2", "nocloud", "opennebula"])),
    may("ciupgrade", Flag),
    may("ciuser", Text(256)),
    may("cores", Integer(1, i64::MAX)),
    may("cpu", Format(cpu)),
    may("cpulimit", Number),
    may("cpuunits", Integer(1, 262_144)),
    may("description", Text(8192)),
    may("efidisk0", Property(&EFI_DISK)),
    may("freeze", Flag),
    may("hookscript", Text(512)),
    may("hostpci[15]", Property(&HOST_PCI)),
    may("hotplug", Text(256)),
    may("hugepages", OneOf(&["any", "2", "1024"])),
    may("ide[3]", Property(&IDE)),
    may("ipconfig[31]", ANY),
    may("ivshmem", ANY),
    may("keephugepages", Flag),
    may("keyboard", Text(8)),
    may("kvm", Flag),
    may("localtime", Flag),
    may("machine", Property(&MACHINE)),
    may("memory", ANY),
    may("name", Format(dns_name)),
    may("nameserver", ANY),
    may("net[31]", Property(&NETWORK)),
    may("numa", Flag),
    may("onboot", Flag),
    may("ostype", OneOf(OSTYPES)),
    may("protection", Flag),
    may("reboot", Flag),
    may("rng0", Property(&RNG)),
    may("sata[5]", Property(&SATA)),
    may("scsi[30]", Property(&SCSI)),
    may("scsihw", OneOf(SCSI_CONTROLLERS)),
    may("searchdomain", ANY),
    may("serial[3]", Format(serial)),
    may("shares", Integer(0, 50_000)),
    may("smbios1", Text(512)),
    may("sockets", Integer(1, i64::MAX)),
    may("sshkeys", Text(64 << 10)),
    may("startdate", Text(64)),
    may("startup", Format(startup)),
    may("tablet", Flag),
    may("tags", Format(tags)),
    may("template", Flag),
    may("tpmstate0", Property(&TPM_STATE)),
    may("unused[255]", ANY),
    may("vcpus", Integer(1, i64::MAX)),
    may("vga", Property(&VGA)),
    may("virtio[15]", Property(&VIRTIO)),
    may("vmgenid", Text(36)),
    may("vmstatestorage", NAME),
];

const OSTYPES: &[&str] = &[
    "other", "wxp", "w2k", "w2k3", "w2k8", "wvista", "win7", "win8", "win10", "win11", "l24",
    "l26", "solaris",
];
const SCSI_CONTROLLERS: &[&str] = &[
    "lsi",
    "lsi53c810",
    "virtio-scsi-pci",
    "virtio-scsi-single",
    "megasas",
    "pvscsi",
];

const AGENT: Properties = of(&[&[
    first("enabled", Flag),
    has("fstrim_cloned_disks", Flag),
    has("freeze-fs-on-backup", Flag),
    has("type", OneOf(&["virtio", "isa"])),
]]);
const BOOT: Properties = of(&[&[plain("legacy", Text(4)), has("order", Text(1024))]]);
const CPU: Properties = of(&[&[
    plain("cputype", Text(64)),
    has("flags", Text(1024)),
    has("guest-phys-bits", Integer(32, 64)),
    has("hidden", Flag),
    has("hv-vendor-id", Text(12)),
    has("phys-bits", Text(4)),
]]);
/// Those of x86-64 (qemu-server's QemuServer/CPUConfig.pm).
const CPU_TYPES: &str = "\
    486 athlon Broadwell Broadwell-IBRS Broadwell-noTSX Broadwell-noTSX-IBRS Cascadelake-Server
    Cascadelake-Server-noTSX Cascadelake-Server-v2 Cascadelake-Server-v4 Cascadelake-Server-v5 ClearwaterForest
    Conroe Cooperlake Cooperlake-v2 core2duo coreduo EPYC EPYC-Genoa EPYC-Genoa-v2 EPYC-IBPB EPYC-Milan
    EPYC-Milan-v2 EPYC-Milan-v3 EPYC-Rome EPYC-Rome-v2 EPYC-Rome-v3 EPYC-Rome-v4 EPYC-Rome-v5 EPYC-Turin EPYC-v3
    EPYC-v4 EPYC-v5 GraniteRapids GraniteRapids-v2 GraniteRapids-v3 Haswell Haswell-IBRS Haswell-noTSX
    Haswell-noTSX-IBRS host Icelake-Client Icelake-Client-noTSX Icelake-Server Icelake-Server-noTSX
    Icelake-Server-v3 Icelake-Server-v4 Icelake-Server-v5 Icelake-Server-v6 Icelake-Server-v7 IvyBridge
    IvyBridge-IBRS KnightsMill kvm32 kvm64 max Nehalem Nehalem-IBRS Opteron_G1 Opteron_G2 Opteron_G3 Opteron_G4
    Opteron_G5 Penryn pentium pentium2 pentium3 phenom qemu32 qemu64 SandyBridge SandyBridge-IBRS SapphireRapids
    SapphireRapids-v2 SapphireRapids-v3 SapphireRapids-v4 SierraForest SierraForest-v2 SierraForest-v3
    Skylake-Client Skylake-Client-IBRS Skylake-Client-noTSX-IBRS Skylake-Client-v4 Skylake-Server
    Skylake-Server-IBRS Skylake-Server-noTSX-IBRS Skylake-Server-v4 Skylake-Server-v5 Westmere Westmere-IBRS
    x86-64-v2 x86-64-v2-AES x86-64-v3 x86-64-v4";
const HOST_PCI: Properties = of(&[&[
    plain("host", Format(pci_address)),
    has("mapping", Format(config_id)),
    has("legacy-igd", Flag),
    has("mdev", Text(64)),
    has("pcie", Flag),
    has("rombar", Flag),
    has("romfile", Text(256)),
    has("x-vga", Flag),
]]);
const MACHINE: Properties = of(&[&[
    plain("type", Format(machine_type)),
    has("viommu", OneOf(&["intel", "virtio"])),
]]);
const RNG: Properties = of(&[&[
    first(
        "source",
        OneOf(&["/dev/urandom", "/dev/random", "/dev/hwrng"]),
    ),
    has("max_bytes", COUNT),
    has("period", COUNT),
]]);
const VGA: Properties = of(&[&[
    plain("type", OneOf(DISPLAYS)),
    has("clipboard", OneOf(&["vnc"])),
    has("memory", Integer(4, 512)),
]]);
const DISPLAYS: &[&str] = &[
    "cirrus",
    "qxl",
    "qxl2",
    "qxl3",
    "qxl4",
    "none",
    "serial0",
    "serial1",
    "serial2",
    "serial3",
    "std",
    "virtio",
    "virtio-gl",
    "vmware",
];

const NETWORK: Properties = Properties {
    all: &[&[
        first("model", OneOf(CARDS)),
        has("bridge", Format(bridge)),
        has("firewall", Flag),
        has("link_down", Flag),
        has("macaddr", Format(mac)),
        has("mtu", Integer(1, 65_520)),
        has("queues", Integer(0, 64)),
        has("rate", Number),
        has("tag", Integer(1, 4094)),
        has("trunks", Text(256)),
    ]],
    models: CARDS,
};
const CARDS: &[&str] = &[
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
];

const IMAGE_FORMATS: Kind = OneOf(&["raw", "qcow", "qed", "qcow2", "vmdk", "cloop"]);
/// What all drives have; limits of speed are left out.
const DRIVE: &[property::Property] = &[
    first("file", Text(512)),
    has("aio", OneOf(&["native", "threads", "io_uring"])),
    has("backup", Flag),
    has(
        "cache",
        OneOf(&["none", "writethrough", "writeback", "unsafe", "directsync"]),
    ),
    has("detect_zeroes", Flag),
    has("discard", OneOf(&["ignore", "on"])),
    has("format", IMAGE_FORMATS),
    has("import-from", Text(512)),
    has("media", OneOf(&["cdrom", "disk"])),
    has("replicate", Flag),
    has("rerror", OneOf(&["ignore", "report", "stop"])),
    has("serial", Text(60)),
    has("shared", Flag),
    has("size", Text(32)),
    has("snapshot", Flag),
    has("werror", OneOf(&["enospc", "ignore", "report", "stop"])),
];
const SSD: &[property::Property] = &[has("ssd", Flag), has("wwn", Text(18))];
const THREAD: &[property::Property] = &[has("iothread", Flag), has("ro", Flag)];
const IDE: Properties = of(&[DRIVE, SSD, &[has("model", Text(120))]]);
const SATA: Properties = of(&[DRIVE, SSD]);
const VIRTIO: Properties = of(&[DRIVE, THREAD]);
const SCSI: Properties = of(&[
    DRIVE,
    SSD,
    THREAD,
    &[
        has("product", Text(16)),
        has("queues", Integer(2, i64::MAX)),
        has("scsiblock", Flag),
        has("vendor", Text(8)),
    ],
]);
const FIRMWARE_DISK: &[property::Property] = &[
    first("file", Text(512)),
    has("format", IMAGE_FORMATS),
    has("import-from", Text(512)),
    has("size", Text(32)),
];
const EFI_DISK: Properties = of(&[
    FIRMWARE_DISK,
    &[
        has("efitype", OneOf(&["2m", "4m"])),
        has("ms-cert", OneOf(&["2011", "2023", "2023w", "2023k"])),
        has("pre-enrolled-keys", Flag),
    ],
]);
const TPM_STATE: Properties = of(&[FIRMWARE_DISK, &[has("version", OneOf(&["v1.2", "v2.0"]))]]);

fn fits(is_right: bool) -> Result<(), String> {
    match is_right {
        true => Ok(()),
        false => Err("value does not match the regex pattern".into()),
    }
}

fn cpu(value: &str) -> Result<(), String> {
    CPU.check("cpu", value)?;
    let kind = value
        .split(',')
        .find_map(|part| match part.split_once('=') {
            Some(("cputype", kind)) => Some(kind),
            Some(_) => None,
            None => Some(part),
        });
    let is_known = |kind: &str| {
        kind.starts_with("custom-") || CPU_TYPES.split_whitespace().any(|it| it == kind)
    };
    match kind.filter(|kind| !is_known(kind)) {
        Some(kind) => Err(format!(
            "invalid format - Built-in cputype '{kind}' is not defined (missing 'custom-' prefix?)\n"
        )),
        None => Ok(()),
    }
}

fn serial(value: &str) -> Result<(), String> {
    fits(value == "socket" || value.starts_with("/dev/"))
}

fn machine_type(value: &str) -> Result<(), String> {
    let versions = ["pc-i440fx-", "pc-q35-", "pc-"];
    let is_version = versions.iter().any(|stem| {
        value
            .strip_prefix(stem)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    fits(["pc", "q35", "virt"].contains(&value) || is_version)
}

/// `01:00.0`, perhaps with a domain before it; several with `;` between them.
fn pci_address(value: &str) -> Result<(), String> {
    let hex = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_one = |address: &str| {
        let parts: Vec<&str> = address.split([':', '.']).collect();
        (2..=4).contains(&parts.len()) && address.contains(':') && parts.into_iter().all(hex)
    };
    fits(value.split(';').all(is_one))
}

fn config_id(value: &str) -> Result<(), String> {
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_one = value.starts_with(|c: char| c.is_ascii_alphabetic()) && value.chars().all(known);
    match is_one && value.len() > 1 {
        true => Ok(()),
        false => Err(format!(
            "invalid format - invalid configuration ID '{value}'\n"
        )),
    }
}

fn bridge(value: &str) -> Result<(), String> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match value.chars().all(known) {
        true => Ok(()),
        false => Err(format!("invalid format - invalid bridge ID '{value}'\n")),
    }
}

/// An address of one card, not of a group.
fn mac(value: &str) -> Result<(), String> {
    let bytes: Vec<Option<u8>> = value
        .split(':')
        .map(|part| {
            u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| part.len() == 2)
        })
        .collect();
    match (bytes.len(), bytes.first()) {
        (6, Some(Some(first))) if first & 1 == 0 && bytes.iter().all(Option::is_some) => Ok(()),
        _ => Err("invalid format - value does not look like a valid unicast MAC address\n".into()),
    }
}

fn startup(value: &str) -> Result<(), String> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_part = |part: &str| match part.split_once('=') {
        Some(("order" | "up" | "down", value)) => number(value),
        Some(_) => false,
        None => number(part),
    };
    match value.split(',').all(is_part) {
        true => Ok(()),
        false => Err("invalid format - unable to parse startup options\n".into()),
    }
}
