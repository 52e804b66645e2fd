//! The files that a recipe names, read while the recipe is read: what is missing is a fault of the recipe.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::spanned::Spanned;
use super::template::Scope;
use super::types::{CloudInit, File, FileOrTable, Step};
use crate::error::{Context, Fault, Result, Sources};
use crate::text::hex;

/// A script or cloud-init file larger than this is a mistake.
const LARGEST_TEXT: u64 = 16 << 20;

/// What a step brings with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    None,
    Script(Vec<u8>),
    Tree(Tree),
}

/// The texts named in `[cloud-init]`, by the path as written.
pub type Texts = BTreeMap<String, String>;

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
    /// A file that is read when it is uploaded.
    File {
        size: u64,
    },
    /// A file whose content is in the recipe, or was made from a template.
    Text(Vec<u8>),
    Folder,
    Symlink {
        target: PathBuf,
    },
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

    /// A digest over paths, modes and contents (the modification times do not count), and the sha256 of each file by its path
    /// in the tree. Reads every file.
    pub fn digests(&self) -> Result<(String, Vec<(PathBuf, String)>)> {
        let mut files = vec![];
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
                    let digest = file_digest(&self.locate(&entry.path))?;
                    field(&digest);
                    files.push((entry.path.clone(), hex(&digest)));
                }
                EntryKind::Text(content) => {
                    field(b"file");
                    let digest = Sha256::digest(content);
                    field(&digest);
                    files.push((entry.path.clone(), hex(&digest)));
                }
            }
        }
        Ok((hex(&hasher.finalize()), files))
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

/// Reads what a step names, and tells which variables its script asks for. `None` after a fault.
pub fn content(
    step: &Step,
    scope: &Scope,
    sources: &Sources,
    faults: &mut Vec<Fault>,
) -> Option<(Content, BTreeMap<String, String>)> {
    let template = step.template.as_ref().is_some_and(|flag| *flag.get_ref());
    let mut reader = Reader {
        scope: template.then_some(scope),
        sources,
        faults,
    };
    let content = match step {
        Step {
            script: Some(path), ..
        } => Content::Script(reader.script(path)?),
        Step { run: Some(run), .. } => Content::Script(run.get_ref().clone().into_bytes()),
        Step {
            local: Some(run), ..
        } => Content::Script(run.get_ref().clone().into_bytes()),
        Step {
            upload: Some(upload),
            ..
        } => Content::Tree(reader.upload(&upload.get_ref().from)?),
        Step {
            file: Some(file), ..
        } => Content::Tree(reader.file(file.get_ref())?),
        _ => Content::None,
    };
    let exports = match &content {
        Content::Script(script) => scope.exports(script),
        Content::None | Content::Tree(_) => BTreeMap::new(),
    };
    Some((content, exports))
}

/// Reads the files that `[cloud-init]` names.
pub fn texts(cloud_init: Option<&CloudInit>, sources: &Sources, faults: &mut Vec<Fault>) -> Texts {
    let mut texts = Texts::new();
    let data = cloud_init.map(|data| [&data.user_data, &data.network_config, &data.vendor_data]);
    for value in data.into_iter().flatten().flatten() {
        let FileOrTable::File(path) = value.get_ref() else {
            continue;
        };
        let path = Spanned::new(value.span(), path.clone());
        let Some(content) = text(&path, sources, faults) else {
            continue;
        };
        match String::from_utf8(content) {
            Ok(content) => drop(texts.insert(path.into_inner(), content)),
            Err(_) => faults.push(Fault::new(value.span(), NOT_TEXT)),
        }
    }
    texts
}

const NOT_TEXT: &str = "the file is not text (UTF-8)";

struct Reader<'r> {
    /// For contents that are templates.
    scope: Option<&'r Scope>,
    sources: &'r Sources,
    faults: &'r mut Vec<Fault>,
}

impl Reader<'_> {
    fn script(&mut self, path: &Spanned<String>) -> Option<Vec<u8>> {
        let content = text(path, self.sources, self.faults)?;
        match self.scope {
            None => Some(content),
            Some(_) => self.rendered(content, path, path.get_ref()),
        }
    }

    fn upload(&mut self, from: &Spanned<String>) -> Option<Tree> {
        let root = super::resolved(self.sources, from);
        let mut tree = match tree(&root, from.get_ref()) {
            Ok(tree) => tree,
            Err(message) => {
                self.faults.push(Fault::new(from.span(), message));
                return None;
            }
        };
        if self.scope.is_none() {
            return Some(tree);
        }
        for index in 0..tree.entries.len() {
            let entry = &tree.entries[index];
            if !matches!(entry.kind, EntryKind::File { .. }) {
                continue;
            }
            let name = Path::new(from.get_ref()).join(&entry.path);
            let name = name.display().to_string();
            let name = name.trim_end_matches('/');
            let content = match read_text(&tree.locate(&entry.path), name) {
                Ok(content) => content,
                Err(message) => {
                    self.faults.push(Fault::new(from.span(), message));
                    return None;
                }
            };
            let content = self.rendered(content, from, name)?;
            tree.entries[index].kind = EntryKind::Text(content);
        }
        Some(tree)
    }

    fn file(&mut self, file: &File) -> Option<Tree> {
        let mut tree = match &file.from {
            Some(from) => self.upload(from)?,
            None => {
                let content = file.content.as_ref().map(Spanned::get_ref);
                let content = content.cloned().unwrap_or_default().into_bytes();
                Tree {
                    root: PathBuf::new(),
                    entries: vec![Entry {
                        path: PathBuf::new(),
                        kind: EntryKind::Text(content),
                        mode: 0o644,
                    }],
                }
            }
        };
        if let (Some(root), Some(from)) = (tree.entries.first(), &file.from)
            && root.kind == EntryKind::Folder
        {
            let fault = Fault::new(from.span(), format!("`{}` is a folder", from.get_ref()));
            self.faults.push(fault.hint("folders are for `upload`"));
            return None;
        }
        for entry in &mut tree.entries {
            entry.mode = file.mode.map_or(0o644, |mode| mode.0);
        }
        Some(tree)
    }

    fn rendered(
        &mut self,
        content: Vec<u8>,
        named: &Spanned<String>,
        name: &str,
    ) -> Option<Vec<u8>> {
        let mut fault = |message: String| self.faults.push(Fault::new(named.span(), message));
        let Ok(content) = String::from_utf8(content) else {
            fault(format!("`{name}`: {NOT_TEXT}"));
            return None;
        };
        match self.scope.map(|scope| scope.text(&content)) {
            None => Some(content.into_bytes()),
            Some(Ok(rendered)) => Some(rendered.into_bytes()),
            Some(Err(wrong)) => {
                let message = format!("`{name}`: {}", wrong.message);
                self.faults
                    .push(Fault::new(named.span(), message).hint(wrong.hint));
                None
            }
        }
    }
}

fn text(path: &Spanned<String>, sources: &Sources, faults: &mut Vec<Fault>) -> Option<Vec<u8>> {
    match read_text(&super::resolved(sources, path), path.get_ref()) {
        Ok(content) => Some(content),
        Err(message) => {
            faults.push(Fault::new(path.span(), message));
            None
        }
    }
}

fn read_text(full: &Path, written: &str) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| cannot_read(written, &error);
    let about = std::fs::metadata(full).map_err(told)?;
    if !about.is_file() {
        return Err(format!("`{written}` is not a file"));
    }
    if about.len() > LARGEST_TEXT {
        return Err(format!("`{written}` is larger than 16 MiB"));
    }
    std::fs::read(full).map_err(told)
}

/// In the user's terms: the path as the recipe has it.
pub(super) fn cannot_read(written: &str, error: &std::io::Error) -> String {
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
        let digest = || tree(folder.path(), "x").unwrap().digests().unwrap().0;
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
