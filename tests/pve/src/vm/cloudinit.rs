//! The cloud-init drive: what Proxmox makes of a configuration at each start.

use std::io::{Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::image;
use crate::storage;
use crate::vm::Config;
use crate::vm::disk::{Drive, Made, is_drive};
use crate::vm::rights::property;

/// The volume's bytes: as much as Proxmox gives it.
const SIZE: usize = 4 << 20;

/// A CD-ROM has no smaller ones.
const SECTOR: u16 = 2048;

/// Writes the drives anew. Passwords are left out: nothing here needs them.
pub async fn refresh(
    cluster: &Cluster,
    node: &str,
    vmid: u32,
    config: &Config,
) -> Result<(), String> {
    let drives = config.iter().filter(|(key, _)| is_drive(key));
    for drive in drives
        .map(|(_, value)| Drive::parse(value))
        .filter(Drive::is_cloudinit)
    {
        let (_, volume) =
            storage::volume(cluster, node, &drive.file).map_err(|failure| failure.reason)?;
        let bytes = seed(vmid, config).map_err(|error| format!("cloud-init drive: {error}"))?;
        let plain = volume.path.with_extension("seed");
        let mut made = Made::default();
        made.add(plain.clone());
        std::fs::write(&plain, bytes).map_err(|error| error.to_string())?;
        image::convert(&plain, "raw", &volume.path, &volume.format).await?;
    }
    Ok(())
}

fn seed(vmid: u32, config: &Config) -> std::io::Result<Vec<u8>> {
    let user = format!("#cloud-config\n{}\n", user_data(vmid, config));
    let network = network_config(config).to_string();
    // The same configuration is the same instance.
    let digest = Sha256::digest(format!("{user}{network}"));
    let id: String = digest
        .iter()
        .take(20)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let meta = json!({"instance-id": id}).to_string();
    let mut disk = Cursor::new(vec![0; SIZE]);
    let options = FormatVolumeOptions::new()
        .volume_label(*b"CIDATA     ")
        .bytes_per_sector(SECTOR);
    fatfs::format_volume(&mut disk, options)?;
    let system = FileSystem::new(&mut disk, FsOptions::new())?;
    for (name, text) in [
        ("user-data", &user),
        ("meta-data", &meta),
        ("network-config", &network),
    ] {
        let mut file = system.root_dir().create_file(name)?;
        file.write_all(text.as_bytes())?;
        file.flush()?;
    }
    system.unmount()?;
    Ok(disk.into_inner())
}

fn user_data(vmid: u32, config: &Config) -> Value {
    let name = config
        .get("name")
        .cloned()
        .unwrap_or_else(|| format!("VM{vmid}"));
    let host = name.split('.').next().unwrap_or_default();
    let mut data = json!({
        "hostname": host, "fqdn": name, "manage_etc_hosts": true, "chpasswd": {"expire": false}, "users": ["default"],
    });
    if let Some(user) = config.get("ciuser") {
        data["user"] = json!(user);
    }
    if let Some(keys) = config.get("sshkeys") {
        let keys = percent_encoding::percent_decode_str(keys).decode_utf8_lossy();
        let keys: Vec<&str> = keys
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        data["ssh_authorized_keys"] = json!(keys);
    }
    if config.get("ciupgrade").is_none_or(|flag| flag == "1") {
        data["package_upgrade"] = json!(true);
    }
    data
}

fn network_config(config: &Config) -> Value {
    let mut cards = vec![];
    for (key, value) in config.iter().filter(|(key, _)| key.starts_with("net")) {
        let n = key.trim_start_matches("net");
        let Some(wanted) = config.get(&format!("ipconfig{n}")) else {
            continue;
        };
        let subnet = match property(wanted, "ip") {
            Some("dhcp") => json!({"type": "dhcp4"}),
            Some(address) => {
                json!({"type": "static", "address": address, "gateway": property(wanted, "gw")})
            }
            None => continue,
        };
        let card = value
            .split(',')
            .next()
            .and_then(|card| card.split_once('='));
        let mac = card.map(|(_, mac)| mac.to_lowercase());
        cards.push(json!({"type": "physical", "name": format!("eth{n}"), "mac_address": mac, "subnets": [subnet]}));
    }
    json!({"version": 1, "config": cards})
}
