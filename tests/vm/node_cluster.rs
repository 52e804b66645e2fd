//! Builds on any node of a Proxmox VE cluster, whose templates are copied to the others. Their guests are sandboxes.

use std::collections::BTreeSet;

use crate::lab;
use crate::lab::Image;
use crate::lab::node::Node;
use imgbuild::record::TemplateFile;
use pve_lab::Setup;

const GIB: u64 = 1 << 30;

/// Two nodes with storages of their own; the second has more memory.
fn cluster(name: &str) -> Node {
    let setup = Setup::new().node("pve2").memory("pve", 8 * GIB);
    let node = Node::start(name, setup.sandboxes(Image::Tiny.path()));
    node.target(
        "node = \"auto\"\nreplicate = [\"pve\", \"pve2\"]\nbuilds-per-node = 1\nvmid-range = \"9000-9099\"\n\
         storages = { import = \"local\", images = \"local\", iso = \"local\" }\n",
    );
    node.read_target();
    node
}

/// A recipe on the tiny guest. Nothing is written to the disk of a sandbox, so what sealing removes is still on it.
fn tiny(node: &Node, name: &str) -> String {
    let rest = "[ssh]\nport = 2222\ntimeout = \"5m\"\n\
                [seal]\nkeep = [\"hostname\", \"package-lists\"]\n\
                [[step]]\nname = \"mark\"\nrun = \"true\"\n[[test]]\nname = \"mark\"\nrun = \"true\"\n";
    let recipe = node.lab.recipe(name, Image::Tiny, rest);
    recipe.to_str().unwrap().to_owned()
}

/// What the file says that stands for a template.
fn template(node: &Node, name: &str) -> TemplateFile {
    TemplateFile::read(&node.lab.path(&format!("out/lab/{name}.template"))).unwrap()
}

#[test]
fn two_builds_are_on_two_nodes_and_their_templates_on_both() {
    let node = cluster("pve cluster build");
    let recipes = [tiny(&node, "web"), tiny(&node, "db")];
    let run = ["run", "--target", "lab", &recipes[0], &recipes[1]];
    let ended = node.lab.imgbuild(&run).with_code(0);
    let files = ["web", "db"].map(|name| template(&node, name));
    let made_on: BTreeSet<_> = files.iter().map(|file| file.node.as_str()).collect();
    assert_eq!(made_on, BTreeSet::from(["pve", "pve2"]), "{}", ended.stderr);
    let vms = node.server.inventory().vms;
    assert_eq!(vms.len(), 4, "{vms:?}");
    for file in &files {
        let nodes: BTreeSet<_> = file.places().map(|place| place.node).collect();
        assert_eq!(nodes, made_on);
        for place in file.places() {
            let about = format!("{} {} [", place.vmid, file.name);
            let vm = vms.iter().find(|vm| vm.starts_with(&about)).unwrap();
            assert!(vm.ends_with(" template"), "{vm}");
            assert!(vm.contains("imgbuild-template"), "{vm}");
            let is_copy = vm.contains("imgbuild-replica");
            assert_eq!(is_copy, place.node != file.node, "{vm}");
        }
    }
    let disks = node.server.inventory().volumes.into_iter();
    let disks = disks.filter(|(id, _)| id.contains("/base-"));
    let on: Vec<_> = disks
        .map(|(id, _)| id.split('/').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(on, ["pve", "pve", "pve2", "pve2"]);
    node.lab.assert_nothing_left();

    // They are as they should be, wherever another build would go.
    node.lab.imgbuild(&run).with_code(0);
    assert_eq!(node.calls("POST", "/template"), 4);
    node.curl(
        &format!("qemu/{}?purge=1", on_first(&files[0])),
        &["-X", "DELETE"],
    );
    node.lab
        .imgbuild(&["run", "--target", "lab", &recipes[0]])
        .with_code(0);
    assert_eq!(template(&node, "web").name, "web-2");
}

/// The id of a template on the node `pve`.
fn on_first(file: &TemplateFile) -> u32 {
    let mut places = file.places();
    places.find(|place| place.node == "pve").unwrap().vmid
}

#[test]
fn a_build_that_is_killed_while_it_copies_leaves_no_template_anywhere() {
    let node = cluster("pve cluster build, killed");
    let recipe = tiny(&node, "web");
    let mut build = node.lab.watch(&["--target", "lab", &recipe]);
    build.until_phase("copy to pve");
    lab::until("nothing was moved", || node.lab.is_journaled(":qmigrate:"));
    build.signal("KILL");
    build.end().with_code(137);
    node.lab.until_dead();
    node.lab.imgbuild(&["gc"]).with_code(0);
    let now = node.server.inventory();
    assert_eq!((now.vms, now.running), (vec![], vec![]));
    assert!(now.volumes.iter().all(|(id, _)| id.contains(":import/")));
    node.lab.assert_nothing_left();
}
