//! Versions whose templates are on several nodes of a Proxmox VE cluster, copies among them: all commands reach all of them.

mod lab;

use lab::Ended;
use lab::node::{Disk, Node, recipe_by_file};
use lab::template::{build, copy, fixed, vmid};
use lab::versions::list;
use pve_lab::{Fault, Setup, What};
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

/// Two nodes, of which builds now go to `pve2`, and versions on them: each with its node, and that of its copy.
fn cluster(name: &str, versions: &[(&str, &[&str])]) -> Node {
    let setup = Setup::new().node("pve2").memory("pve", 8 * GIB);
    let node = Node::start(name, setup);
    node.target(
        "node = \"auto\"\nvmid-range = \"9000-9099\"\n\
         storages = { import = \"local\", images = \"local\", iso = \"local\" }\n",
    );
    for (number, (on, copies)) in (1..).zip(versions) {
        node.has_version(number, on, copies);
    }
    node.is_registered();
    node
}

fn promote(node: &Node, version: &str) -> Ended {
    node.imgbuild(&["template", "promote", version, "stable"])
}

/// The ids of templates with a tag, in their order.
fn with_tag(node: &Node, tag: &str) -> Vec<u32> {
    let vms = node.server.inventory().vms.into_iter();
    let found = vms.filter_map(|line| {
        let (id, rest) = line.split_once(' ')?;
        let (_, tags) = rest.split_once('[')?;
        let (tags, _) = tags.split_once(']')?;
        tags.split(';')
            .any(|other| other == tag)
            .then(|| id.parse().unwrap())
    });
    found.collect()
}

/// The changes that were asked for since then: the path of each.
fn changes_since(node: &Node, since: usize) -> Vec<String> {
    let asked = node.requests_since(since).into_iter();
    asked
        .filter(|request| !request.starts_with("GET "))
        .collect()
}

fn result(ended: Ended) -> Value {
    let ended = ended.with_code(0);
    serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_channel_is_on_all_copies_before_any_loses_it() {
    let versions: &[(&str, &[&str])] = &[("pve", &["pve2"]), ("pve2", &["pve"]), ("pve2", &[])];
    let node = cluster("pve channel copies", versions);
    promote(&node, "lab/web@1").with_code(0);
    assert_eq!(with_tag(&node, "stable"), [vmid(1), copy(1)]);
    let before = node.server.requests().len();
    promote(&node, "lab/web@2").with_code(0);
    let config = |on: &str, vmid: u32| format!("POST /nodes/{on}/qemu/{vmid}/config");
    assert_eq!(
        changes_since(&node, before),
        [
            config("pve2", vmid(2)),
            config("pve", copy(2)),
            config("pve", vmid(1)),
            config("pve2", copy(1)),
        ]
    );
    assert_eq!(with_tag(&node, "stable"), [vmid(2), copy(2)]);
    node.imgbuild(&["template", "rollback", "lab/web@stable"])
        .with_code(0);
    assert_eq!(with_tag(&node, "stable"), [vmid(1), copy(1)]);
    // Nothing else of them was changed.
    assert_eq!(with_tag(&node, "imgbuild-replica"), [copy(1), copy(2)]);
    assert_eq!(with_tag(&node, "v2"), [vmid(2), copy(2)]);
}

#[test]
fn a_copy_that_cannot_be_tagged_leaves_the_channel_where_it_was_as_well() {
    let node = cluster(
        "pve channel copy refused",
        &[("pve", &["pve2"]), ("pve", &["pve2"])],
    );
    promote(&node, "lab/web@1").with_code(0);
    let refused = What::Error {
        reason: "no luck".into(),
    };
    node.server
        .inject(Fault::on("POST", "/nodes/pve2/qemu/*/config").with(refused));
    promote(&node, "lab/web@2")
        .with_code(1)
        .saying("no luck")
        .saying("makes them agree");
    assert_eq!(with_tag(&node, "stable"), [vmid(1), vmid(2), copy(1)]);
    promote(&node, "lab/web@2").with_code(0);
    assert_eq!(with_tag(&node, "stable"), [vmid(2), copy(2)]);
}

#[test]
fn what_is_on_a_node_that_is_off_is_told_and_keeps_no_channel_from_moving() {
    let versions: &[(&str, &[&str])] = &[("pve2", &[]), ("pve", &["pve2"]), ("pve2", &[])];
    let node = cluster("pve channel off", versions);
    promote(&node, "lab/web@1").with_code(0);
    node.server.power("pve2", false);
    promote(&node, "lab/web@2")
        .with_code(0)
        .saying("lab/web@1: its node is offline; its tags are left as they are")
        .saying("its copy 9022 on pve2: its node is offline");
    assert_eq!(with_tag(&node, "stable"), [vmid(1), vmid(2)]);
    promote(&node, "lab/web@3")
        .with_code(5)
        .saying("its node is offline");
    node.imgbuild(&["template", "rm", "lab/web@1"])
        .with_code(1)
        .saying("removing the template 9001 (web-1) from lab: pve2 is offline");
    node.imgbuild(&["template", "list", "--target", "lab"])
        .with_code(0)
        .saying("pve2 is offline, and not looked at")
        .printing_part("its node is offline\n");
    node.server.power("pve2", true);
    promote(&node, "lab/web@2").with_code(0);
    assert_eq!(with_tag(&node, "stable"), [vmid(2), copy(2)]);
}

#[test]
fn a_copy_that_is_gone_is_told_and_the_channel_moves() {
    let node = cluster("pve channel copy gone", &[("pve2", &["pve"])]);
    node.remove_vm(copy(1));
    promote(&node, "lab/web@1")
        .with_code(0)
        .saying("its copy 9021 on pve: it is gone");
    assert_eq!(with_tag(&node, "stable"), [vmid(1)]);
}

#[test]
fn a_version_is_removed_with_its_copies_which_go_first() {
    let node = cluster("pve rm copies", &[("pve2", &["pve"]), ("pve", &["pve2"])]);
    let before = node.server.requests().len();
    node.imgbuild(&["template", "rm", "lab/web@1"]).with_code(0);
    assert_eq!(
        changes_since(&node, before),
        [
            format!("DELETE /nodes/pve/qemu/{}", copy(1)),
            format!("DELETE /nodes/pve2/qemu/{}", vmid(1)),
        ]
    );
    assert_eq!(with_tag(&node, "web"), [vmid(2), copy(2)]);
    assert_eq!(list(&node.lab), ["lab/web@2"]);
    // After a crash in between.
    node.remove_vm(vmid(2));
    node.imgbuild(&["template", "rm", "lab/web@2"])
        .with_code(0)
        .saying("the template 9002 of lab/web@2 was gone already");
    assert_eq!(node.server.inventory().vms, Vec::<String>::new());
}

#[test]
fn a_linked_clone_of_any_of_them_keeps_all() {
    let node = cluster(
        "pve rm copies in use",
        &[("pve2", &["pve"]), ("pve", &["pve2"]), ("pve", &[])],
    );
    node.has_clone(copy(1), 9050, "of-the-copy");
    node.has_clone(vmid(2), 9051, "of-the-original");
    let before = node.server.inventory();
    for (version, clone) in [
        ("lab/web@1", "9050 (of-the-copy)"),
        ("lab/web@2", "9051 (of-the-original)"),
    ] {
        node.imgbuild(&["template", "rm", version])
            .with_code(5)
            .saying(&format!("{clone} is a linked clone of it"))
            .saying("nothing was changed");
    }
    node.imgbuild(&["template", "prune", "--keep", "1"])
        .with_code(0)
        .printing_part("removed 0 versions");
    assert_eq!(node.server.inventory(), before);
    assert_eq!(list(&node.lab).len(), 3);
}

#[test]
fn a_copy_that_was_changed_keeps_all_as_well() {
    let node = cluster("pve rm copy changed", &[("pve2", &["pve"])]);
    node.curl(&format!("qemu/{}/migrate", copy(1)), &["-d", "target=pve2"]);
    node.imgbuild(&["template", "rm", "lab/web@1"])
        .with_code(5)
        .saying("removing the template 9021 (web-1) from lab: it was moved to the node pve2");
    assert_eq!(with_tag(&node, "web"), [vmid(1), copy(1)]);
}

#[test]
fn templates_are_listed_with_their_nodes_and_each_copy_for_itself() {
    let node = cluster("pve list copies", &[("pve", &["pve2"]), ("pve2", &[])]);
    promote(&node, "lab/web@1").with_code(0);
    node.has_tagged_on(
        "pve2",
        9050,
        "db-7",
        "imgbuild;imgbuild-template;imgbuild-replica;db;v7",
    );
    let tags = fixed(1);
    node.curl_on(
        "pve2",
        &format!("qemu/{}/config", copy(1)),
        &["-X", "PUT", "--data-urlencode", &format!("tags={tags}")],
    );
    let list = ["template", "list", "--target", "lab"];
    node.imgbuild(&list).with_code(0).printing(&format!(
        " 9001  lab/web@1    1.00 GiB  on pve, stable, build {}\n \
         9002  lab/web@2    1.00 GiB  on pve2, build {}\n \
         9021  lab/web@1    1.00 GiB  on pve2, build {}, a copy for this node, it lacks the tag stable, \
         it lacks the tag imgbuild-replica\n \
         9050  db-7         1.00 GiB  on pve2, a copy for this node, not in the registry here\n",
        build(1),
        build(2),
        build(1)
    ));
    let listed = result(node.imgbuild(&[&list[..], &["--format", "json"]].concat()));
    let copy = &listed["templates"][2];
    assert_eq!(
        (&copy["node"], &copy["replica"]),
        (&json!("pve2"), &json!(true))
    );
    assert_eq!(listed["templates"][0]["drift"], json!([]));
}

#[test]
fn a_target_with_one_node_and_copies_is_looked_at_on_all_of_them() {
    let node = cluster("pve list fixed copies", &[("pve", &["pve2"])]);
    let nodes = |lines: &str| {
        node.target(&format!(
            "node = \"pve\"\nvmid-range = \"9000-9099\"\n{lines}\
             storages = {{ import = \"local\", images = \"local\", iso = \"local\" }}\n"
        ));
    };
    nodes("replicate = [\"pve2\"]\n");
    node.imgbuild(&["template", "list", "--target", "lab"])
        .with_code(0)
        .printing_part(" 9021  lab/web@1    1.00 GiB  on pve2, ");
    node.curl_on("pve2", "qemu/9021/config", &["-X", "PUT", "-d", "name=db"]);
    node.imgbuild(&["template", "list", "--target", "lab"])
        .with_code(0)
        .printing_part("it was renamed to db\n");
    promote(&node, "lab/web@1").with_code(0);
    assert_eq!(with_tag(&node, "stable"), [vmid(1), copy(1)]);
    nodes("");
    node.imgbuild(&["template", "promote", "lab/web@1", "edge"])
        .with_code(0);
    assert_eq!(with_tag(&node, "edge"), [vmid(1), copy(1)]);
}

#[test]
fn a_plan_is_for_the_node_where_the_build_would_go_and_tells_of_missing_copies() {
    let node = cluster("pve plan copies", &[("pve", &["pve2"])]);
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let recipe = recipe_by_file(&node.lab, "disk.qcow2");
    // The node where it would not go has it.
    node.put(&disk.file, &disk.bytes);
    let plan = ["plan", "--target", "lab", &recipe];
    let volume = format!("local:import/{}", disk.file);
    let before = node.server.requests().len();
    node.imgbuild(&plan)
        .with_code(0)
        .printing_part(&format!("target    lab, pve2: {volume} is brought\n"))
        .not_saying("drift");
    assert_eq!(changes_since(&node, before), Vec::<String>::new());
    node.curl_on("pve2", "qemu/9021?purge=1", &["-X", "DELETE"]);
    node.imgbuild(&plan)
        .with_code(0)
        .printing_part("drift     lab/web@1: its copy 9021 on pve2: it is gone\n");
    let plan = result(node.imgbuild(&[&plan[..], &["--format", "json"]].concat()));
    assert_eq!(plan["plan"]["target"]["node"], "pve2");
}

#[test]
fn status_tells_what_is_on_which_node() {
    let node = cluster("pve status nodes", &[("pve", &["pve2"])]);
    let layer = "imgbuild;imgbuild-layer;imgbuild-key-0a0b;imgbuild-used-20200101-000000";
    node.has_tagged_on("pve2", 9070, "imgbuild-layer-0a0b", layer);
    let ended = node.imgbuild(&["status", "--target", "lab"]).with_code(0);
    for part in [
        " 9001  lab/web@1    1.00 GiB  on pve, ",
        " 9021  lab/web@1    1.00 GiB  on pve2, ",
        " ago, on pve2\n",
        " free (import, images, iso), on pve\n",
        " free (import, images, iso), on pve2\n",
    ] {
        assert!(ended.stdout.contains(part), "{part}\n{}", ended.stdout);
    }
    let status = result(node.imgbuild(&["status", "--target", "lab", "--format", "json"]));
    assert_eq!(status["layers"][0]["node"], "pve2");
    assert_eq!(status["storages"][1]["node"], "pve2");
}

#[test]
fn a_template_is_one_before_the_cluster_s_list_says_so() {
    let node = cluster("pve late list", &[]);
    // The server makes the list now, and not again for some seconds.
    node.imgbuild(&["template", "list", "--target", "lab"])
        .with_code(0);
    node.has_version(1, "pve", &[]);
    node.is_registered();
    node.target(
        "node = \"pve2\"\nvmid-range = \"9000-9099\"\n\
         storages = { import = \"local\", images = \"local\", iso = \"local\" }\n",
    );
    let recipe = "[image]\nname = \"db\"\n[source]\nimage = \"web\"\n";
    let recipe = node.lab.write("db.toml", recipe);
    node.imgbuild(&["run", "--target", "lab", recipe.to_str().unwrap()])
        .with_code(5)
        .saying("building on lab/web@1: it is on pve, and the target builds on pve2");
}

#[test]
fn nobody_is_asked_about_what_is_on_a_node_that_is_off() {
    let node = cluster("pve list off", &[("pve2", &[])]);
    node.target("node = \"pve\"\nvmid-range = \"9000-9099\"\nstorages = { import = \"local\" }\n");
    let list = || {
        let before = node.server.requests().len();
        node.imgbuild(&["template", "list", "--target", "lab"])
            .with_code(0);
        let asked = node.requests_since(before).into_iter();
        asked.filter(|it| it.contains("/nodes/pve2/")).count()
    };
    node.server.power("pve2", false);
    assert_eq!(list(), 0);
}
