//! For every rule: a tree that breaks exactly this rule gives exactly this finding, and none if it is kept.

use super::fixture::{
    CLIENT_KEY, HOST_KEY, INSTANCE, Tree, audit_with, debugfs, findings, places, plan,
};
use crate::seal::Item;
use crate::seal::audit::Subject;
use crate::seal::rules::{BUILD, OF_BUILDER, paths};
use crate::source::Format;

#[test]
fn a_sealed_guest_passes() {
    let image = Tree::sealed().image_and_tree();
    let report = audit_with(&image.0, Format::Raw, &plan(&[Item::Tmp])).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.root.as_deref(), Some("disk"));
    assert_eq!(report.kept, [Item::Tmp]);
    assert!(report.checks > 100 && report.files > 30);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["kept"][0], "tmp");
}

impl Tree {
    /// The image together with the directory that holds it.
    fn image_and_tree(self) -> (std::path::PathBuf, Tree) {
        (self.image(), self)
    }
}

#[test]
fn each_pattern_is_found_and_only_its_own_item_is_blamed() {
    for item in Item::ALL {
        let rules = paths(*item);
        let gone = rules.gone.iter().map(|pattern| pattern.replace('*', "x"));
        let inside = rules
            .emptied
            .iter()
            .flat_map(|dir| [format!("{dir}/.x"), format!("{dir}/x")]);
        let mut all: Vec<String> = gone.chain(inside).collect();
        all.sort();
        if all.is_empty() {
            continue;
        }
        let tree = Tree::sealed();
        for path in &all {
            tree.file(path, "");
        }
        let image = tree.image();
        let found = findings(&image, &[]);
        let mut found = places(&found);
        found.sort();
        let expected: Vec<_> = all
            .iter()
            .map(|path| (Subject::Item(*item), path.as_str()))
            .collect();
        assert_eq!(found, expected);
        assert_eq!(findings(&image, &[*item]), []);
    }
}

#[test]
fn each_trace_of_the_builder_is_found_whatever_is_kept() {
    let named = OF_BUILDER.iter().map(|path| path.replace('@', "imgbuild"));
    for path in BUILD.iter().map(ToString::to_string).chain(named) {
        let tree = Tree::sealed();
        tree.file(&path, "");
        let found = findings(&tree.image(), Item::ALL);
        assert_eq!(places(&found), [(Subject::Builder, path.as_str())]);
    }
}

#[test]
fn each_rule_about_contents_is_checked() {
    let key = format!("ssh-ed25519 {CLIENT_KEY} build\n");
    let root = "root:x:0:0::/root:/bin/sh\n";
    let cases = [
        (
            "/etc/machine-id",
            "0123456789abcdef0123456789abcdef\n".to_owned(),
            Subject::Item(Item::MachineId),
        ),
        (
            "/etc/hostname",
            "builder\n".to_owned(),
            Subject::Item(Item::Hostname),
        ),
        (
            "/var/log/app/a b.log",
            "a line\n".to_owned(),
            Subject::Item(Item::Logs),
        ),
        (
            "/etc/passwd",
            format!("{root}imgbuild:x:1:1::/x:/bin/sh\n"),
            Subject::Builder,
        ),
        (
            "/etc/passwd",
            format!("{root}renamed:x:60999:1::/x:/bin/sh\n"),
            Subject::Builder,
        ),
        (
            "/etc/shadow",
            "imgbuild:!:1::::::\n".to_owned(),
            Subject::Builder,
        ),
        (
            "/etc/subuid",
            "imgbuild:100000:65536\n".to_owned(),
            Subject::Builder,
        ),
        (
            "/etc/subgid",
            "imgbuild:100000:65536".to_owned(),
            Subject::Builder,
        ),
        (
            "/etc/group",
            "adm:x:4:dev,imgbuild\n".to_owned(),
            Subject::Builder,
        ),
        (
            "/etc/group",
            "imgbuild:x:1000:\n".to_owned(),
            Subject::Builder,
        ),
        (
            "/etc/gshadow",
            "adm:*:imgbuild:dev\n".to_owned(),
            Subject::Builder,
        ),
        (
            "/etc/sudoers.d/90-cloud-init-users",
            "imgbuild ALL=(ALL) NOPASSWD:ALL\n".to_owned(),
            Subject::Builder,
        ),
        (
            "/etc/sudoers.d/90-cloud-init-users",
            "# User rules for imgbuild\n".to_owned(),
            Subject::Builder,
        ),
        (
            "/etc/sudoers",
            "root ALL=ALL\n\timgbuild\tALL=ALL".to_owned(),
            Subject::Builder,
        ),
        (
            "/home/dev/.ssh/authorized_keys",
            key.clone(),
            Subject::Builder,
        ),
        (
            "/root/.ssh/authorized_keys",
            format!("command=\"echo\" {key}"),
            Subject::Builder,
        ),
        (
            "/etc/ssh/ssh_known_hosts",
            format!("host ssh-ed25519 {HOST_KEY}\n"),
            Subject::Builder,
        ),
        (
            "/var/lib/cloud/scripts/per-boot/x",
            format!("#!/bin/sh\necho {INSTANCE}\n"),
            Subject::Builder,
        ),
    ];
    for (path, text, subject) in cases {
        let tree = Tree::sealed();
        tree.file(path, &text);
        let image = tree.image();
        let found = findings(&image, &[]);
        assert_eq!(places(&found), [(subject, path)], "{text}");
        if let Subject::Item(item) = subject {
            assert_eq!(findings(&image, &[item]), []);
        }
    }
}

#[test]
fn a_machine_id_must_be_empty_where_systemd_is_and_may_be_missing_elsewhere() {
    let tree = Tree::sealed();
    tree.remove("/etc/machine-id");
    let found = findings(&tree.image(), &[]);
    assert_eq!(
        places(&found),
        [(Subject::Item(Item::MachineId), "/etc/machine-id")]
    );
    tree.remove("/usr/lib/systemd/systemd");
    assert_eq!(findings(&tree.image(), &[]), []);
    tree.remove("/var/lib/dbus/machine-id");
    tree.file(
        "/var/lib/dbus/machine-id",
        "0123456789abcdef0123456789abcdef\n",
    );
    let found = findings(&tree.image(), &[]);
    assert_eq!(
        places(&found),
        [(Subject::Item(Item::MachineId), "/var/lib/dbus/machine-id")]
    );
}

#[test]
fn files_of_the_builder_are_found_anywhere() {
    let tree = Tree::sealed();
    tree.file("/usr/share/app/data", "x");
    let image = tree.image();
    debugfs(&image, "sif /usr/share/app/data uid 60999");
    let found = findings(&image, Item::ALL);
    assert_eq!(places(&found), [(Subject::Builder, "/usr/share/app/data")]);
}

#[test]
fn a_guest_that_was_cut_off_is_found() {
    for command in ["feature +needs_recovery", "ssv state 0"] {
        let tree = Tree::sealed();
        let image = tree.image();
        debugfs(&image, command);
        let found = findings(&image, Item::ALL);
        let expected = (Subject::FileSystem, "disk");
        assert_eq!(places(&found).first(), Some(&expected), "{command}");
    }
}

#[test]
fn a_kept_host_key_and_kept_logs_may_name_what_they_are_about() {
    let tree = Tree::sealed();
    tree.file(
        "/etc/ssh/ssh_host_ed25519_key.pub",
        &format!("ssh-ed25519 {HOST_KEY}\n"),
    );
    tree.file("/var/log/auth.log", &format!("{INSTANCE} {HOST_KEY}\n"));
    let image = tree.image();
    assert_eq!(findings(&image, &[Item::SshHostKeys, Item::Logs]), []);
    assert_eq!(findings(&image, &[]).len(), 5);
}
