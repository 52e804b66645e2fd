//! What goes, and what stays.

use crate::lab::versions::{assert_agrees, list};
use crate::lab::{Ended, Lab};
use crate::scene::*;

#[test]
fn pruning_tells_what_went_and_what_did_not() {
    let lab = Lab::new("half a pruning");
    for content in ["one", "two", "three"] {
        build(&lab, "web", content);
    }
    let first = lab.path("out/web-1.qcow2");
    std::fs::remove_file(&first).unwrap();
    std::fs::create_dir(&first).unwrap();
    let pruned = lab.imgbuild(&["template", "prune", "--keep", "1"]);
    pruned
        .with_code(1)
        .saying("web-1.qcow2")
        .printing_part("removed web@2 ");
    std::fs::remove_dir(&first).unwrap();
    assert_eq!(list(&lab), ["web@3"]);
    assert_agrees(&lab);
}

#[test]
fn what_lies_beneath_a_machine_of_libvirts_is_kept() {
    let lab = Lab::new("libvirt");
    for content in ["one", "two"] {
        build(&lab, "web", content);
    }
    let clone = clone_of(&lab, &lab.path("out/web-1.qcow2"));
    let clone = clone.display();
    lab.write(
        "config/libvirt/qemu/db.xml",
        format!("<domain><name>db</name><devices><disk><source file='{clone}'/></disk></devices></domain>"),
    );
    let imgbuild = |arguments: &[&str]| -> Ended {
        let mut command = lab.command(arguments);
        command.env("XDG_CONFIG_HOME", lab.path("config"));
        command.output().unwrap().into()
    };
    let prune = ["template", "prune", "--keep", "1"];
    imgbuild(&prune)
        .with_code(0)
        .printing_part("kept web@1: the machine db, which libvirt knows, uses it\n");
    imgbuild(&["template", "rm", "web@1"])
        .with_code(5)
        .saying("the machine db");
    lab.write("config/libvirt/qemu/db.xml", "<domain>");
    imgbuild(&prune)
        .with_code(0)
        .saying("config/libvirt/qemu/db.xml")
        .printing_part("removed web@1 ");
    assert_agrees(&lab);
}
