//! What the tests work with: disks with a file system, recipes that import them, and clones that are in use.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::lab::{Ended, Lab};

/// A disk with an ext4 file system that has these files, as raw.
pub fn disk(lab: &Lab, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let tree = lab.path(&format!("tree-{name}"));
    let _ = std::fs::remove_dir_all(&tree);
    // What makes it a root file system.
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/passwd"), "").unwrap();
    for (path, content) in files {
        std::fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        std::fs::write(tree.join(path), content).unwrap();
    }
    let disk = lab.path(&format!("{name}.raw"));
    let _ = std::fs::remove_file(&disk);
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .args([&tree, &disk])
        .arg("16M")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    disk
}

/// Writes `NAME.toml`, which imports `NAME.raw` unless `source` says otherwise.
pub fn recipe(lab: &Lab, name: &str, source: &str, rest: &str) -> String {
    let text = format!("[image]\nname = \"{name}\"\n{rest}\n[source]\nimport = true\n{source}\n");
    let path = lab.write(&format!("{name}.toml"), text);
    path.to_str().unwrap().to_owned()
}

/// Builds version after version of an image, each of another disk.
pub fn build(lab: &Lab, name: &str, content: &str) -> Ended {
    build_of(lab, name, &[("srv/content", content)])
}

pub fn build_of(lab: &Lab, name: &str, files: &[(&str, &str)]) -> Ended {
    disk(lab, name, files);
    let recipe = recipe(lab, name, &format!("file = \"{name}.raw\""), "");
    lab.imgbuild(&["run", &recipe]).with_code(0)
}

/// Makes an overlay of an image.
pub fn clone_of(lab: &Lab, image: &Path) -> PathBuf {
    let clone = lab.path("clone.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([image, &clone])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    clone
}

/// Opens an image as a machine on a clone of it would, until it is dropped.
pub struct InUse(Child);

impl InUse {
    pub fn open(lab: &Lab, image: &Path) -> Self {
        let clone = clone_of(lab, image);
        let mut child = Command::new("qemu-io")
            .args(["-f", "qcow2"])
            .arg(&clone)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let opened = |child: &Child| {
            let open = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
            let mut files = open.flatten().map(|file| std::fs::read_link(file.path()));
            files.any(|file| file.is_ok_and(|file| file == image))
        };
        while !opened(&child) {
            assert!(child.try_wait().unwrap().is_none(), "qemu-io has ended");
            // Nothing tells of it.
            std::thread::sleep(Duration::from_millis(5));
        }
        InUse(child)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
