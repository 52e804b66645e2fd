//! Container formats, partition tables, and what lies beside the root file system.

use std::fs;

use super::fixture::{Tree, audit_of, audit_with, disk, findings, place, places, plan};
use crate::disk::tests::remote::origin;
use crate::seal::Item;
use crate::seal::audit::Subject;
use crate::source::Format;

const COMPRESSIONS: [&[&str]; 5] = [
    &[],
    &["-c"],
    &["-c", "-o", "compression_type=zstd"],
    &["-c", "-o", "compression_type=zstd,cluster_size=2M"],
    &["-o", "compat=0.10,cluster_size=512"],
];

#[test]
fn every_kind_of_qcow2_is_read() {
    let tree = Tree::sealed();
    let data: String = (0..200_000).map(|n: u32| format!("{n:x} ")).collect();
    tree.file("/usr/share/data", &data);
    tree.file("/tmp/left", "x");
    let raw = tree.image();
    for options in COMPRESSIONS {
        let image = tree.convert(&raw, options);
        let report = audit_with(&image, Format::Qcow2, &plan(&[])).unwrap();
        assert_eq!(
            places(&report.findings),
            [(Subject::Item(Item::Tmp), "/tmp/left")]
        );
        assert_eq!(report.findings, findings(&raw, &[]));
    }
}

#[test]
fn a_disk_that_is_elsewhere_is_found_the_same() {
    let tree = Tree::sealed();
    tree.file("/tmp/left", "x");
    let raw = tree.image();
    let disk = origin(fs::read(&raw).unwrap());
    let report = audit_of(&disk, &plan(&[])).unwrap();
    assert_eq!(
        places(&report.findings),
        [(Subject::Item(Item::Tmp), "/tmp/left")]
    );
    assert!(report.files > 0);
}

#[test]
fn an_overlay_is_refused() {
    let tree = Tree::sealed();
    let base = tree.convert(&tree.image(), &[]);
    let overlay = tree.dir.path().join("overlay.qcow2");
    let (base, file) = (base.to_str().unwrap(), overlay.to_str().unwrap());
    super::fixture::run(
        "qemu-img",
        &[
            "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, file,
        ],
    );
    let error = audit_with(&overlay, Format::Qcow2, &plan(&[])).unwrap_err();
    assert!(error.to_string().contains("overlay"), "{error}");
}

#[test]
fn partitions_of_gpt_and_mbr_are_read() {
    let tables = [
        (
            "label: gpt\\n1M 1M 21686148-6449-6E6F-744E-656564454649\\n3M 8M L\\n",
            3,
            "partition 2",
        ),
        ("label: dos\\n2M 8M L *\\n", 2, "partition 1"),
        ("label: dos\\n1M 14M E\\n3M 8M L\\n", 3, "partition 5"),
    ];
    let tree = Tree::sealed();
    tree.file("/tmp/left", "x");
    let fs = fs::read(tree.image()).unwrap();
    for (table, at, name) in tables {
        let whole = disk(&tree.dir, 16, table);
        place(&whole, at, &fs);
        let report = audit_with(&whole, Format::Raw, &plan(&[])).unwrap();
        assert_eq!(report.root.as_deref(), Some(name));
        assert_eq!(
            places(&report.findings),
            [(Subject::Item(Item::Tmp), "/tmp/left")]
        );
        assert_eq!(report.unread, []);
    }
}

#[test]
fn what_cannot_be_read_is_reported_and_an_efi_partition_is_not() {
    let tree = Tree::sealed();
    let fs = fs::read(tree.image()).unwrap();
    let table = "label: gpt\\n1M 8M L\\n10M 1M U\\n11M 1M L\\n12M 1M L\\n13M 1M L\\n14M 1M L\\n";
    let whole = disk(&tree.dir, 17, table);
    place(&whole, 1, &fs);
    let mut fat = [0; 512];
    fat[82..87].copy_from_slice(b"FAT32");
    place(&whole, 10, &fat);
    place(&whole, 11, b"XFSB");
    place(&whole, 12, b"LUKS\xba\xbe");
    place(&whole, 13, b"something");
    let report = audit_with(&whole, Format::Raw, &plan(&[])).unwrap();
    let unread: Vec<_> = report
        .unread
        .iter()
        .map(|part| (&*part.partition, &*part.kind))
        .collect();
    assert_eq!(
        unread,
        [
            ("partition 3", "xfs"),
            ("partition 4", "LUKS"),
            ("partition 5", "unknown")
        ]
    );
    assert_eq!(report.findings, []);
    assert!(!report.is_clean());
}

#[test]
fn file_systems_are_mounted_where_fstab_says() {
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    let var = Tree::sealed();
    var.file("/log/left.log", "x");
    var.link("/tmp", "/link");
    let other = fs::read(var.image_with(&["-U", uuid])).unwrap();
    let tree = Tree::sealed();
    tree.file(
        "/etc/fstab",
        &format!("# comment\nUUID={uuid} /var ext4 defaults 0 2\n"),
    );
    // Hidden below the mount point.
    tree.file("/var/log/hidden.log", "x");
    // Leads through the other file system and back.
    tree.link("/var/link/left", "/etc/hostname");
    let table = "label: gpt\\n1M 8M L\\n10M 8M L\\n";
    let whole = disk(&tree.dir, 20, table);
    place(&whole, 1, &fs::read(tree.image()).unwrap());
    place(&whole, 10, &other);
    let report = audit_with(&whole, Format::Raw, &plan(&[])).unwrap();
    assert_eq!(
        places(&report.findings),
        [(Subject::Item(Item::Logs), "/var/log/left.log")]
    );
    tree.remove("/etc/fstab");
    place(&whole, 1, &fs::read(tree.image()).unwrap());
    let report = audit_with(&whole, Format::Raw, &plan(&[])).unwrap();
    assert_eq!(report.unread.len(), 1);
}
