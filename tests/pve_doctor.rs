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
