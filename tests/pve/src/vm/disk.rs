//! Drives as configurations write them, and the volumes behind them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::sync::OwnedRwLockReadGuard;

use crate::cluster::Cluster;
use crate::fault::What;
use crate::image;
use crate::reply::Failure;
use crate::storage::{self, Store, Volume};
use crate::task::Worker;
use crate::vm::CLONE_LOCK;

/// `FILE,option=value,…`.
#[derive(Clone, Debug, PartialEq)]
pub struct Drive {
    pub file: String,
    /// They are written in order.
    options: BTreeMap<String, String>,
}

impl Drive {
    pub fn parse(value: &str) -> Drive {
        let mut file = String::new();
        let mut options = BTreeMap::new();
        for part in value.split(',') {
            match part.split_once('=') {
                Some(("file", name)) => file = name.into(),
                Some((name, value)) => drop(options.insert(name.into(), value.into())),
                None => file = part.into(),
            }
        }
        Drive { file, options }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.options.insert(name.into(), value.into());
    }

    pub fn unset(&mut self, name: &str) -> Option<String> {
        self.options.remove(name)
    }

    pub fn is_cdrom(&self) -> bool {
        self.get("media") == Some("cdrom")
    }

    pub fn is_cloudinit(&self) -> bool {
        self.file.contains("cloudinit")
    }

    /// Whether there is a volume behind it: not for an empty drive.
    pub fn has_volume(&self) -> bool {
        self.file.contains(':')
    }

    /// The storage of a volume that is to be made, and what it is to be: `STORE:8`, `STORE:cloudinit`.
    pub fn to_make(&self) -> Option<(&str, &str)> {
        let (store, what) = self.file.split_once(':')?;
        (what == "cloudinit" || what.parse::<f64>().is_ok()).then_some((store, what))
    }
}

impl std::fmt::Display for Drive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)?;
        for (name, value) in &self.options {
            write!(f, ",{name}={value}")?;
        }
        Ok(())
    }
}

/// Whether a key of the configuration is a drive.
pub fn is_drive(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    stem != name && ["ide", "sata", "scsi", "virtio", "efidisk", "tpmstate"].contains(&stem)
}

/// The VM whose disk a volume is, by its name: `STORE:100/vm-100-disk-0.qcow2`, of a linked clone with its base before that.
pub fn owner(volume: &str) -> Option<u32> {
    let (_, name) = volume.split_once(':')?;
    let (folders, _) = name.rsplit_once('/')?;
    folders.rsplit('/').next()?.parse().ok()
}

/// A disk that is taken out of use has such a key.
pub fn is_unused(name: &str) -> bool {
    name.strip_prefix("unused")
        .is_some_and(|n| n.parse::<u8>().is_ok())
}

/// `10G`, `512` (of `unit` bytes each).
pub fn bytes(text: &str, unit: u64) -> Option<u64> {
    let (number, unit) = match text.chars().last()? {
        'K' => (&text[..text.len() - 1], 1 << 10),
        'M' => (&text[..text.len() - 1], 1 << 20),
        'G' => (&text[..text.len() - 1], 1 << 30),
        'T' => (&text[..text.len() - 1], 1 << 40),
        _ => (text, unit),
    };
    let number: f64 = number.parse().ok()?;
    Some((number * unit as f64) as u64)
}

/// A size as configurations have it.
pub fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")] {
        if bytes > 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Files of volumes that are removed again unless they are kept.
#[derive(Default)]
pub struct Made(Vec<PathBuf>);

impl Made {
    pub fn add(&mut self, path: PathBuf) {
        self.0.push(path);
    }

    pub fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
            if let Some(folder) = path.parent() {
                let _ = std::fs::remove_dir(folder);
            }
        }
    }
}

/// Where disks are made, and for whom.
#[derive(Clone, Copy)]
pub struct Maker<'m> {
    pub cluster: &'m Cluster,
    pub node: &'m str,
    pub vmid: u32,
    pub fault: Option<&'m What>,
    /// Whose log says what is made; none for a call without a task.
    pub worker: Option<&'m Worker>,
}

impl Maker<'_> {
    fn log(self, line: String) {
        if let Some(worker) = self.worker {
            worker.log(line);
        }
    }

    /// Makes the volume that a value of the configuration asks for, and gives the value that names it. One that is there already
    /// must be.
    pub async fn make(self, key: &str, value: &str, made: &mut Made) -> Result<String, String> {
        let mut drive = Drive::parse(value);
        let asked = Drive::parse(value);
        let Some((store, what)) = asked.to_make() else {
            if drive.has_volume() {
                let found = storage::volume(self.cluster, self.node, &drive.file);
                drive.set("size", &size(found.map_err(said)?.1.size));
            }
            return Ok(drive.to_string());
        };
        let store = Store::open(self.cluster, self.node, store).map_err(said)?;
        store.holds("images").map_err(said)?;
        let source = drive.unset("import-from");
        let format = drive.unset("format");
        let path = if what == "cloudinit" {
            drive.set("media", "cdrom");
            self.empty(
                &store,
                "cloudinit",
                format.as_deref().unwrap_or("qcow2"),
                4 << 20,
                made,
            )
            .await?
        } else if let Some(source) = source {
            self.import(&store, &source, format.as_deref(), made)
                .await?
        } else {
            let bytes = match key {
                "efidisk0" => 528 << 10,
                "tpmstate0" => 4 << 20,
                _ => bytes(what, 1 << 30).unwrap_or(0),
            };
            self.empty(
                &store,
                "disk",
                format.as_deref().unwrap_or("raw"),
                bytes,
                made,
            )
            .await?
        };
        if key == "efidisk0" {
            crate::machine::firmware::fill(&path, &drive).await?;
        }
        drive.file = store.id_of(&path)?;
        if what != "cloudinit" {
            let header = image::header(&path);
            let length = std::fs::metadata(&path)
                .map_err(|error| error.to_string())?
                .len();
            drive.set("size", &size(header.map_or(length, |header| header.size)));
        }
        self.log(format!("{key}: successfully created disk '{drive}'"));
        Ok(drive.to_string())
    }

    async fn empty(
        self,
        store: &Store,
        kind: &str,
        format: &str,
        bytes: u64,
        made: &mut Made,
    ) -> Result<PathBuf, String> {
        store.room_for(0, self.fault)?;
        let path = store.new_disk(self.vmid, kind, format)?;
        made.add(path.clone());
        image::create(&path, format, bytes).await?;
        Ok(path)
    }

    async fn import(
        self,
        store: &Store,
        source: &str,
        format: Option<&str>,
        made: &mut Made,
    ) -> Result<PathBuf, String> {
        let _lock = match owner(source) {
            Some(owner) => Some(self.reading(owner).await?),
            None => None,
        };
        let (name, _) = source.split_once(':').unwrap_or_default();
        let from = Store::open(self.cluster, self.node, name).map_err(said)?;
        let missing = || format!("failed to stat '{}'", from.file_of(source).display());
        let found = from.find(source).ok_or_else(missing)?;
        self.log(format!("create full clone of drive ({source})"));
        self.copy(store, &found, format.unwrap_or(&found.format), made)
            .await
    }

    /// Keeps a VM of this node as it is while its disk is read.
    async fn reading(self, owner: u32) -> Result<OwnedRwLockReadGuard<()>, String> {
        let node = self
            .cluster
            .world()
            .vms
            .get(&owner)
            .map(|vm| vm.node.clone());
        if node.is_some_and(|node| node != self.node) {
            return Err(format!("owner VM {owner} not on local node"));
        }
        let patience = self.cluster.wait(CLONE_LOCK);
        self.cluster.locks.shared(owner, patience).await
    }

    /// Copies a volume to a new disk of this format.
    pub async fn copy(
        self,
        store: &Store,
        source: &Volume,
        format: &str,
        made: &mut Made,
    ) -> Result<PathBuf, String> {
        store.room_for(source.used, self.fault)?;
        let path = store.new_disk(self.vmid, "disk", format)?;
        made.add(path.clone());
        self.log(format!("allocated target volume '{}'", store.id_of(&path)?));
        image::convert(&source.path, &source.format, &path, format).await?;
        Ok(path)
    }
}

/// Whether linked clones have this volume beneath them.
pub fn is_cloned(store: &Store, volume: &Volume) -> bool {
    let file = volume
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let name = format!("{}/{file}", volume.owner.unwrap_or_default());
    let above = |other: &Volume| {
        let base = other.base.as_deref();
        base.is_some_and(|base| base.trim_start_matches("../") == name)
    };
    store.volumes().iter().any(above)
}

/// Fails if linked clones have this volume beneath them.
pub fn refuse_if_cloned(store: &Store, volume: &Volume) -> Result<(), String> {
    match is_cloned(store, volume) {
        true => Err(format!(
            "base volume '{}' is still in use by linked cloned",
            volume.id
        )),
        false => Ok(()),
    }
}

/// The kind of content that a volume's id names: `iso`, `import`, or `images`.
pub fn content(id: &str) -> &str {
    let (_, volume) = id.split_once(':').unwrap_or_default();
    match owner(id) {
        Some(_) => "images",
        None => volume.split('/').next().unwrap_or_default(),
    }
}

fn said(failure: Failure) -> String {
    failure.reason
}
