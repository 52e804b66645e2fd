//! Targets on any node of a Proxmox VE cluster: which node work goes to, and what is looked at on all of them.

mod lab;

use std::process::Stdio;

use lab::node::{Disk, Node, recipe_by_file};
use lab::{Ended, until};
use pve_lab::{BUILDER, Fault, Setup, Storage, TOKEN, What};

const GIB: u64 = 1 << 30;

/// What such a target says besides how to reach it.
const ANY: &str = "node = \"auto\"\nvmid-range = \"9000-9099\"\n\
                   storages = { import = \"local\", images = \"local\", iso = \"local\" }\n";

/// A cluster with a recipe on a small image.
fn cluster(name: &str, setup: Setup, target: &str) -> (Node, Disk, String) {
    let node = Node::start(name, setup);
    node.target(target);
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let recipe = recipe_by_file(&node.lab, "disk.qcow2");
    (node, disk, recipe)
}

/// The nodes that have a file in a storage for imports.
fn nodes_with_images(node: &Node) -> Vec<String> {
    let volumes = node.server.inventory().volumes.into_iter();
    let images = volumes.filter(|(id, _)| id.contains(":import/"));
    let nodes = images.map(|(id, _)| id.split('/').next().unwrap_or_default().to_owned());
    nodes.collect()
}

#[test]
fn work_goes_to_the_node_with_most_free_memory_that_can_be_used() {
    let setup = || {
        let setup = Setup::new().node("pve2").node("pve3");
        setup.memory("pve", 8 * GIB).memory("pve3", 16 * GIB)
    };
    let (node, _, recipe) = cluster("pve auto", setup(), ANY);
    node.pull(&recipe).with_code(0).saying("building on pve2");
    assert_eq!(nodes_with_images(&node), ["pve2"]);

    let (node, _, recipe) = cluster("pve auto, off", setup(), ANY);
    node.server.power("pve2", false);
    let ended = node.pull(&recipe).with_code(0);
    ended
        .saying("pve2 is not used: it is offline")
        .saying("building on pve3");
    assert_eq!(nodes_with_images(&node), ["pve3"]);
}

#[test]
fn a_node_without_the_target_s_storages_is_left_out() {
    let disks = Storage::new("disks").holding(&["images"]).on(&["pve"]);
    let setup = Setup::new().node("pve2").memory("pve", 8 * GIB);
    let target = ANY.replace("images = \"local\"", "images = \"disks\"");
    let (node, _, recipe) = cluster("pve auto, storages", setup.storage(disks), &target);
    node.pull(&recipe)
        .with_code(0)
        .saying("pve2 is not used: storage disks (images): it is not on the node")
        .saying("building on pve");
    assert_eq!(nodes_with_images(&node), ["pve"]);
}

#[test]
fn where_no_node_can_be_used_each_is_named_with_why() {
    let full = Storage::new("local").holding(&["iso", "import", "images"]);
    let setup = Setup::new().node("pve2").storage(full.of_bytes(GIB));
    let (node, _, recipe) = cluster("pve auto, none", setup, ANY);
    node.server.power("pve", false);
    node.pull(&recipe)
        .with_code(1)
        .saying("choosing a node: none can be used")
        .saying("pve: it is offline")
        .saying("pve2: storage local: only 1.00 GiB free");
    assert!(nodes_with_images(&node).is_empty());
}

#[test]
fn a_node_that_does_not_tell_how_busy_it_is_is_named_and_not_chosen_by_chance() {
    let blind: Vec<_> = BUILDER
        .iter()
        .copied()
        .filter(|it| *it != "Sys.Audit")
        .collect();
    let setup = || Setup::new().node("pve2");
    let told = |node: &str| {
        format!("without Sys.Audit on /nodes/{node}; on the node: pveum role modify Imgbuild")
    };
    // It has less memory than the other, which is not told.
    let one = setup()
        .memory("pve2", GIB)
        .grant("/nodes/pve", TOKEN, &blind);
    let (node, _, recipe) = cluster("pve auto, blind once", one, ANY);
    node.pull(&recipe)
        .with_code(0)
        .saying("pve is not used")
        .saying(&told("pve"))
        .saying("building on pve2");
    let both = setup().revoke(TOKEN).grant("/", TOKEN, &blind);
    let (node, _, recipe) = cluster("pve auto, blind", both, ANY);
    node.pull(&recipe)
        .with_code(1)
        .saying(&told("pve"))
        .saying(&told("pve2"));
    node.imgbuild(&["doctor", "--target", "lab"])
        .with_code(1)
        .printing_part("without Sys.Audit, which is for choosing a node by its free memory")
        .printing_part("privileges on /nodes/pve2");
}

#[test]
fn doctor_looks_at_each_node_and_asks_for_what_moving_takes() {
    let unable: Vec<_> = BUILDER
        .iter()
        .copied()
        .filter(|it| *it != "VM.Migrate")
        .collect();
    let setup = Setup::new()
        .node("pve2")
        .revoke(TOKEN)
        .grant("/", TOKEN, &unable);
    let target = format!("{ANY}replicate = [\"pve2\"]\n");
    let (node, _, _) = cluster("pve auto, doctor", setup, &target);
    let ended = node.imgbuild(&["doctor", "--target", "lab"]).with_code(1);
    let ended = ended.printing_part("without VM.Migrate, which is for machines");
    for (what, told) in [
        ("node", "pve"),
        ("node", "pve2"),
        ("copies of templates", "pve2"),
    ] {
        let is_told = |line: &str| {
            let line = line.strip_prefix("ok       ").unwrap_or_default();
            line.starts_with(what) && line.split(' ').next_back() == Some(told)
        };
        assert!(
            ended.stdout.lines().any(is_told),
            "{what} {told}:\n{}",
            ended.stdout
        );
    }
}

#[test]
fn images_are_listed_on_all_nodes_and_removed_from_all() {
    let setup = Setup::new().node("pve2").memory("pve", 8 * GIB);
    let (node, disk, recipe) = cluster("pve auto, images", setup, ANY);
    node.put(&disk.file, &disk.bytes);
    node.pull(&recipe).with_code(0);
    assert_eq!(nodes_with_images(&node), ["pve", "pve2"]);
    let list = || node.imgbuild(&["image", "list", "--target", "lab"]);
    let digest = &disk.sha256[..12];
    let ended = list().with_code(0);
    for on in ["on pve\n", "on pve2\n"] {
        assert!(ended.stdout.contains(on), "{}", ended.stdout);
    }
    node.imgbuild(&["image", "rm", "--target", "lab", digest])
        .with_code(0);
    assert!(nodes_with_images(&node).is_empty());
    list().with_code(0).printing("no base images on lab\n");
}

#[test]
fn what_nodes_share_is_listed_once() {
    let shared = Storage::new("local").holding(&["iso", "import", "images"]);
    let setup = Setup::new().node("pve2").storage(shared.shared());
    let (node, disk, recipe) = cluster("pve auto, shared", setup, ANY);
    node.pull(&recipe).with_code(0);
    let ended = node.imgbuild(&["image", "list", "--target", "lab"]);
    let ended = ended.with_code(0);
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    node.imgbuild(&["image", "rm", "--target", "lab", &disk.sha256])
        .with_code(0);
    assert!(node.images().is_empty());
}

#[test]
fn gc_finds_what_builds_have_left_on_every_node_and_says_which_it_could_not_ask() {
    let setup = Setup::new().node("pve2").node("pve3");
    let (node, _, _) = cluster("pve auto, gc", setup, ANY);
    let tags = "imgbuild;imgbuild-20200101-000000-0a0b;imgbuild-until-20210101-000000";
    node.has_vm(9000, "here", tags);
    node.has_vm(9001, "there", tags);
    node.curl("qemu/9001/migrate", &["-d", "target=pve2"]);
    node.server.power("pve3", false);
    node.imgbuild(&["gc", "--target", "lab"])
        .with_code(0)
        .saying("pve3 is offline, and not looked at")
        .saying("removing the machine 9000 of build 20200101-000000-0a0b on pve of")
        .saying("removing the machine 9001 of build 20200101-000000-0a0b on pve2 of");
    assert_eq!(node.server.inventory().vms, Vec::<String>::new());
}

#[test]
fn after_a_kill_gc_goes_to_the_node_where_the_work_was() {
    let setup = Setup::new().node("pve2").memory("pve", 8 * GIB);
    let (node, _, _) = cluster("pve auto, killed", setup, ANY);
    let recipe = node.lab.write(
        "web.toml",
        "[image]\nname = \"web\"\n[source]\nfile = \"disk.qcow2\"\n\
         [machine]\ncpus = 1\nmemory = \"64M\"\n[ssh]\ntimeout = \"1s\"\n",
    );
    let hangs = Fault::on("POST", "/nodes/pve2/qemu").with(What::TaskHangs);
    node.server.inject(hangs);
    let arguments = [
        "doctor",
        "--target",
        "lab",
        "--boot",
        recipe.to_str().unwrap(),
    ];
    let mut child = node
        .command(&arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("nothing was made", || node.lab.is_journaled(":qmcreate:"));
    child.kill().unwrap();
    Ended::from(child.wait_with_output().unwrap()).with_code(137);
    node.lab.until_dead();
    // Today's choice is another one.
    let today = ANY.replace("\"auto\"", "\"pve\"");
    node.target(&today);
    node.imgbuild(&["gc"]).with_code(0);
    let now = node.server.inventory();
    assert_eq!((now.vms, now.running), (vec![], vec![]));
    assert!(now.volumes.iter().all(|(id, _)| id.contains(":import/")));
    node.lab.assert_nothing_left();
}
