//! Storages: folders with files, named as Proxmox's storages of the type `dir` name theirs.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::cluster::{Cluster, held};
use crate::fault::What;
use crate::image;
use crate::reply::Failure;
use crate::setup::Storage;

/// A storage as one node sees it.
#[derive(Clone)]
pub struct Store {
    pub spec: Storage,
    folder: PathBuf,
}

/// A file on a storage.
pub struct Volume {
    pub id: String,
    pub path: PathBuf,
    /// `iso`, `import` or `images`.
    pub content: &'static str,
    pub format: String,
    /// Bytes: of a disk what the guest sees, of other files their length.
    pub size: u64,
    /// Bytes on the host's disk.
    pub used: u64,
    /// When its file was changed last, in seconds since 1970.
    pub changed: i64,
    /// Of a disk: the VM that has it.
    pub owner: Option<u32>,
    /// Of a linked clone: the file name of what is beneath it.
    pub base: Option<String>,
}

/// Where each content type has its files.
const FOLDERS: [(&str, &str); 3] = [
    ("iso", "template/iso"),
    ("import", "import"),
    ("images", "images"),
];

/// Names that a volume can have. Others are strays.
pub const IMPORT_FORMATS: [&str; 4] = ["qcow2", "raw", "vmdk", "ova"];

impl Store {
    /// The storage of this name on a node.
    pub fn open(cluster: &Cluster, node: &str, name: &str) -> Result<Store, Failure> {
        let spec = cluster.world().storage(name)?.clone();
        if !spec.is_on(node) {
            return Err(Failure::died(format!(
                "storage '{name}' is not available on node '{node}'"
            )));
        }
        Store::of(cluster, node, spec)
    }

    pub fn of(cluster: &Cluster, node: &str, spec: Storage) -> Result<Store, Failure> {
        let name = &spec.name;
        let place = match spec.shared {
            true => format!("storage/{name}"),
            false => format!("storage/{name}@{node}"),
        };
        let folder = cluster
            .folder(&place)
            .map_err(|error| Failure::died(error.to_string()))?;
        Ok(Store { spec, folder })
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Fails unless the storage is for this kind of content.
    pub fn holds(&self, content: &str) -> Result<(), Failure> {
        match self.spec.content.iter().any(|it| it == content) {
            true => Ok(()),
            false => Err(Failure::died(format!(
                "storage '{}' does not support '{content}' content",
                self.name()
            ))),
        }
    }

    /// Where a kind of content is, made if need be. Disks have a folder for each VM.
    pub fn place(&self, content: &str, owner: Option<u32>) -> std::io::Result<PathBuf> {
        let known = FOLDERS.iter().find(|(kind, _)| *kind == content);
        let mut folder = self
            .folder
            .join(known.map_or(content, |(_, folder)| folder));
        if let Some(owner) = owner {
            folder.push(owner.to_string());
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// All volumes.
    pub fn volumes(&self) -> Vec<Volume> {
        self.files().into_iter().filter_map(Result::ok).collect()
    }

    /// Files that are no volumes.
    pub fn strays(&self) -> Vec<PathBuf> {
        self.files().into_iter().filter_map(Result::err).collect()
    }

    fn files(&self) -> Vec<Result<Volume, PathBuf>> {
        let mut all = vec![];
        for (content, folder) in FOLDERS {
            for path in files(&self.folder.join(folder)) {
                match self.volume(content, &path) {
                    Some(volume) => all.push(Ok(volume)),
                    // Unless it went while it was looked at.
                    None if path.exists() => all.push(Err(path)),
                    None => {}
                }
            }
        }
        all
    }

    pub fn find(&self, id: &str) -> Option<Volume> {
        self.volumes().into_iter().find(|volume| volume.id == id)
    }

    fn volume(&self, content: &'static str, path: &Path) -> Option<Volume> {
        let file = path.file_name()?.to_str()?;
        let extension = path.extension()?.to_str()?;
        let facts = std::fs::metadata(path).ok()?;
        let mut volume = Volume {
            id: format!("{}:{content}/{file}", self.name()),
            path: path.to_owned(),
            content,
            format: extension.to_owned(),
            size: facts.len(),
            used: facts.blocks() * 512,
            changed: facts.ctime(),
            owner: None,
            base: None,
        };
        match content {
            "iso" => {
                volume.format = "iso".into();
                ["iso", "img"].contains(&extension).then_some(volume)
            }
            "import" => IMPORT_FORMATS.contains(&extension).then_some(volume),
            _ => {
                let folder = path.parent()?.file_name()?.to_str()?;
                let owner = folder.parse().ok()?;
                let header = image::header(path);
                volume.size = header.as_ref().map_or(facts.len(), |header| header.size);
                volume.base = header.and_then(|header| header.backing);
                volume.owner = Some(owner);
                volume.id = match &volume.base {
                    Some(base) => {
                        let base = base.trim_start_matches("../");
                        format!("{}:{base}/{folder}/{file}", self.name())
                    }
                    None => format!("{}:{folder}/{file}", self.name()),
                };
                Some(volume)
            }
        }
    }

    pub fn used(&self) -> u64 {
        self.volumes().iter().map(|volume| volume.used).sum()
    }

    /// Fails if so many bytes more do not fit.
    pub fn room_for(&self, bytes: u64, fault: Option<&What>) -> Result<(), String> {
        let full = fault == Some(&What::StorageFull) || self.used() + bytes > self.spec.size;
        match full {
            true => Err("No space left on device".into()),
            false => Ok(()),
        }
    }

    /// The path for a new disk of a VM, which is made empty at once so that nobody else takes the name. It has the first number
    /// that no disk of the VM has, in whatever format.
    pub fn new_disk(&self, owner: u32, kind: &str, format: &str) -> Result<PathBuf, String> {
        // Of two at the same time one would have the other's number.
        static NAMING: Mutex<()> = Mutex::new(());
        let _naming = held(&NAMING);
        let failed = |error: std::io::Error| format!("unable to create image: {error}");
        let folder = self.place("images", Some(owner)).map_err(failed)?;
        let name = match kind {
            "cloudinit" => format!("vm-{owner}-cloudinit.{format}"),
            _ => {
                let taken: BTreeSet<u32> = files(&folder)
                    .iter()
                    .filter_map(|path| disk_number(path))
                    .collect();
                let free = (0..).find(|n| !taken.contains(n));
                format!("vm-{owner}-disk-{}.{format}", free.unwrap_or_default())
            }
        };
        let path = folder.join(name);
        if path.exists() {
            let path = path.display();
            return Err(format!("disk image '{path}' already exists"));
        }
        std::fs::File::create_new(&path).map_err(failed)?;
        Ok(path)
    }

    /// Where the file of a volume is, or would be.
    pub fn file_of(&self, id: &str) -> PathBuf {
        let (_, volume) = id.split_once(':').unwrap_or_default();
        match volume.split_once('/') {
            Some((kind @ ("iso" | "import"), name)) => {
                let place = FOLDERS.iter().find(|(content, _)| *content == kind);
                self.folder
                    .join(place.map_or(kind, |(_, place)| place))
                    .join(name)
            }
            // Of a linked clone, what it is above stands before it.
            _ => {
                let parts: Vec<&str> = volume.rsplitn(3, '/').take(2).collect();
                let own = parts.into_iter().rev().collect::<PathBuf>();
                self.folder.join("images").join(own)
            }
        }
    }

    /// The id of a volume by its path.
    pub fn id_of(&self, path: &Path) -> Result<String, String> {
        let found = self
            .volumes()
            .into_iter()
            .find(|volume| volume.path == path);
        found
            .map(|volume| volume.id)
            .ok_or_else(|| format!("no such volume '{}'", path.display()))
    }

    pub fn status(&self) -> Value {
        let used = self.used();
        json!({
            "storage": self.name(), "type": "dir", "content": self.spec.content.join(","), "active": 1, "enabled": 1,
            "shared": u8::from(self.spec.shared), "total": self.spec.size, "used": used,
            "avail": self.spec.size.saturating_sub(used),
        })
    }
}

impl Storage {
    pub(crate) fn is_on(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|it| it == node)
    }
}

impl Volume {
    pub fn described(&self) -> Value {
        let mut shown = json!({
            "volid": self.id, "content": self.content, "format": self.format, "size": self.size, "ctime": self.changed,
        });
        if let Some(owner) = self.owner {
            shown["vmid"] = json!(owner);
            shown["used"] = json!(self.used);
            shown["parent"] = json!(self.base);
        }
        shown
    }

    /// Whether it is the disk of a template.
    pub fn is_base(&self) -> bool {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("base-")
    }

    /// Removes it, and the folder of its VM's disks with the last of them.
    pub fn free(&self) -> std::io::Result<()> {
        std::fs::remove_file(&self.path)?;
        if let (Some(_), Some(folder)) = (self.owner, self.path.parent()) {
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }
}

/// The volume with this id, on whatever storage it names.
pub fn volume(cluster: &Cluster, node: &str, id: &str) -> Result<(Store, Volume), Failure> {
    let unparsable = || Failure::died(format!("unable to parse volume ID '{id}'"));
    let (name, _) = id.split_once(':').ok_or_else(unparsable)?;
    let store = Store::open(cluster, node, name)?;
    let volume = store
        .find(id)
        .ok_or_else(|| Failure::died(format!("volume '{id}' does not exist")))?;
    Ok((store, volume))
}

/// All storages of a node.
pub fn all(cluster: &Cluster, node: &str) -> Vec<Store> {
    let specs = cluster.world().storages.clone();
    let here = specs.into_iter().filter(|spec| spec.is_on(node));
    here.filter_map(|spec| Store::of(cluster, node, spec).ok())
        .collect()
}

/// The number in the name of a VM's disk.
fn disk_number(path: &Path) -> Option<u32> {
    let name = path.file_stem()?.to_str()?;
    name.rsplit_once("-disk-")?.1.parse().ok()
}

/// Files in a folder and those below it, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return vec![];
    };
    let mut all = vec![];
    for path in entries.flatten().map(|entry| entry.path()) {
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => all.push(path),
        }
    }
    all.sort();
    all
}
