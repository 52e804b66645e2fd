//! What `imgbuild doctor --target` finds.

mod lab;

use lab::node::Node;
use pve_lab::{BUILDER, Fault, Setup, Storage, TOKEN, What};

const DOCTOR: [&str; 3] = ["doctor", "--target", "lab"];

fn whole(name: &str, setup: Setup) -> Node {
    Node::whole(name, setup, "9000-9099")
}

#[test]
fn a_target_with_everything_is_good_and_looking_changes_nothing() {
    let node = whole("pve doctor", Setup::new());
    let ended = node.imgbuild(&DOCTOR).with_code(0);
    for what in [
        "settings",
        "server",
        "login",
        "version",
        "node",
        "privileges on /storage/local",
        "privileges on /vms",
        "storage local (import)",
        "storage local (images)",
        "storage local (iso)",
        "bridge vmbr0",
        "ids 9000 to 9099",
        "leftovers",
    ] {
        let good = |line: &str| line.starts_with("ok") && line.contains(what);
        assert!(ended.stdout.lines().any(good), "{what}:\n{}", ended.stdout);
    }
    let storage = |line: &&str| line.contains("privileges on /storage/local");
    assert_eq!(ended.stdout.lines().filter(storage).count(), 1);
    let requests = node.server.requests();
    assert!(requests.iter().all(|request| request.method == "GET"));
    node.assert_nothing_left();
}

#[test]
fn each_missing_privilege_is_named_with_the_command_that_grants_it() {
    let needed = [
        ("Datastore.Allocate", "/storage/local"),
        ("Datastore.AllocateSpace", "/storage/local"),
        ("Datastore.AllocateTemplate", "/storage/local"),
        ("Datastore.Audit", "/storage/local"),
        ("SDN.Use", "/sdn/zones/localnetwork/vmbr0"),
        ("VM.Allocate", "/vms"),
        ("VM.Audit", "/vms"),
        ("VM.Clone", "/vms"),
        ("VM.Config.CDROM", "/vms"),
        ("VM.Config.CPU", "/vms"),
        ("VM.Config.Disk", "/vms"),
        ("VM.Config.HWType", "/vms"),
        ("VM.Config.Memory", "/vms"),
        ("VM.Config.Network", "/vms"),
        ("VM.Config.Options", "/vms"),
        ("VM.Monitor", "/vms"),
        ("VM.PowerMgmt", "/vms"),
    ];
    for (privilege, path) in needed {
        let others: Vec<_> = BUILDER
            .iter()
            .copied()
            .filter(|other| *other != privilege)
            .collect();
        let setup = Setup::new().revoke(TOKEN).grant("/", TOKEN, &others);
        let node = whole(&format!("pve without {privilege}"), setup);
        let command = format!(
            "pveum role modify Imgbuild --append 1 --privs {privilege} && pveum acl modify {path} --users 'builder@pve' \
             --tokens 'builder@pve!lab' --roles Imgbuild"
        );
        let ended = node.imgbuild(&DOCTOR).with_code(1);
        let told = |line: &str| line.starts_with("MISSING") && line.contains(&command);
        assert!(
            ended.stdout.lines().any(told),
            "{privilege}:\n{}",
            ended.stdout
        );
    }
}

#[test]
fn what_works_without_a_privilege_is_told_as_a_note() {
    for privilege in ["Sys.AccessNetwork", "VM.Console"] {
        let others: Vec<_> = BUILDER
            .iter()
            .copied()
            .filter(|other| *other != privilege)
            .collect();
        let setup = Setup::new().revoke(TOKEN).grant("/", TOKEN, &others);
        let node = whole(&format!("pve without {privilege}"), setup);
        let ended = node.imgbuild(&DOCTOR).with_code(0);
        let command = format!("--append 1 --privs {privilege} && pveum acl modify");
        let told = |line: &str| line.starts_with("note") && line.contains(&command);
        assert!(ended.stdout.lines().any(told), "{}", ended.stdout);
    }
}

#[test]
fn what_the_node_lacks_is_told_with_what_mends_it() {
    let storage = Storage::new("local").holding(&["iso", "images"]);
    let node = whole("pve doctor storage", Setup::new().storage(storage));
    node.imgbuild(&DOCTOR)
        .with_code(1)
        .printing_part("pvesm set local --content iso,images,import");

    let node = whole("pve doctor names", Setup::new());
    let text = std::fs::read_to_string(node.lab.path("imgbuild.toml")).unwrap();
    let text = text
        .replace("vmbr0", "vmbr1")
        .replace("images = \"local\"", "images = \"locla\"");
    node.lab.write("imgbuild.toml", text.as_str());
    node.imgbuild(&DOCTOR)
        .with_code(1)
        .printing_part("did you mean `vmbr0`?")
        .printing_part("did you mean `local`?");
    node.lab.write(
        "imgbuild.toml",
        text.replace("node = \"pve\"", "node = \"pvee\""),
    );
    node.imgbuild(&DOCTOR)
        .with_code(1)
        .printing_part("there is no pvee; did you mean `pve`?");
}

#[test]
fn what_builds_have_left_is_told_and_what_they_may_still_need_as_well() {
    let node = whole("pve doctor leftovers", Setup::new());
    let tags = |until: &str| {
        format!("imgbuild;imgbuild-20260101-000000-0000;imgbuild-until-{until}-000000")
    };
    node.has_vm(9000, "over", &tags("20260102"));
    node.has_vm(9001, "leased", &tags("29990101"));
    node.has_vm(9002, "somebody-elses", "");
    let seed = "imgbuild-20260101-000000-0000-until-20260102-000000.iso";
    node.put_as("iso", seed, b"seed");
    let before = node.server.inventory();
    let made = node.server.requests().len();
    let ended = node.imgbuild(&DOCTOR).with_code(0);
    let told = |state: &str, what: &str| {
        let mut lines = ended.stdout.lines();
        lines.any(|line| line.starts_with(state) && line.contains(what))
    };
    assert!(
        told("note", "the machine 9000 of build"),
        "{}",
        ended.stdout
    );
    assert!(
        told("note", &format!("the seed {seed}")),
        "{}",
        ended.stdout
    );
    assert!(told("ok", "the machine 9001 of build"), "{}", ended.stdout);
    assert!(told("note", "`imgbuild gc --target lab` removes it"));
    assert!(!ended.stdout.contains("9002"));
    assert_eq!(node.server.inventory(), before);
    let requests = &node.server.requests()[made..];
    assert!(requests.iter().all(|request| request.method == "GET"));
}

#[test]
fn a_server_that_cannot_be_used_is_told_at_once() {
    let node = whole("pve doctor login", Setup::new());
    node.server.inject(
        Fault::on("GET", "/version")
            .always()
            .with(What::Unauthorized),
    );
    node.imgbuild(&DOCTOR)
        .with_code(1)
        .printing_part("MISSING  login");
    node.project("");
    node.imgbuild(&DOCTOR)
        .with_code(1)
        .printing_part("MISSING  certificate");
    let json = node
        .imgbuild(&["doctor", "--target", "lab", "--format", "json"])
        .with_code(1);
    let first = json.stdout.lines().next().unwrap();
    let told: serde_json::Value = serde_json::from_str(first).unwrap();
    assert_eq!(told["findings"][2]["what"], "certificate");
    assert_eq!(told["findings"][2]["state"], "missing");
}

/// A recipe that uses what not every recipe does.
const DEMANDING: &str = "
[image]
name = 'web'
[source]
file = 'base.qcow2'
[target.proxmox]
pool = 'templates'
disks = [{ size = '1GiB', storage = 'slow' }]
networks = [{ vlan = 20 }, { bridge = 'vmbr1' }]
hostpci = [{ mapping = 'gpu' }]
start-order = 1
";

#[test]
fn what_a_recipe_asks_of_the_node_is_looked_at_with_it() {
    let unused = ["Mapping.Use", "VM.Config.Cloudinit"];
    let others: Vec<_> = BUILDER
        .iter()
        .copied()
        .filter(|privilege| !unused.contains(privilege))
        .collect();
    let setup = Setup::new()
        .revoke(TOKEN)
        .grant("/", TOKEN, &others)
        .grant("/pool", TOKEN, &[])
        .grant("/sdn/zones/localnetwork/vmbr0/20", TOKEN, &[]);
    let node = whole("pve doctor hardware", setup);
    node.imgbuild(&DOCTOR).with_code(0);
    node.lab.write("web.toml", DEMANDING);
    let looked = node.imgbuild(&["doctor", "--target", "lab", "--boot", "web.toml"]);
    let looked = looked.with_code(1);
    for told in [
        "without VM.Allocate, which is for machines in the pool",
        "without VM.Config.Cloudinit, which is for machines, the template's cloud-init drive",
        "without SDN.Use, which is for the template's network",
        "pveum acl modify /mapping/pci/gpu ",
        "pveum acl modify /pool/templates ",
        "pveum acl modify /sdn/zones/localnetwork/vmbr0/20 ",
        "pveum role add ImgbuildRoot --privs Sys.Modify && pveum acl modify / --propagate 0",
        "MISSING  storage slow (images)",
        "MISSING  bridge vmbr1",
    ] {
        assert!(looked.stdout.contains(told), "{told}:\n{}", looked.stdout);
    }
    node.assert_nothing_left();
}
