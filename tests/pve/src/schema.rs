//! The parameters of the calls, as Proxmox publishes them for its API (`pvesh usage`, the API viewer), as far as they are used.
//! Those of configurations are in `options`.

use crate::params::Kind::{self, Flag, Format, Integer, List, OneOf, Text};
use crate::params::{Param, dns_name, may, must};

const VMID: Kind = Format(vmid);
const COUNT: Kind = Integer(0, i64::MAX);
const NAME: Kind = Text(100);

pub const ON_NODE: &[Param] = &[must("node", Text(63))];
pub const ON_STORE: &[Param] = &[must("node", Text(63)), must("storage", NAME)];
pub const ON_VOLUME: &[Param] = &[
    must("node", Text(63)),
    must("storage", NAME),
    must("volume", Text(512)),
    may("delay", Integer(1, 30)),
];
pub const ON_VM: &[Param] = &[must("node", Text(63)), must("vmid", VMID)];
pub const ON_TASK: &[Param] = &[must("node", Text(63)), must("upid", Text(512))];

pub const LOGIN: &[Param] = &[
    must("username", Text(64)),
    must("password", Text(4096)),
    may("realm", Text(32)),
];
pub const PERMISSIONS: &[Param] = &[may("path", Text(512)), may("userid", Text(64))];
pub const NEXT_ID: &[Param] = &[may("vmid", VMID)];
pub const RESOURCES: &[Param] = &[may("type", OneOf(&["vm", "storage", "node", "sdn"]))];
pub const NETWORK: &[Param] = &[may("type", Text(32))];

pub const POOL: &[Param] = &[may("poolid", Text(64)), may("type", Text(16))];
pub const POOL_CREATE: &[Param] = &[must("poolid", Text(64)), may("comment", Text(256))];
pub const POOL_UPDATE: &[Param] = &[
    must("poolid", Text(64)),
    may("vms", Text(4096)),
    may("delete", Flag),
    may("allow-move", Flag),
    may("comment", Text(256)),
];

pub const STORAGES: &[Param] = &[
    may("storage", NAME),
    may("content", Format(content_types)),
    may("enabled", Flag),
    may("target", Text(63)),
    may("format", Flag),
];
pub const CONTENT: &[Param] = &[may("content", Format(content_types)), may("vmid", VMID)];
pub const ALLOCATE: &[Param] = &[
    must("filename", Text(255)),
    must("vmid", VMID),
    must("size", Text(32)),
    may("format", OneOf(&["raw", "qcow2", "subvol", "vmdk"])),
];
pub const FILE: &[Param] = &[
    must("content", OneOf(&["iso", "vztmpl", "import"])),
    must("filename", Text(255)),
    may("checksum", Text(255)),
    may(
        "checksum-algorithm",
        OneOf(&["md5", "sha1", "sha224", "sha256", "sha384", "sha512"]),
    ),
];
pub const URL: &[Param] = &[
    must("url", Format(http_url)),
    may("verify-certificates", Flag),
];
pub const COMPRESSION: &[Param] = &[may("compression", OneOf(&["gz", "lzo", "zst", "bz2"]))];

pub const TASK_FILTER: &[Param] = &[
    may("source", OneOf(&["archive", "active", "all"])),
    may("vmid", VMID),
    may("typefilter", Text(64)),
    may("since", COUNT),
    may("start", COUNT),
    may("limit", COUNT),
];
pub const LOG: &[Param] = &[may("start", COUNT), may("limit", COUNT)];

pub const LIST: &[Param] = &[may("full", Flag)];
pub const DESTROY: &[Param] = &[
    may("purge", Flag),
    may("destroy-unreferenced-disks", Flag),
    may("skiplock", Flag),
];
pub const SHOW_CONFIG: &[Param] = &[may("current", Flag)];
pub const CHANGE: &[Param] = &[
    may("delete", Text(4096)),
    may("digest", Text(64)),
    may("revert", Text(4096)),
    may("skiplock", Flag),
];
pub const DELAY: &[Param] = &[may("background_delay", Integer(1, 30))];
pub const RESIZE: &[Param] = &[
    must("disk", Text(32)),
    must("size", Format(size_change)),
    may("digest", Text(64)),
    may("skiplock", Flag),
];
pub const CLONE: &[Param] = &[
    must("newid", VMID),
    may("name", Format(dns_name)),
    may("description", Text(8192)),
    may("pool", Text(64)),
    may("full", Flag),
    may("storage", NAME),
    may("format", OneOf(&["raw", "qcow2", "vmdk"])),
    may("target", Text(63)),
    may("bwlimit", COUNT),
];
pub const MIGRATE: &[Param] = &[
    must("target", Text(63)),
    may("online", Flag),
    may("with-local-disks", Flag),
    may("targetstorage", NAME),
    may("bwlimit", COUNT),
];
pub const TEMPLATE: &[Param] = &[may("disk", Text(32))];
pub const START: &[Param] = &[may("skiplock", Flag), may("timeout", COUNT)];
pub const STOP: &[Param] = &[
    may("timeout", COUNT),
    may("keepActive", Flag),
    may("skiplock", Flag),
    may("overrule-shutdown", Flag),
];
pub const SHUTDOWN: &[Param] = &[
    may("timeout", COUNT),
    may("keepActive", Flag),
    may("skiplock", Flag),
    may("forceStop", Flag),
];
pub const REBOOT: &[Param] = &[may("timeout", COUNT)];
pub const TERMINAL: &[Param] = &[may(
    "serial",
    OneOf(&["serial0", "serial1", "serial2", "serial3"]),
)];
pub const WEBSOCKET: &[Param] = &[
    must("port", Integer(5900, 5999)),
    must("vncticket", Text(512)),
];
pub const EXEC: &[Param] = &[must("command", List), may("input-data", Text(64 << 10))];
pub const EXEC_STATUS: &[Param] = &[must("pid", COUNT)];

/// What only creating takes.
pub const CREATE: &[Param] = &[
    may("storage", NAME),
    may("pool", Text(64)),
    may("start", Flag),
    may("unique", Flag),
    may("bwlimit", COUNT),
    may("import-working-storage", NAME),
];

/// `10G`, or `+2G` for so much more.
fn size_change(value: &str) -> Result<(), String> {
    let number = value.strip_prefix('+').unwrap_or(value);
    let number = number.strip_suffix(['K', 'M', 'G', 'T']).unwrap_or(number);
    match number.parse::<f64>() {
        Ok(_) => Ok(()),
        Err(_) => Err("value does not match the regex pattern".into()),
    }
}

/// From 100 to 999999999.
fn vmid(value: &str) -> Result<(), String> {
    match value.parse::<u64>() {
        Err(_) => Err(format!("type check ('integer') failed - got '{value}'")),
        Ok(100..=999_999_999) => Ok(()),
        Ok(_) => Err("invalid format - value does not look like a valid VM ID\n".into()),
    }
}

/// What storages hold (pve-storage's Storage/Plugin.pm).
const CONTENT_TYPES: &[&str] = &[
    "backup", "images", "import", "iso", "none", "rootdir", "snippets", "vztmpl",
];

fn content_types(value: &str) -> Result<(), String> {
    let mut all = value.split([',', ';', ' ']);
    match all.find(|it| !CONTENT_TYPES.contains(it)) {
        Some(other) => Err(format!("invalid format - invalid content type '{other}'\n")),
        None => Ok(()),
    }
}

fn http_url(value: &str) -> Result<(), String> {
    match value.starts_with("http://") || value.starts_with("https://") {
        true => Ok(()),
        false => Err("value does not match the regex pattern".into()),
    }
}
