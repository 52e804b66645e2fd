//! Storages: folders with files, named as Proxmox's storages of the type `dir` name theirs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cluster::Cluster;
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
        let world = cluster.world();
        let spec = world.storages.iter().find(|storage| storage.name == name);
        let spec = spec
            .ok_or_else(|| Failure::died(format!("storage '{name}' does not exist")))?
            .clone();
        drop(world);
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

    /// The path for a new disk of a VM, which is made empty at once so that nobody else takes the name. Each format counts
    /// for itself.
    pub fn new_disk(&self, owner: u32, kind: &str, format: &str) -> Result<PathBuf, String> {
        let failed = |error: std::io::Error| format!("unable to create image: {error}");
        let folder = self.place("images", Some(owner)).map_err(failed)?;
        for n in 0.. {
            let name = match kind {
                "cloudinit" => format!("vm-{owner}-cloudinit.{format}"),
                _ => format!("vm-{owner}-disk-{n}.{format}"),
            };
            let of_template = folder.join(name.replacen("vm-", "base-", 1));
            let path = folder.join(&name);
            let taken = path.exists() || of_template.exists();
            if taken && kind == "cloudinit" {
                let path = path.display();
                return Err(format!("disk image '{path}' already exists"));
            }
            if !taken {
                std::fs::File::create_new(&path).map_err(failed)?;
                return Ok(path);
            }
        }
        unreachable!("the numbers do not end")
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
            "volid": self.id, "content": self.content, "format": self.format, "size": self.size, "used": self.used,
            "ctime": self.changed,
        });
        if let Some(owner) = self.owner {
            shown["vmid"] = json!(owner);
        }
        if let Some(base) = &self.base {
            shown["parent"] = json!(base);
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
