//! Everything that is on the root file system of an image, read offline.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ext4_view::{Ext4, FileType};
use imgbuild::disk::{Disk, partitions};
use imgbuild::provenance::{INPUTS, RELEASE};
use imgbuild::source::Format;
use sha2::{Digest, Sha256};

/// Each path with what it is: kind, mode, owner, and the digest of its content or where it points. No times.
pub fn tree(image: &Path) -> BTreeMap<String, String> {
    let root = root(image);
    let mut found = BTreeMap::new();
    let mut folders = vec!["/".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in root.read_dir(folder.as_str()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().as_str().unwrap().to_owned();
            if name == "." || name == ".." {
                continue;
            }
            let path = format!("{}/{name}", folder.trim_end_matches('/'));
            let about = root.symlink_metadata(path.as_str()).unwrap();
            let content = match about.file_type() {
                // These name the build.
                FileType::Regular if [RELEASE, INPUTS].contains(&path.as_str()) => "its own".into(),
                FileType::Regular => hex(&root.read(path.as_str()).unwrap()),
                FileType::Symlink => {
                    let target = root.read_link(path.as_str()).unwrap();
                    format!("to {}", target.display())
                }
                FileType::Directory => {
                    folders.push(path.clone());
                    "folder".into()
                }
                _ => "special".into(),
            };
            let (mode, uid, gid) = (about.mode(), about.uid(), about.gid());
            found.insert(path, format!("{mode:o} {uid}:{gid} {content}"));
        }
    }
    found
}

/// The content of one file.
pub fn read(image: &Path, path: &str) -> String {
    root(image).read_to_string(path).unwrap()
}

fn root(image: &Path) -> Ext4 {
    let deadline = Instant::now() + Duration::from_secs(600);
    let disk = Disk::open(image, Format::Qcow2, deadline).unwrap();
    let parts = partitions(&disk).unwrap();
    let systems = parts
        .into_iter()
        .filter_map(|part| Ext4::load(Box::new(part.slice)).ok());
    systems
        .into_iter()
        .find(|system| system.exists("/etc/passwd").unwrap())
        .unwrap()
}

fn hex(content: &[u8]) -> String {
    imgbuild::text::hex(&Sha256::digest(content))
}

/// What is on one side only, or different.
pub fn differences(
    one: &BTreeMap<String, String>,
    other: &BTreeMap<String, String>,
) -> Vec<String> {
    let paths = one.keys().chain(other.keys());
    let mut different: Vec<String> = paths
        .filter(|path| one.get(*path) != other.get(*path))
        .map(|path| format!("{path}: {:?} | {:?}", one.get(path), other.get(path)))
        .collect();
    different.sort();
    different.dedup();
    different
}
