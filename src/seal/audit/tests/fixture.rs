//! A sealed guest as a directory, and the images made of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::disk::Origin;
pub use crate::disk::tests::fixture::{debugfs, disk, place, run};
use crate::error::Result;
use crate::seal::audit::{Finding, Report, Subject, audit};
use crate::seal::{Evidence, Item, Plan};
use crate::source::Format;

pub const CLIENT_KEY: &str =
    "AAAAC3NzaC1lZDI1NTE5AAAAIClientClientClientClientClientClientClientCli";
pub const HOST_KEY: &str =
    "AAAAC3NzaC1lZDI1NTE5AAAAIHostHostHostHostHostHostHostHostHostHostHostHo";
pub const INSTANCE: &str = "i-0123456789ab";

pub fn plan(keep: &[Item]) -> Plan {
    Plan {
        builder: "imgbuild".into(),
        builder_uid: 60999,
        client_key: CLIENT_KEY.into(),
        keep: BTreeSet::from_iter(keep.iter().copied()),
    }
}

/// Audits with this plan.
pub fn audit_with(image: &Path, format: Format, plan: &Plan) -> Result<Report> {
    let disk = Origin::File {
        path: image.to_owned(),
        format,
    };
    audit_of(&disk, plan)
}

/// Audits a disk, wherever it is.
pub fn audit_of(disk: &Origin, plan: &Plan) -> Result<Report> {
    let evidence = Evidence {
        host_key: HOST_KEY.into(),
        instance_id: INSTANCE.into(),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(audit(disk, plan, &evidence))
}

/// The findings of an audit of a raw image that can be read.
pub fn findings(image: &Path, keep: &[Item]) -> Vec<Finding> {
    audit_with(image, Format::Raw, &plan(keep))
        .unwrap()
        .findings
}

/// Subject and path of each finding.
pub fn places(found: &[Finding]) -> Vec<(Subject, &str)> {
    found
        .iter()
        .map(|finding| (finding.item, finding.path.as_str()))
        .collect()
}

/// A directory that becomes a file system.
pub struct Tree {
    pub dir: TempDir,
    root: PathBuf,
}

impl Tree {
    /// A guest that is sealed as it should be.
    pub fn sealed() -> Tree {
        let dir = TempDir::new().unwrap();
        let tree = Tree {
            root: dir.path().join("root"),
            dir,
        };
        for file in [
            "etc/machine-id",
            "usr/lib/systemd/systemd",
            "var/log/syslog",
            "var/log/journal/",
        ] {
            tree.file(file, "");
        }
        for empty in [
            "tmp/",
            "var/tmp/",
            "var/lib/apt/lists/",
            "run/",
            "var/crash/",
            "var/lib/cloud/scripts/",
        ] {
            tree.file(empty, "");
        }
        tree.file("etc/hostname", "localhost\n");
        tree.file(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\ndev:x:1500:1500:imgbuilder:/home/dev:/bin/sh\n",
        );
        tree.file("etc/group", "root:x:0:\nadm:x:4:dev,imgbuilder\n");
        tree.file("etc/gshadow", "root:*::\nadm:*::dev\n");
        tree.file("etc/shadow", "root:*:1::::::\n");
        tree.file("etc/subuid", "dev:100000:65536\n");
        tree.file("etc/sudoers", "root ALL=(ALL:ALL) ALL\n");
        tree.file(
            "etc/sudoers.d/90-cloud-init-users",
            "# User rules for dev\ndev ALL=(ALL) ALL\n",
        );
        tree.file(
            "root/.ssh/authorized_keys",
            "ssh-ed25519 AAAAother dev@example\n",
        );
        tree.file("etc/ssh/sshd_config", "PermitRootLogin no\n");
        tree.link("/etc/machine-id", "var/lib/dbus/machine-id");
        tree
    }

    /// Writes a file, or makes a directory if the path ends in a slash.
    pub fn file(&self, path: &str, text: &str) {
        let full = self.root.join(path.trim_start_matches('/'));
        if path.ends_with('/') {
            return fs::create_dir_all(full).unwrap();
        }
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, text).unwrap();
    }

    pub fn link(&self, target: &str, path: &str) {
        let full = self.root.join(path.trim_start_matches('/'));
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        if full.symlink_metadata().is_ok() {
            fs::remove_file(&full).unwrap();
        }
        symlink(target, full).unwrap();
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.root.join(path.trim_start_matches('/'))).unwrap();
    }

    /// An image without partitions.
    pub fn image(&self) -> PathBuf {
        self.image_with(&[])
    }

    /// An image without partitions, made with these options of mke2fs.
    pub fn image_with(&self, options: &[&str]) -> PathBuf {
        let image = self.dir.path().join("disk.raw");
        let _ = fs::remove_file(&image);
        let (root, file) = (self.root.to_str().unwrap(), image.to_str().unwrap());
        let mut args = vec!["-q", "-F", "-t", "ext4", "-d", root];
        args.extend(options);
        args.extend([file, "8M"]);
        run("mke2fs", &args);
        image
    }

    /// The image in another format.
    pub fn convert(&self, raw: &Path, options: &[&str]) -> PathBuf {
        let image = self.dir.path().join("disk.qcow2");
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
        args.extend(options);
        args.extend([raw.to_str().unwrap(), image.to_str().unwrap()]);
        run("qemu-img", &args);
        image
    }
}
