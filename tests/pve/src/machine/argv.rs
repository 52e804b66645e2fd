//! QEMU's command line.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::machine::firmware;
use crate::vm::Config;
use crate::vm::disk::{Drive, is_drive};
use crate::vm::rights::property;

/// What a machine is made of.
pub struct Spec {
    pub config: Config,
    /// Bytes.
    pub memory: u64,
    /// Files behind the drives of the configuration, by key, with their formats.
    pub files: Vec<(String, PathBuf, String)>,
    pub network: Network,
}

/// Where the guest's port 22 is found.
pub struct Network {
    pub address: Ipv4Addr,
    pub port: u16,
}

impl Spec {
    pub fn get(&self, key: &str) -> &str {
        self.config.get(key).map_or("", String::as_str)
    }

    fn number(&self, key: &str) -> u32 {
        self.get(key).parse().unwrap_or(1)
    }
}

/// The name of a drive's block node.
pub fn node(key: &str) -> String {
    format!("drive-{key}")
}

/// The whole command line. `folder` has the sockets and the consoles.
pub fn argv(spec: &Spec, folder: &Path) -> Vec<String> {
    let mut args = words("-nodefaults -no-user-config -display none");
    args.extend([
        "-name".into(),
        format!("pve-lab-{}", folder.display()).replace(',', ",,"),
    ]);
    args.extend(board_args(spec));
    args.extend(firmware_args(spec));
    args.extend(drive_args(spec));
    args.extend(network_args(spec));
    args.extend(channel_args(spec, folder));
    args.extend(tpm_args(spec, folder));
    args
}

/// The socket at which a machine's TPM is expected, if it has one.
pub fn tpm(spec: &Spec, folder: &Path) -> Option<PathBuf> {
    let has_one = !spec.get("tpmstate0").is_empty();
    has_one.then(|| folder.join("tpm"))
}

fn tpm_args(spec: &Spec, folder: &Path) -> Vec<String> {
    let Some(socket) = tpm(spec, folder) else {
        return vec![];
    };
    let socket = socket.to_string_lossy().replace(',', ",,");
    let mut args = vec!["-chardev".into(), format!("socket,id=tpm,path={socket}")];
    args.extend(words(
        "-tpmdev emulator,id=tpm0,chardev=tpm -device tpm-tis,tpmdev=tpm0",
    ));
    args
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn board_args(spec: &Spec) -> Vec<String> {
    let machine = match spec.get("machine").contains("q35") {
        true => "q35",
        false => "pc",
    };
    let smm = match firmware::is_secure(&spec.config) {
        true => ",smm=on",
        false => "",
    };
    let accel = match kvm() {
        true => "-accel kvm -cpu host",
        false => "-accel tcg,thread=multi -cpu max",
    };
    let memory = spec.memory >> 20;
    let cpus = spec.number("cores") * spec.number("sockets");
    let mut args = words(&format!(
        "-machine {machine}{smm} {accel} -smp {cpus} -m {memory}M"
    ));
    if let Some(uuid) = property(spec.get("smbios1"), "uuid") {
        args.extend(words(&format!("-uuid {uuid}")));
    }
    if !spec.get("vmgenid").is_empty() {
        args.extend(words(&format!(
            "-device vmgenid,guid={}",
            spec.get("vmgenid")
        )));
    }
    // A display that is not asked for would only be slow.
    match spec.get("vga").split(',').next() {
        Some("std") => args.extend(words("-device VGA")),
        Some("virtio") => args.extend(words("-device virtio-vga")),
        _ => {}
    }
    if !spec.get("rng0").is_empty() {
        args.extend(words("-device virtio-rng-pci"));
    }
    args
}

/// On x86 the device may be there though the processor cannot.
fn kvm() -> bool {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let can = cpu
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm");
    can && std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

fn drive_args(spec: &Spec) -> Vec<String> {
    let controller = match spec.get("scsihw") {
        "lsi" => "lsi53c895a",
        "lsi53c810" => "lsi53c810",
        "megasas" => "megasas",
        "pvscsi" => "pvscsi",
        _ => "virtio-scsi-pci",
    };
    let mut args = words(&format!(
        "-device {controller},id=scsihw0 -device ahci,id=ahci0"
    ));
    for (key, path, format) in &spec.files {
        let drive = Drive::parse(spec.get(key));
        if key == "efidisk0" || key == "tpmstate0" {
            continue;
        }
        let block = block(key, &drive, path, format);
        args.extend(["-blockdev".into(), block.to_string()]);
        if let Some(mut device) = device(key, &drive, spec.get("machine").contains("q35")) {
            if let Some(index) = boot_index(spec, key) {
                device["bootindex"] = json!(index);
            }
            args.extend(["-device".into(), device.to_string()]);
        }
    }
    args
}

/// The file of a drive, as QEMU is to open it.
pub fn block(key: &str, drive: &Drive, path: &Path, format: &str) -> Value {
    let fixed = drive.is_cdrom() || drive.get("ro") == Some("1");
    // What a test's guest flushes need not reach the host's disk.
    let cache = json!({"no-flush": true});
    json!({
        "driver": format, "node-name": node(key), "read-only": fixed, "discard": "unmap",
        "cache": cache, "file": {"driver": "file", "filename": path, "cache": cache},
    })
}

fn firmware_args(spec: &Spec) -> Vec<String> {
    if !firmware::is_uefi(&spec.config) {
        return vec![];
    }
    let disk = spec.files.iter().find(|(key, ..)| key == "efidisk0");
    let mut args = vec![
        "-drive".into(),
        flash(0, &firmware::code(&spec.config), "raw", "readonly=on"),
    ];
    if firmware::is_secure(&spec.config) {
        args.extend(words(
            "-global driver=cfi.pflash01,property=secure,value=on",
        ));
    }
    args.push("-drive".into());
    args.push(match disk {
        Some((_, path, format)) => flash(1, path, format, "snapshot=off"),
        // Changes are lost with the machine.
        None => flash(1, &firmware::variables(), "raw", "snapshot=on"),
    });
    args
}

fn flash(unit: u8, path: &Path, format: &str, how: &str) -> String {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("if=pflash,unit={unit},format={format},{how},file={path}")
}

/// What the guest sees of a drive.
pub fn device(key: &str, drive: &Drive, q35: bool) -> Option<Value> {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    let n: u32 = key[stem.len()..].parse().ok()?;
    let kind = if drive.is_cdrom() { "cd" } else { "hd" };
    let mut device = match stem {
        // A guest knows its SCSI disks by this name.
        "scsi" => json!({
            "driver": format!("scsi-{kind}"), "bus": "scsihw0.0", "scsi-id": n / 8, "lun": n % 8,
            "device_id": node(key),
        }),
        "virtio" => json!({"driver": "virtio-blk-pci"}),
        "sata" => json!({"driver": format!("ide-{kind}"), "bus": format!("ahci0.{n}")}),
        "ide" if q35 => json!({"driver": format!("ide-{kind}"), "bus": format!("ide.{n}")}),
        "ide" => json!({
            "driver": format!("ide-{kind}"), "bus": format!("ide.{}", n / 2), "unit": n % 2,
        }),
        _ => return None,
    };
    device["id"] = json!(key);
    device["drive"] = json!(node(key));
    Some(device)
}

/// The place in `boot: order=…`; without one the first disk is first.
pub fn boot_index(spec: &Spec, key: &str) -> Option<usize> {
    match property(spec.get("boot"), "order") {
        Some(order) => order.split(';').position(|it| it == key).map(|at| at + 1),
        None => {
            let disk = |key: &&String| is_drive(key) && !Drive::parse(spec.get(key)).is_cdrom();
            let first = spec
                .config
                .keys()
                .filter(|key| !key.starts_with("efi"))
                .find(disk)?;
            (first == key).then_some(1)
        }
    }
}

fn network_args(spec: &Spec) -> Vec<String> {
    let mut args = vec![];
    for (key, value) in spec.config.iter().filter(|(key, _)| key.starts_with("net")) {
        let model = value.split(',').next().unwrap_or_default();
        let (model, mac) = model
            .split_once('=')
            .unwrap_or((model, "52:54:00:12:34:56"));
        let device = if model == "virtio" {
            "virtio-net-pci"
        } else {
            model
        };
        let forward = match key.as_str() {
            "net0" => format!(
                ",hostfwd=tcp:{}:{}-:22",
                spec.network.address, spec.network.port
            ),
            _ => String::new(),
        };
        args.extend(words(&format!(
            "-netdev user,id={key}{forward} -device {device},netdev={key},mac={mac},romfile="
        )));
    }
    args
}

fn channel_args(spec: &Spec, folder: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).to_string_lossy().replace(',', ",,");
    let mut args = vec![
        "-chardev".into(),
        format!("socket,id=qmp,path={}", path("qmp")),
    ];
    args.extend(words("-mon chardev=qmp,mode=control"));
    args.extend([
        "-chardev".into(),
        format!("socket,id=agent,path={}", path("agent")),
    ]);
    if has_agent(&spec.config) {
        args.extend(words(
            "-device virtio-serial-pci -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        ));
    }
    for key in spec.config.keys().filter(|key| key.starts_with("serial")) {
        // What is said while nobody is connected is lost to all but the file.
        args.extend([
            "-chardev".into(),
            format!(
                "socket,id={key},server=on,wait=off,path={}.socket,logfile={0},logappend=on",
                path(key)
            ),
        ]);
        args.extend(words(&format!("-serial chardev:{key}")));
    }
    args
}

/// Whether the configuration says that there is an agent.
pub fn has_agent(config: &Config) -> bool {
    let value = config.get("agent").map_or("", String::as_str);
    value
        .split(',')
        .any(|part| part == "1" || part == "enabled=1")
}
