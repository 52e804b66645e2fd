//! Who may set what of a configuration.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::reply::Failure;
use crate::vm::Config;
use crate::vm::disk::{self, Drive};

/// Where VMs that are about to be made are looked up: a pool's privileges are theirs.
pub struct Place<'p> {
    pub vmid: u32,
    pub pool: Option<&'p str>,
}

impl Place<'_> {
    pub fn check(&self, context: &Context, any: &[&str]) -> Result<(), Failure> {
        let in_pool = |pool: &str| context.may(&format!("/pool/{pool}"), any);
        match self.pool.is_some_and(in_pool) {
            true => Ok(()),
            false => context.check_vm(self.vmid, any),
        }
    }
}

/// Fails unless the caller may set all these options, and delete those.
pub fn check(
    context: &Context,
    place: &Place<'_>,
    set: &Config,
    delete: &[String],
) -> Result<(), Failure> {
    for (name, value) in set {
        only_root(context, name, value)?;
        place.check(context, needed(name, value))?;
        if name.starts_with("net") {
            bridge(context, value)?;
        }
        if name == "startup" {
            context.check("/", &["Sys.Modify"])?;
        }
        if disk::is_drive(name) {
            space(context, name, value)?;
        }
        if let Some(mapping) = property(value, "mapping")
            && name.starts_with("hostpci")
        {
            context.check(&format!("/mapping/pci/{mapping}"), &["Mapping.Use"])?;
        }
    }
    for name in delete {
        place.check(context, needed(name, ""))?;
    }
    Ok(())
}

fn only_root(context: &Context, name: &str, value: &str) -> Result<(), Failure> {
    if context.who == "root@pam" {
        return Ok(());
    }
    let refused = |why: String| Err(Failure::died(why));
    if ["args", "hookscript", "ivshmem", "affinity"].contains(&name) {
        return refused(format!("only root can set '{name}' config"));
    }
    if name.starts_with("serial") && value != "socket" {
        return refused(format!(
            "only root can set '{name}' config for real devices"
        ));
    }
    if name.starts_with("hostpci") && property(value, "mapping").is_none() {
        return refused(format!(
            "only root can set '{name}' config for non-mapped devices"
        ));
    }
    let drive = Drive::parse(value);
    let source = drive.get("import-from").unwrap_or(&drive.file);
    if disk::is_drive(name) && source.starts_with('/') {
        return Err(Failure::died(
            "Only root can pass arbitrary filesystem paths.",
        ));
    }
    Ok(())
}

/// The privilege for an option.
fn needed(name: &str, value: &str) -> &'static [&'static str] {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    match stem {
        "ide" | "sata" | "scsi" | "virtio" | "efidisk" | "tpmstate" | "unused" => {
            let drive = Drive::parse(value);
            match drive.is_cdrom() || drive.file == "cdrom" || drive.is_cloudinit() {
                true => &["VM.Config.CDROM", "VM.Config.Disk"],
                false => &["VM.Config.Disk"],
            }
        }
        "memory" | "balloon" | "shares" | "hugepages" | "keephugepages" => &["VM.Config.Memory"],
        "cores" | "sockets" | "vcpus" | "cpu" | "cpulimit" | "cpuunits" | "numa" => {
            &["VM.Config.CPU"]
        }
        "boot" | "bootdisk" | "vmstatestorage" => &["VM.Config.Disk"],
        "net" => &["VM.Config.Network"],
        "ipconfig" | "nameserver" | "searchdomain" => &["VM.Config.Network", "VM.Config.Cloudinit"],
        "ciuser" | "cipassword" | "citype" | "ciupgrade" | "cicustom" | "sshkeys" => {
            &["VM.Config.Cloudinit", "VM.Config.Network"]
        }
        "machine" | "scsihw" | "serial" | "vga" | "audio" | "rng" | "hostpci" | "smbios"
        | "vmgenid" | "keyboard" | "kvm" | "localtime" | "tablet" | "acpi" | "hotplug" => {
            &["VM.Config.HWType"]
        }
        _ => &["VM.Config.Options"],
    }
}

/// The whole bridge, or the VLAN of it that is asked for.
pub fn bridge(context: &Context, value: &str) -> Result<(), Failure> {
    let Some(bridge) = property(value, "bridge") else {
        return Ok(());
    };
    let bridge = format!("/sdn/zones/localnetwork/{bridge}");
    match property(value, "tag") {
        Some(vlan) => context.check(&format!("{bridge}/{vlan}"), &["SDN.Use"]),
        None => context.check(&bridge, &["SDN.Use"]),
    }
}

/// What a change of drives takes besides: a CD-ROM drive its own privilege, one of cloud-init's two. `old` is what there is.
pub fn check_drives(
    context: &Context,
    place: &Place<'_>,
    old: &Config,
    set: &Config,
    delete: &[String],
) -> Result<(), Failure> {
    let before = set
        .keys()
        .chain(delete)
        .filter_map(|name| Some((name, old.get(name)?)));
    for (_, value) in set
        .iter()
        .chain(before)
        .filter(|(name, _)| disk::is_drive(name))
    {
        let drive = Drive::parse(value);
        if drive.is_cloudinit() {
            place.check(context, &["VM.Config.Cloudinit"])?;
        }
        if drive.is_cloudinit() || drive.is_cdrom() {
            place.check(context, &["VM.Config.CDROM"])?;
        }
    }
    Ok(())
}

/// A new volume takes space of its storage, one that is there must be readable.
fn space(context: &Context, name: &str, value: &str) -> Result<(), Failure> {
    let drive = Drive::parse(value);
    if let Some((store, what)) = drive.to_make() {
        context.check(&format!("/storage/{store}"), &["Datastore.AllocateSpace"])?;
        crate::storage::Store::open(&context.cluster, context.node(), store)?;
        if drive.get("import-from").is_some() && what != "0" {
            let wrong =
                "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>";
            return Err(Failure::parameter(name, wrong));
        }
    } else if let Some((store, _)) = drive.file.split_once(':') {
        let any = ["Datastore.AllocateSpace", "Datastore.Audit"];
        context.check(&format!("/storage/{store}"), &any)?;
        context.cluster.world().storage(store)?;
        if !["images", "iso"].contains(&disk::content(&drive.file)) {
            let wrong = "content type needs to be 'images' or 'iso'";
            return Err(Failure::parameter(name, wrong));
        }
    }
    let source = drive.get("import-from");
    if let Some(owner) = source.and_then(disk::owner) {
        return context.check_vm(owner, &["VM.Clone"]);
    }
    if let Some(source) = source
        && let Some((store, _)) = source.split_once(':')
    {
        let any = ["Datastore.AllocateSpace", "Datastore.Audit"];
        context.check(&format!("/storage/{store}"), &any)?;
        context.cluster.world().storage(store)?;
        let content = disk::content(source);
        if content != "import" {
            let wrong =
                format!("{source} has wrong type '{content}' - needs to be 'images' or 'import'");
            return Err(Failure::parameter(name, wrong));
        }
    }
    Ok(())
}

/// One value of a property string.
pub fn property<'v>(value: &'v str, name: &str) -> Option<&'v str> {
    let pairs: BTreeMap<_, _> = value
        .split(',')
        .filter_map(|part| part.split_once('='))
        .collect();
    pairs.get(name).copied()
}
