//! The files that a recipe names, read while the recipe is read: what is missing is a fault of the recipe.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use toml::Spanned;

use super::types::{CloudInit, FileOrTable, Step};
use crate::error::{Context, Fault, Result};
use crate::text::hex;

/// A script or cloud-init file larger than this is a mistake.
const LARGEST_TEXT: u64 = 16 << 20;

/// The files that a recipe names, by the path as written.
#[derive(Debug, Default)]
pub struct Files {
    /// The content of every script that a step or test runs.
    pub scripts: BTreeMap<String, Vec<u8>>,
    /// What every upload consists of.
    pub trees: BTreeMap<String, Tree>,
    /// The texts named in `[cloud-init]`.
    pub texts: BTreeMap<String, String>,
}

/// What an upload consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Where it is on this machine.
    pub root: PathBuf,
    /// Sorted by path, so that the same tree always gives the same archive.
    pub entries: Vec<Entry>,
}

/// One file, folder or symlink of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root; empty for a root that is a file.
    pub path: PathBuf,
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File { size: u64 },
    Folder,
    Symlink { target: PathBuf },
}

impl Tree {
    /// Where an entry is on this machine.
    pub fn locate(&self, path: &Path) -> PathBuf {
        match path.as_os_str().is_empty() {
            // Joining an empty path would append a `/`, which a file does not take.
            true => self.root.clone(),
            false => self.root.join(path),
        }
    }

    /// A digest over paths, modes and contents; the modification times do not count. Reads every file.
    pub fn digest(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for entry in &self.entries {
            field(entry.path.as_os_str().as_encoded_bytes());
            field(&entry.mode.to_le_bytes());
            match &entry.kind {
                EntryKind::Folder => field(b"folder"),
                EntryKind::Symlink { target } => {
                    field(b"symlink");
                    field(target.as_os_str().as_encoded_bytes());
                }
                EntryKind::File { .. } => {
                    field(b"file");
                    field(&file_digest(&self.locate(&entry.path))?);
                }
            }
        }
        Ok(hex(&hasher.finalize()))
    }
}

fn file_digest(path: &Path) -> Result<Vec<u8>> {
    let doing = || format!("reading {}", path.display());
    let mut file = std::fs::File::open(path).doing(doing)?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut Writer(&mut hasher)).doing(doing)?;
    Ok(hasher.finalize().to_vec())
}

struct Writer<'h>(&'h mut Sha256);

impl std::io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads what steps and `[cloud-init]` name; what cannot be read becomes a fault.
pub fn load<'s>(
    folder: &Path,
    steps: impl Iterator<Item = &'s Spanned<Step>>,
    cloud_init: Option<&CloudInit>,
    faults: &mut Vec<Fault>,
) -> Files {
    let mut files = Files::default();
    for step in steps.map(Spanned::get_ref) {
        if let Some(path) = &step.script
            && let Some(content) = text(folder, path, faults)
        {
            files.scripts.insert(path.get_ref().clone(), content);
        }
        if let Some(upload) = &step.upload {
            let from = &upload.get_ref().from;
            match tree(&folder.join(from.get_ref()), from.get_ref()) {
                Ok(tree) => {
                    files.trees.insert(from.get_ref().clone(), tree);
                }
                Err(message) => faults.push(Fault::new(from.span(), message)),
            }
        }
    }
    let data = cloud_init.map(|data| [&data.user_data, &data.network_config, &data.vendor_data]);
    for value in data.into_iter().flatten().flatten() {
        let FileOrTable::File(path) = value.get_ref() else {
            continue;
        };
        let path = Spanned::new(value.span(), path.clone());
        let Some(content) = text(folder, &path, faults) else {
            continue;
        };
        match String::from_utf8(content) {
            Ok(content) => {
                files.texts.insert(path.into_inner(), content);
            }
            Err(_) => faults.push(Fault::new(value.span(), "the file is not text (UTF-8)")),
        }
    }
    files
}

fn text(folder: &Path, path: &Spanned<String>, faults: &mut Vec<Fault>) -> Option<Vec<u8>> {
    let full = folder.join(path.get_ref());
    let read = || -> Result<Vec<u8>, String> {
        let told = |error: std::io::Error| cannot_read(path.get_ref(), &error);
        let about = std::fs::metadata(&full).map_err(told)?;
        if !about.is_file() {
            return Err(format!("`{}` is not a file", path.get_ref()));
        }
        if about.len() > LARGEST_TEXT {
            return Err(format!("`{}` is larger than 16 MiB", path.get_ref()));
        }
        std::fs::read(&full).map_err(told)
    };
    match read() {
        Ok(content) => Some(content),
        Err(message) => {
            faults.push(Fault::new(path.span(), message));
            None
        }
    }
}

/// In the user's terms: the path as the recipe has it.
fn cannot_read(written: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no `{written}` beside the recipe"),
        _ => format!("cannot read `{written}`: {error}"),
    }
}

fn tree(root: &Path, written: &str) -> Result<Tree, String> {
    let mut tree = Tree {
        root: root.to_owned(),
        entries: vec![],
    };
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = tree.locate(&path);
        let name = Path::new(written).join(&path).display().to_string();
        let told = |error: std::io::Error| cannot_read(name.trim_end_matches('/'), &error);
        // The root may be a symlink to what is meant; what is below it is taken as it is.
        let about = match path.as_os_str().is_empty() {
            true => std::fs::metadata(&full).map_err(told)?,
            false => std::fs::symlink_metadata(&full).map_err(told)?,
        };
        let kind = if about.is_dir() {
            for entry in std::fs::read_dir(&full).map_err(told)? {
                pending.push(path.join(entry.map_err(told)?.file_name()));
            }
            EntryKind::Folder
        } else if about.is_symlink() {
            let target = std::fs::read_link(&full).map_err(told)?;
            EntryKind::Symlink { target }
        } else if about.is_file() {
            std::fs::File::open(&full).map_err(told)?;
            EntryKind::File { size: about.len() }
        } else {
            return Err(format!("`{name}` is neither file, folder nor symlink"));
        };
        let mode = about.mode() & 0o7777;
        tree.entries.push(Entry { path, kind, mode });
    }
    tree.entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_trees_digest_depends_on_content_mode_and_names_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let digest = || tree(folder.path(), "x").unwrap().digest().unwrap();
        let mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        std::fs::write(&file, "1").unwrap();
        mode(0o644);
        let first = digest();
        std::fs::File::open(&file)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        assert_eq!(digest(), first, "modification time");
        std::fs::write(&file, "2").unwrap();
        assert_ne!(digest(), first, "content");
        std::fs::write(&file, "1").unwrap();
        mode(0o755);
        assert_ne!(digest(), first, "mode");
        mode(0o644);
        std::fs::rename(&file, folder.path().join("b")).unwrap();
        assert_ne!(digest(), first, "name");
    }
}
