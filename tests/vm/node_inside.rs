//! Builds on a Proxmox VE node whose recipe forbids a second machine for looking at the disk: the guest itself reads it.

use std::time::Duration;

use crate::lab::node::Node;
use crate::lab::{Ended, Image};
use pve_lab::Setup;
use serde_json::Value;

/// A recipe for a guest in QEMU, with these lines behind those that forbid the helper.
fn recipe(node: &Node, rest: &str) -> String {
    let lines = format!(
        "[ssh]\nport = 2222\ntimeout = \"5m\"\n[target.proxmox]\nhelper = false\ncloud-init-drive = false\n{rest}"
    );
    let recipe = node.lab.recipe("web", Image::Tiny, &lines);
    recipe.to_str().unwrap().to_owned()
}

fn build(node: &Node, recipe: &str) -> Ended {
    node.imgbuild(&["run", "--target", "lab", recipe])
}

/// What is written down of the version.
fn json(node: &Node, file: &str) -> Value {
    let path = node.lab.path(&format!("out/lab/web-1.{file}"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// In the guest: old blocks of the disk in the kernel's memory, a file that is deleted and open, one that is written to for ever,
/// and a mounted file system that cannot be frozen (the seed's is FAT).
const RESTLESS: &str = "[[step]]\nname = \"restless\"\nrun = \"\"\"\n\
    dd if=/dev/sda of=/dev/null bs=1M count=64\n\
    (exec 9>/var/lib/held; rm /var/lib/held; exec sleep 86400) >/dev/null 2>&1 &\n\
    (while echo again; do sleep 0.1; done) >/var/lib/ticks 2>&1 &\n\
    cat /dev/sr0 >/var/lib/fat\nmodprobe loop\nmount -o loop,rw -t vfat /var/lib/fat /mnt\nrm /var/lib/fat\n\
    echo marked >/etc/mark\n\"\"\"\n";

/// A clone comes up on a file system in which nothing is wrong, and has what was written.
const TEST: &str = "[[test]]\nname = \"mark\"\nrun = \"\"\"\n\
    grep marked /etc/mark\n\
    grep again /var/lib/ticks\n\
    test ! -e /var/lib/held\n\
    ! dmesg | grep 'EXT4-fs error'\n\"\"\"\n";

#[test]
fn a_guest_reads_its_own_disk_and_changes_nothing_any_more() {
    let node = Node::whole("pve inside", Setup::new(), "9000-9099");
    build(&node, &recipe(&node, &format!("{RESTLESS}{TEST}"))).with_code(0);
    let count = |method, end| node.calls(method, end);
    assert_eq!(count("POST", "/nodes/pve/qemu"), 1, "the build's machine");
    assert_eq!(count("POST", "/clone"), 1, "that of the test");
    assert_eq!(count("POST", "/status/shutdown"), 0);

    let template = json(&node, "template");
    assert_eq!(template["disk"], node.content(9000), "what was signed");
    let record = node.lab.record_of("out/lab/web-1.template");
    assert_eq!(record["audit"]["by"], "guest");
    assert!(record["audit"]["files"].as_u64().unwrap() > 1000);
    let statement = json(&node, "provenance.json");
    let byproducts = statement["predicate"]["runDetails"]["byproducts"].as_array();
    let audit = byproducts.unwrap().iter().find(|it| it["name"] == "audit");
    assert_eq!(audit.unwrap()["annotations"]["audit"]["by"], "guest");
    let packages = json(&node, "sbom.cdx.json");
    let packages = packages["components"].as_array().unwrap();
    for name in ["openssh-server", "sudo"] {
        assert!(packages.iter().any(|it| it["name"] == name), "{name}");
    }
    let file = node.lab.path("out/lab/web-1.template");
    node.imgbuild(&["provenance", "verify", file.to_str().unwrap()])
        .with_code(0);
    node.lab.assert_nothing_left();
}

#[test]
fn what_the_guest_finds_on_its_disk_ends_the_build_and_leaves_nothing() {
    let node = Node::whole("pve inside audit", Setup::new(), "9000-9099");
    let of_builder =
        "[[step]]\nrun = \"touch /usr/share/left && chown imgbuild: /usr/share/left\"\n";
    build(&node, &recipe(&node, of_builder))
        .with_code(1)
        .saying("it still holds what should be gone")
        .saying("/usr/share/left");
    assert_eq!(node.calls("POST", "/template"), 0);
    let now = node.server.inventory();
    assert_eq!(
        (&now.vms, &now.strays, &now.running),
        (&vec![], &vec![], &vec![])
    );
    node.lab.assert_nothing_left();
}

#[test]
fn what_is_written_past_the_file_systems_while_the_disk_is_read_ends_the_build() {
    let node = Node::whole("pve inside written", Setup::new(), "9000-9099");
    // Too seldom to be noticed before the reading begins. And closing a session of sudo writes to the
    // frozen disk, so that sudo never ends.
    let writer = "[[step]]\nname = \"writer\"\nrun = \"\"\"\n\
        (while sleep 4; do dd if=/dev/sda of=/dev/sda bs=512 count=1 conv=notrunc oflag=direct; done) >/dev/null 2>&1 &\n\
        echo session required pam_exec.so type=close_session /bin/touch /etc/ended >>/etc/pam.d/sudo\n\"\"\"\n";
    build(&node, &recipe(&node, writer))
        .with_code(1)
        .saying("reading the disk of the sealed guest")
        .saying("something was written to the disk while it was read");
    assert_eq!(node.calls("POST", "/template"), 0);
    assert_eq!(node.server.inventory().vms, Vec::<String>::new());
    node.lab.assert_nothing_left();
}

#[test]
fn a_guest_that_says_no_more_whether_its_disk_has_stayed_does_not_hold_up_ctrl_c() {
    let node = Node::whole("pve inside silent", Setup::new(), "9000-9099");
    node.read_target();
    // The digest is taken when the disk is frozen. Then those stop that would say whether it has stayed so; what looks for
    // them finds itself, too, and that is gone.
    let silencer = "[[step]]\nname = \"silencer\"\nrun = \"\"\"\n\
        (until grep -qs sha256sum /proc/[0-9]*/comm; do sleep 1; done\n\
        for file in $(grep -ls /queue/iostats /proc/[0-9]*/cmdline); do\n\
        pid=${file#/proc/}; kill -STOP ${pid%/cmdline} || :; done) >/dev/null 2>&1 &\n\"\"\"\n";
    let mut run = node
        .lab
        .watch(&["--target", "lab", &recipe(&node, silencer)]);
    run.until_phase("look for changes");
    // An answer would come at once.
    std::thread::sleep(Duration::from_secs(2));
    run.signal("INT");
    let ended = run.end().with_code(130);
    let failed = r#""event":"phase-failed","phase":"look for changes""#;
    assert!(ended.stdout.contains(failed), "{}", ended.stdout);
    assert_eq!(node.server.inventory().vms, Vec::<String>::new());
    node.lab.assert_nothing_left();
}
