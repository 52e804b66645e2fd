//! Versions whose templates are on a Proxmox VE node: channels, removing, listing, and what differs from the records.

mod lab;

use lab::Image;
use lab::node::{Disk, Node, recipe_by_file};
use lab::template::{build, fixed, vmid};
use lab::versions::list;
use pve_lab::{BUILDER, Fault, Setup, TOKEN, What};
use serde_json::Value;

const CONFIG: &str = "/nodes/*/qemu/*/config";
const RESOURCES: &str = "/cluster/resources";

/// A node with so many versions of `lab/web`.
fn node(name: &str, setup: Setup, versions: u32) -> Node {
    let node = Node::whole(name, setup, "9000-9099");
    node.has_versions(versions);
    node
}

fn promote(node: &Node, version: &str, channel: &str) -> lab::Ended {
    node.imgbuild(&["template", "promote", version, channel])
}

/// Asserts the tags of a version's template.
#[track_caller]
fn assert_tags(node: &Node, number: u32, more: &str) {
    let told = node.machine(vmid(number)).unwrap();
    let (name, rest) = told.split_once(" [").unwrap();
    let (tags, rest) = rest.split_once(']').unwrap();
    // The server puts them into its own order.
    let expected = format!("{}{more}", fixed(number));
    let [tags, expected] = [tags, &expected].map(|tags| {
        let mut tags: Vec<_> = tags.split(';').map(str::to_owned).collect();
        tags.sort();
        tags
    });
    assert_eq!(
        (name, rest),
        (format!("web-{number}").as_str(), " template")
    );
    assert_eq!(tags, expected);
}

/// Asserts that nothing but questions was asked since then.
#[track_caller]
fn assert_only_asked(node: &Node, since: usize) {
    let asked = node.requests_since(since);
    assert!(!asked.is_empty());
    let others = asked.iter().filter(|request| !request.starts_with("GET "));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
}

fn json(ended: lab::Ended) -> Value {
    let ended = ended.with_code(0);
    serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_channel_is_a_tag_that_moves_with_it_and_all_other_tags_stay() {
    let node = node("pve channels", Setup::new(), 3);
    node.configure(vmid(1), &format!("tags={};mine", fixed(1)));
    promote(&node, "lab/web@1", "stable")
        .with_code(0)
        .printing("lab/web@stable is lab/web@1\n");
    promote(&node, "lab/web@3", "candidate").with_code(0);
    assert_tags(&node, 1, ";mine;stable");
    let before = node.server.requests().len();
    promote(&node, "lab/web@2", "stable")
        .with_code(0)
        .printing("lab/web@stable is lab/web@2 (was lab/web@1)\n");
    let writes = node.requests_since(before).into_iter();
    let writes: Vec<_> = writes
        .filter(|request| request.starts_with("POST"))
        .collect();
    let expected = [9002, 9001].map(|vmid| format!("POST /nodes/pve/qemu/{vmid}/config"));
    assert_eq!(
        writes, expected,
        "the new one has it before the old one loses it"
    );
    assert_tags(&node, 1, ";mine");
    assert_tags(&node, 2, ";stable");
    assert_tags(&node, 3, ";candidate");
    node.imgbuild(&["template", "rollback", "lab/web@stable"])
        .with_code(0)
        .printing("lab/web@stable is lab/web@1 (was lab/web@2)\n");
    assert_tags(&node, 1, ";mine;stable");
    assert_tags(&node, 2, "");
    assert_eq!(
        list(&node.lab),
        ["lab/web@1 stable", "lab/web@2", "lab/web@3 candidate"]
    );
    for tag in ["imgbuild-template", "web", "mine"] {
        let channel = format!("lab/web@{tag}");
        node.imgbuild(&["template", "unpromote", &channel])
            .with_code(2)
            .saying("there is no such channel");
    }
    assert_tags(&node, 1, ";mine;stable");
    let unpromote = ["template", "unpromote", "lab/web@stable"];
    let away = Fault::on("GET", RESOURCES).with(What::Unauthorized);
    node.server.inject(away);
    node.imgbuild(&unpromote).with_code(1);
    node.imgbuild(&unpromote)
        .with_code(0)
        .printing("lab/web@stable is no more (was lab/web@1)\n");
    assert_tags(&node, 1, ";mine");
    node.imgbuild(&unpromote)
        .with_code(2)
        .saying("there is no such channel");
    assert_eq!(
        list(&node.lab),
        ["lab/web@1", "lab/web@2", "lab/web@3 candidate"]
    );
}

#[test]
fn promoting_again_makes_the_server_agree_with_the_registry() {
    let node = node("pve channels again", Setup::new().pace(100), 2);
    promote(&node, "lab/web@1", "stable").with_code(0);
    let away = Fault::on("*", "/**").always().with(What::CutCall);
    node.server.inject(away);
    promote(&node, "lab/web@2", "stable")
        .with_code(1)
        .saying("moving the tag stable on lab")
        .saying("the connection broke")
        .saying("in the registry lab/web@stable is lab/web@2, on lab it is not yet")
        .saying("`imgbuild template promote lab/web@2 stable` makes them agree");
    assert_eq!(list(&node.lab), ["lab/web@1", "lab/web@2 stable"]);
    node.server.relent();
    assert_tags(&node, 1, ";stable");
    promote(&node, "lab/web@2", "stable")
        .with_code(0)
        .printing("lab/web@stable is lab/web@2 already\n");
    assert_tags(&node, 1, "");
    assert_tags(&node, 2, ";stable");
    let before = node.server.requests().len();
    promote(&node, "lab/web@2", "stable").with_code(0);
    assert_only_asked(&node, before);
}

#[test]
fn tags_come_to_what_they_should_be_whatever_becomes_of_calls_and_answers() {
    let changed = "checksum mismatch (file change by other user?)";
    for (method, what) in [
        ("POST", What::CutCall),
        ("POST", What::CutAnswer),
        ("POST", What::GatewayTimeout),
        ("POST", What::StrangeAnswer),
        ("POST", What::LockTimeout),
        (
            "POST",
            What::Error {
                reason: changed.into(),
            },
        ),
        (
            "POST",
            What::TaskError {
                message: changed.into(),
            },
        ),
        ("GET", What::CutAnswer),
    ] {
        let node = node(&format!("pve channel {what:?}"), Setup::new().pace(100), 2);
        promote(&node, "lab/web@1", "stable").with_code(0);
        for nth in [1, 2] {
            node.server
                .inject(Fault::on(method, CONFIG).nth(nth).with(what.clone()));
        }
        promote(&node, "lab/web@2", "stable").with_code(0);
        assert_tags(&node, 1, "");
        assert_tags(&node, 2, ";stable");
        let requests = node.server.requests();
        assert!(requests.iter().any(|request| request.fault), "{what:?}");
    }
}

#[test]
fn the_old_template_keeps_its_tag_until_the_new_one_has_it() {
    let forbidden = What::Forbidden {
        path: "/vms/9002".into(),
        privilege: "VM.Config.Options".into(),
    };
    let refused = What::Error {
        reason: "no luck".into(),
    };
    for (what, said) in [
        (
            forbidden,
            "the privilege VM.Config.Options on /vms/9002 is missing",
        ),
        (refused, "no luck"),
    ] {
        let node = node(&format!("pve channel {what:?}"), Setup::new(), 2);
        promote(&node, "lab/web@1", "stable").with_code(0);
        node.server.inject(Fault::on("POST", CONFIG).with(what));
        promote(&node, "lab/web@2", "stable")
            .with_code(1)
            .saying(said)
            .saying("makes them agree");
        assert_tags(&node, 1, ";stable");
        assert_tags(&node, 2, "");
    }
    // One that is gone never gets it.
    let node = node("pve channel of nothing", Setup::new(), 2);
    promote(&node, "lab/web@1", "stable").with_code(0);
    node.remove_vm(vmid(2));
    promote(&node, "lab/web@2", "stable")
        .with_code(5)
        .saying("it is gone")
        .saying("imgbuild template rollback lab/web@CHANNEL");
    assert_tags(&node, 1, ";stable");
    node.imgbuild(&["template", "rollback", "lab/web@stable"])
        .with_code(0);
    assert_tags(&node, 1, ";stable");
}

#[test]
fn a_template_of_another_registry_with_the_same_channel_is_told() {
    let node = node("pve channel of others", Setup::new(), 1);
    let theirs = fixed(7);
    node.has_tagged(9050, "web-7", &format!("{theirs};stable"));
    promote(&node, "lab/web@1", "stable")
        .with_code(0)
        .saying("9050 (web-7), which this registry does not know, has the tag stable as well");
    let written = node.calls("POST", "/qemu/9050/config");
    assert_eq!(written, 0);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    let node = node("pve channels refused", Setup::new(), 1);
    let before = node.server.requests().len();
    for channel in ["v3", "web", "imgbuild-template"] {
        promote(&node, "lab/web@1", channel)
            .with_code(2)
            .saying("means something else there");
    }
    let project = std::fs::read_to_string(node.lab.path("imgbuild.toml")).unwrap();
    let other = project.replace("node = \"pve\"", "node = \"pve2\"");
    node.lab.write("imgbuild.toml", other);
    for command in [
        &["template", "promote", "lab/web@1", "stable"][..],
        &["template", "rm", "lab/web@1"],
    ] {
        node.imgbuild(command)
            .with_code(2)
            .saying("it was made with the node pve, the target lab has pve2");
    }
    node.lab.write(
        "imgbuild.toml",
        project.replace("targets.lab", "targets.other"),
    );
    promote(&node, "lab/web@1", "stable")
        .with_code(2)
        .saying("looking for the target lab");
    assert_eq!(node.server.requests().len(), before, "nothing was asked");
    assert_eq!(list(&node.lab), ["lab/web@1"]);
}

#[test]
fn a_version_is_removed_there_and_here() {
    let node = node("pve rm", Setup::new(), 2);
    promote(&node, "lab/web@1", "stable").with_code(0);
    let before = node.server.requests().len();
    node.imgbuild(&["template", "rm", "lab/web@1"])
        .with_code(5)
        .saying("the channel stable points to it");
    assert_eq!(
        node.server.requests().len(),
        before,
        "the registry is first"
    );
    node.imgbuild(&["template", "rm", "lab/web@2"])
        .with_code(0)
        .printing("removed lab/web@2 (1.00 GiB)\n");
    assert_eq!(node.machine(vmid(2)), None);
    assert_eq!(list(&node.lab), ["lab/web@1 stable"]);
    assert!(!node.lab.path("out/lab/web-2.template").exists());
    assert!(!node.lab.path("out/lab/web-2.template.build.json").exists());
    let volumes = node.server.inventory().volumes;
    assert!(
        volumes.iter().all(|(id, _)| id.contains("9001")),
        "{volumes:?}"
    );
}

#[test]
fn a_disk_that_stays_when_its_template_goes_is_named_until_it_is_gone() {
    let node = node("pve rm busy disk", Setup::new(), 1);
    let busy = Fault::on("DELETE", "/nodes/*/qemu/*").with(What::DiskStays);
    node.server.inject(busy);
    let refused = What::Error {
        reason: "no luck".into(),
    };
    let disk = Fault::on("DELETE", "/nodes/*/storage/*/content/**");
    node.server.inject(disk.with(refused));
    let rm = ["template", "rm", "lab/web@1"];
    node.imgbuild(&rm)
        .with_code(1)
        .saying("it is gone, but its disk stays")
        .saying("on the node: pvesm free local:9001/base-9001-disk-0");
    assert_eq!(node.machine(vmid(1)), None);
    assert_eq!(list(&node.lab), ["lab/web@1"]);
    node.imgbuild(&rm).with_code(0);
    let volumes = node.server.inventory().volumes;
    assert!(volumes.is_empty(), "{volumes:?}");
    assert_eq!(list(&node.lab), Vec::<String>::new());
}

#[test]
fn a_template_that_has_linked_clones_stays_and_so_does_the_version() {
    let node = node("pve rm in use", Setup::new(), 2);
    node.has_clone(vmid(1), 9050, "db");
    let before = node.server.inventory();
    let rm = ["template", "rm", "lab/web@1"];
    node.imgbuild(&rm)
        .with_code(5)
        .saying("9050 (db) is a linked clone of it")
        .saying("nothing was changed");
    let prune = ["template", "prune", "--keep", "1"];
    node.imgbuild(&prune)
        .with_code(0)
        .printing("kept lab/web@1: 9050 (db) is a linked clone of it\nremoved 0 versions (0 B)\n");
    assert_eq!(node.server.inventory(), before);
    assert_eq!(list(&node.lab), ["lab/web@1", "lab/web@2"]);
    node.remove_vm(9050);
    node.imgbuild(&rm).with_code(0);
    assert_eq!(list(&node.lab), ["lab/web@2"]);
}

#[test]
fn only_the_template_of_the_build_is_removed() {
    // Gone, as after a crash between the two steps.
    let node = node("pve rm of what is not there", Setup::new(), 4);
    let rm = |number: u32| node.imgbuild(&["template", "rm", &format!("lab/web@{number}")]);
    node.remove_vm(vmid(1));
    rm(1).with_code(0).saying("was gone already");
    // Somebody else has its id.
    node.remove_vm(vmid(2));
    node.has_tagged(vmid(2), "db", "mine");
    rm(2)
        .with_code(0)
        .saying("9002 is db now")
        .saying("it stays");
    assert_eq!(node.machine(vmid(2)), Some("db [mine] template".into()));
    // It was restored as a machine.
    node.remove_vm(vmid(3));
    node.has_vm(vmid(3), "web-3", &fixed(3));
    rm(3)
        .with_code(5)
        .saying("it is no template any more")
        .saying(&format!("take its tag imgbuild-{} off", build(3)));
    assert!(node.machine(vmid(3)).is_some());
    // Its file here is gone.
    std::fs::remove_file(node.lab.path("out/lab/web-4.template")).unwrap();
    rm(4)
        .with_code(0)
        .saying("nobody knows which template lab/web@4 was");
    assert!(node.machine(vmid(4)).is_some());
    assert_eq!(list(&node.lab), ["lab/web@3"]);
}

#[test]
fn a_template_that_was_moved_is_told_and_not_forgotten() {
    let node = node(
        "pve rm of what was moved",
        Setup::new().node("pve2").pace(1000),
        1,
    );
    node.curl("qemu/9001/migrate", &["-d", "target=pve2"]);
    node.imgbuild(&["template", "rm", "lab/web@1"])
        .with_code(5)
        .saying("it was moved to the node pve2");
    assert_eq!(list(&node.lab), ["lab/web@1"]);
}

#[test]
fn removing_gets_to_its_end_though_answers_are_lost() {
    for what in [
        What::CutCall,
        What::CutAnswer,
        What::GatewayTimeout,
        What::StrangeAnswer,
    ] {
        let node = node(&format!("pve rm {what:?}"), Setup::new().pace(100), 1);
        node.server
            .inject(Fault::on("DELETE", "/nodes/*/qemu/*").with(what));
        node.imgbuild(&["template", "rm", "lab/web@1"]).with_code(0);
        assert_eq!(node.machine(vmid(1)), None);
        assert_eq!(list(&node.lab), Vec::<String>::new());
    }
    let node = node("pve rm refused", Setup::new(), 1);
    let forbidden = What::Forbidden {
        path: "/vms/9001".into(),
        privilege: "VM.Allocate".into(),
    };
    node.server
        .inject(Fault::on("DELETE", "/nodes/*/qemu/*").with(forbidden));
    node.imgbuild(&["template", "rm", "lab/web@1"])
        .with_code(1)
        .saying("the privilege VM.Allocate on /vms/9001 is missing");
    assert_eq!(list(&node.lab), ["lab/web@1"]);
}

#[test]
fn pruning_removes_what_it_can_and_names_the_rest() {
    let node = node("pve prune", Setup::new(), 5);
    promote(&node, "lab/web@1", "stable").with_code(0);
    node.has_clone(vmid(2), 9050, "db");
    let prune = ["template", "prune", "lab/web", "--keep", "1"];
    let before = node.server.requests().len();
    node.imgbuild(&[&prune[..], &["--dry-run"]].concat())
        .with_code(0)
        .printing_part("would remove lab/web@2 (1.00 GiB)\n");
    assert_eq!(node.server.requests().len(), before);
    let refused = Fault::on("DELETE", "/nodes/pve/qemu/9003").with(What::Error {
        reason: "no luck".into(),
    });
    node.server.inject(refused);
    node.imgbuild(&prune)
        .with_code(1)
        .saying("no luck")
        .printing_part("removed lab/web@4 (1.00 GiB)\n")
        .printing_part("kept lab/web@1: the channel stable points to it\n")
        .printing_part("kept lab/web@2: 9050 (db) is a linked clone of it\n");
    assert_eq!(
        list(&node.lab),
        ["lab/web@1 stable", "lab/web@2", "lab/web@3", "lab/web@5"]
    );
    node.imgbuild(&prune).with_code(0);
    assert_eq!(node.machine(vmid(3)), None);
}

/// A node with something of everything.
fn full(name: &str) -> Node {
    let node = node(name, Setup::new(), 2);
    promote(&node, "lab/web@2", "stable").with_code(0);
    node.configure(vmid(1), "name=old-web");
    node.has_tagged(
        9050,
        "db-7",
        "imgbuild;imgbuild-template;imgbuild-20200101-000000-0a0b;db;v7;edge",
    );
    node.has_vm(9060, "somebody-elses", "web");
    let layer = "imgbuild;imgbuild-layer;imgbuild-key-0a0b;imgbuild-used-20200101-000000";
    node.has_tagged(9070, "imgbuild-layer-0a0b", layer);
    let note = "A layer.\n\n```json\n{\"key\": \"0a0b\", \"image\": \"web\", \"step\": \"nginx\", \
                \"created\": \"2020-01-01T00:00:00Z\", \"expires\": null, \"recorded\": {}}\n```";
    node.configure(9070, &format!("description={note}"));
    let until = "imgbuild-until-29990101-000000";
    node.has_vm(
        9080,
        "at-work",
        &format!("imgbuild;imgbuild-20261125-000000-0a0b;{until}"),
    );
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    node.put("imgbuild-0a0b0c0d0e0f.qcow2", &disk.bytes);
    node
}

#[test]
fn templates_are_listed_as_the_server_has_them() {
    let node = full("pve template list");
    let before = node.server.requests().len();
    let list = ["template", "list", "--target", "lab"];
    node.imgbuild(&list).with_code(0).printing(&format!(
        " 9001  lab/web@1    1.00 GiB  build {}, it was renamed to old-web\n \
         9002  lab/web@2    1.00 GiB  stable, build {}\n \
         9050  db-7         1.00 GiB  edge, build 20200101-000000-0a0b, not in the registry here\n",
        build(1),
        build(2)
    ));
    assert_only_asked(&node, before);
    node.imgbuild(&[&list[..], &["db"]].concat())
        .with_code(0)
        .printing_part(" 9050  db-7  ");
    let listed = json(node.imgbuild(&[&list[..], &["--format", "json"]].concat()));
    let templates = &listed["templates"];
    assert_eq!(templates[0]["drift"][0], "it was renamed to old-web");
    assert_eq!(templates[1]["version"], "lab/web@2");
    assert_eq!(templates[1]["channels"][0], "stable");
    assert_eq!(templates[2]["version"], Value::Null);
    assert_eq!(templates[2]["size"], 1u64 << 30);
    node.remove_vm(vmid(2));
    node.imgbuild(&list).with_code(0).printing_part(&format!(
        "lab/web@2    1.00 GiB  build {}, it is gone\n",
        build(2)
    ));
}

#[test]
fn status_tells_all_that_is_on_a_target_and_only_asks() {
    let node = full("pve status");
    let before = node.server.requests().len();
    let ended = node.imgbuild(&["status", "--target", "lab"]).with_code(0);
    assert_only_asked(&node, before);
    for part in [
        "templates\n   9001  lab/web@1 ",
        "layers\n   9070  after `nginx` of web, used ",
        "machines and seeds of builds\n  the machine 9080 of build 20261125-000000-0a0b on pve",
        ", until 2999-01-01 00:00 UTC\n",
        "base images\n  0a0b0c0d0e0f  ",
        "  local:import/imgbuild-0a0b0c0d0e0f.qcow2\nstorages\n  local  ",
        " of 1.00 TiB free (import, images, iso)\n",
    ] {
        assert!(ended.stdout.contains(part), "{part}\n{}", ended.stdout);
    }
    let status = json(node.imgbuild(&["status", "--target", "lab", "--format", "json"]));
    assert_eq!(status["templates"].as_array().unwrap().len(), 3);
    assert_eq!(status["layers"][0]["step"], "nginx");
    assert_eq!(status["of-builds"][0]["build"], "20261125-000000-0a0b");
    assert_eq!(status["storages"][0]["total"], 1u64 << 40);
    let empty = Node::whole("pve empty status", Setup::new(), "9000-9099");
    empty
        .imgbuild(&["status", "--target", "lab"])
        .with_code(0)
        .printing_part("templates\n  none\nlayers\n  none\n");
}

#[test]
fn a_plan_says_what_a_build_there_would_do_and_only_asks() {
    let node = Node::whole("pve plan", Setup::new(), "9000-9099");
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let recipe = recipe_by_file(&node.lab, "disk.qcow2");
    let more = "[[step]]\nname = \"one\"\nrun = \"true\"\n";
    let text = std::fs::read_to_string(&recipe).unwrap();
    std::fs::write(&recipe, text + more).unwrap();
    let plan = ["plan", "--target", "lab", "--detailed-exit-code", &recipe];
    let volume = format!("local:import/{}", disk.file);
    node.imgbuild(&plan)
        .with_code(4)
        .printing_part(&format!("target    lab: {volume} is brought\n"))
        .printing_part("boot      runs: there is no layer to go on from\n")
        .printing_part("runs: there is no layer with it\n");
    assert_only_asked(&node, 0);
    node.pull(&recipe).with_code(0);
    let before = node.server.requests().len();
    node.imgbuild(&plan)
        .with_code(4)
        .printing_part(&format!("target    lab: {volume} is there\n"));
    assert_only_asked(&node, before);
}

#[test]
fn a_plan_shows_how_the_newest_template_differs_from_its_record() {
    let node = node("pve drift", Setup::new().node("pve2").pace(1000), 2);
    Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let recipe = recipe_by_file(&node.lab, "disk.qcow2");
    promote(&node, "lab/web@2", "stable").with_code(0);
    let plan = || {
        node.imgbuild(&["plan", "--target", "lab", &recipe])
            .with_code(0)
    };
    plan().not_saying("drift");
    node.configure(vmid(2), "name=db");
    let tags = fixed(2).replace(";v2", "");
    node.configure(vmid(2), &format!("tags={tags}"));
    let ended = plan()
        .printing_part("drift     lab/web@2: it was renamed to db\n")
        .printing_part("drift     lab/web@2: it lacks the tag v2\n")
        .printing_part("drift     lab/web@2: it lacks the tag stable\n");
    let drift = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("drift"));
    assert_eq!(drift.count(), 3);
    node.curl("qemu/9002/migrate", &["-d", "target=pve2"]);
    plan().printing_part("drift     lab/web@2: it was moved to the node pve2\n");
    let plan = ["plan", "--target", "lab", "--format", "json", &recipe];
    let target = json(node.imgbuild(&plan))["plan"]["target"].clone();
    assert_eq!(target["version"], "lab/web@2");
    assert_eq!(target["drift"][0], "it was moved to the node pve2");
}

#[test]
fn a_plan_needs_the_privilege_to_see_and_says_so() {
    let node = node("pve plan forbidden", Setup::new(), 1);
    Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let recipe = recipe_by_file(&node.lab, "disk.qcow2");
    let forbidden = What::Forbidden {
        path: "/storage/local".into(),
        privilege: "Datastore.Audit".into(),
    };
    let content = Fault::on("GET", "/nodes/*/storage/*/content").always();
    node.server.inject(content.with(forbidden));
    node.server
        .inject(Fault::on("GET", RESOURCES).with(What::CutAnswer));
    for command in [
        &["status", "--target", "lab"][..],
        &["plan", "--target", "lab", &recipe],
    ] {
        node.imgbuild(command)
            .with_code(1)
            .saying("looking at lab")
            .saying("the privilege Datastore.Audit on /storage/local is missing");
    }
}

#[test]
fn gc_removes_layers_that_nobody_used_for_long() {
    let node = Node::whole("pve gc layers", Setup::new(), "9000-9099");
    let layer = |vmid: u32, used: &str| {
        let tags = format!("imgbuild;imgbuild-layer;imgbuild-key-{vmid};imgbuild-used-{used}");
        node.has_tagged(vmid, &format!("imgbuild-layer-{vmid}"), &tags);
    };
    layer(9001, "20200101-000000");
    layer(9002, "29990101-000000");
    layer(9003, "20200102-000000");
    node.has_clone(9003, 9050, "a-build-s");
    node.has_tagged(9004, "not-ours", "imgbuild-layer");
    node.imgbuild(&["gc", "--target", "lab"])
        .with_code(0)
        .saying("removed the layer 9001 on lab, which was last used on 2020-01-01")
        .saying("the layer 9003 on lab is left alone: linked clones need it");
    let vms = node.server.inventory().vms;
    let ids: Vec<&str> = vms.iter().filter_map(|vm| vm.split(' ').next()).collect();
    assert_eq!(ids, ["9002", "9003", "9004", "9050"]);
    node.imgbuild(&["gc", "--target", "lab", "--format", "json"])
        .with_code(0)
        .printing_part("\"left-alone\":[\"the layer 9003 on lab\"]");
}

#[test]
fn doctor_sees_when_the_file_that_stands_for_a_template_was_changed() {
    let node = node("pve registry check", Setup::new(), 1);
    lab::versions::json(&node.lab, &["doctor"]);
    let path = node.lab.path("out/lab/web-1.template");
    let text = std::fs::read_to_string(&path).unwrap();
    let doctor = || node.imgbuild(&["doctor"]);
    assert!(!doctor().stdout.contains("gone or changed"));
    std::fs::write(&path, text.replace("9001", "9002")).unwrap();
    assert!(
        doctor()
            .stdout
            .contains("web-1.template is gone or changed")
    );
}

#[test]
fn a_login_that_sees_no_machines_is_not_told_that_all_are_gone() {
    let privileges: Vec<&str> = BUILDER
        .iter()
        .copied()
        .filter(|name| *name != "VM.Audit")
        .collect();
    let setup = Setup::new()
        .token("blind@pve!ci", "0000")
        .grant("/", "blind@pve!ci", &privileges);
    let node = node("pve blind", setup, 1);
    let mut command = node.command(&["template", "rm", "lab/web@1"]);
    command.env(lab::node::VARIABLE, "blind@pve!ci=0000");
    lab::Ended::from(command.output().unwrap())
        .with_code(1)
        .saying("VM.Audit");
    assert_eq!(list(&node.lab), ["lab/web@1"]);
    assert_ne!(TOKEN, "blind@pve!ci");
}

#[test]
fn what_a_build_leaves_is_what_all_of_this_works_with() {
    let setup = Setup::new().sandboxes(Image::Tiny.path());
    let node = Node::whole("pve template of a build", setup, "9000-9099");
    // A sandbox does not write to the disk, so what sealing removes is still on it.
    let rest =
        "[ssh]\nport = 2222\ntimeout = \"5m\"\n[seal]\nkeep = [\"hostname\", \"package-lists\"]\n";
    let recipe = node.lab.recipe("web", Image::Tiny, rest);
    let recipe = recipe.to_str().unwrap();
    node.imgbuild(&["run", "--target", "lab", recipe])
        .with_code(0);
    let plan = ["plan", "--target", "lab", "--detailed-exit-code", recipe];
    node.imgbuild(&plan)
        .with_code(0)
        .printing_part("image     web (up to date)\n")
        .not_saying("drift");
    promote(&node, "lab/web", "stable").with_code(0);
    let listed = json(node.imgbuild(&["template", "list", "--target", "lab", "--format", "json"]));
    let template = &listed["templates"][0];
    assert_eq!(template["version"], "lab/web@1");
    assert_eq!(template["channels"], serde_json::json!(["stable"]));
    assert_eq!(template["drift"], serde_json::json!([]));
    let vmid = u32::try_from(template["vmid"].as_u64().unwrap()).unwrap();
    node.configure(vmid, "name=db");
    node.imgbuild(&plan)
        .with_code(0)
        .printing_part("drift     lab/web@1: it was renamed to db\n");
    node.remove_vm(vmid);
    node.imgbuild(&plan)
        .with_code(4)
        .printing_part("drift     lab/web@1: it is gone\n")
        .not_saying("up to date");
}
