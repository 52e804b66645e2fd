//! A machine on a Proxmox VE node, as `imgbuild doctor --boot` has it: made, found, used and removed.

use std::process::Stdio;
use std::time::Duration;

use crate::lab::node::{Disk, Node, recipe_by_file};
use crate::lab::{Ended, Image};
use pve_lab::{Fault, Setup, What};

const AGENT: &str = "/nodes/*/qemu/*/agent/*";

const CONSOLE: &str = "/nodes/*/qemu/*/vncwebsocket";

fn boot(node: &Node, recipe: &str) -> Ended {
    node.imgbuild(&["doctor", "--target", "lab", "--boot", recipe])
}

/// A recipe on the tiny guest, with these lines behind those of the machine.
fn tiny(node: &Node, rest: &str) -> String {
    let recipe = node.lab.recipe("tiny", Image::Tiny, rest);
    recipe.to_str().unwrap().to_owned()
}

/// Asserts that nothing of a machine is there; the base image stays.
#[track_caller]
fn assert_no_machine(node: &Node) {
    let now = node.server.inventory();
    assert_eq!(now.vms, Vec::<String>::new());
    let others = now
        .volumes
        .iter()
        .filter(|(id, _)| !id.contains(":import/"));
    assert_eq!(others.count(), 0, "{:?}", now.volumes);
    assert_eq!(
        (&now.strays, &now.running, &now.locked),
        (&vec![], &vec![], &vec![])
    );
    node.lab.assert_nothing_left();
}

#[test]
fn a_guest_with_an_agent_is_found_used_and_removed() {
    let node = Node::whole("pve boot by agent", Setup::new(), "9000-9001");
    node.has_vm(9000, "somebody-elses", "");
    let recipe = tiny(
        &node,
        "disk = \"3G\"\n[ssh]\nport = 2222\ntimeout = \"5m\"\n\
         [target.proxmox]\nmachine = \"i440fx\"\nrng = true\nvga = \"virtio\"\n",
    );
    let ended = boot(&node, &recipe).with_code(0);
    let at = format!("SSH answers at {}", node.server.address(9001));
    for what in [
        "9001 is made and started",
        &at,
        "Linux 6.",
        "the machine, its disk and its seed are gone",
    ] {
        assert!(ended.stdout.contains(what), "{what}:\n{}", ended.stdout);
    }
    assert_eq!(node.calls("PUT", "/resize"), 1);
    assert_eq!(node.server.inventory().vms, ["9000 somebody-elses []"]);
    node.lab.assert_nothing_left();
}

#[test]
fn a_guest_without_one_is_found_by_the_recipe_s_address() {
    let node = Node::whole("pve boot by address", Setup::new(), "9000-9000");
    let silent = Fault::on("*", AGENT).always().with(What::AgentSilent);
    node.server.inject(silent);
    let address = node.server.address(9000);
    let recipe = tiny(
        &node,
        &format!(
            "[ssh]\nport = 2222\ntimeout = \"5m\"\n[cloud-init.network-config]\nversion = 2\n\
             ethernets.any = {{ match = {{ name = \"e*\" }}, addresses = [\"{address}/8\"] }}\n"
        ),
    );
    boot(&node, &recipe)
        .with_code(0)
        .printing_part(&format!("SSH answers at {address}"));
    assert_no_machine(&node);
}

/// Without its disk being of any use: that is the lab's affair.
#[test]
fn a_guest_in_a_sandbox_is_one_like_others() {
    let setup = Setup::new().sandboxes(Image::Tiny.path());
    let node = Node::whole("pve boot sandbox", setup, "9000-9000");
    Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let source = "[image]\nname = \"web\"\n[source]\nfile = \"disk.qcow2\"\n[ssh]\nport = 2222\n";
    let recipe = node.lab.write("web.toml", source);
    let address = node.server.address(9000);
    boot(&node, recipe.to_str().unwrap())
        .with_code(0)
        .printing_part(&format!("SSH answers at {address}"));
    assert_no_machine(&node);
}

#[test]
fn a_guest_without_either_is_found_by_its_console_though_that_breaks_off() {
    let node = Node::whole("pve boot by console", Setup::new(), "9000-9000");
    let silent = Fault::on("*", AGENT).always().with(What::AgentSilent);
    node.server.inject(silent);
    let refused = What::Error {
        reason: "no luck".into(),
    };
    node.server.inject(Fault::on("GET", CONSOLE).with(refused));
    let cut = Fault::on("GET", CONSOLE).nth(2).with(What::CutAnswer);
    node.server.inject(cut);
    let recipe = tiny(&node, "[ssh]\nport = 2222\ntimeout = \"5m\"\n");
    let at = format!("SSH answers at {}", node.server.address(9000));
    boot(&node, &recipe).with_code(0).printing_part(&at);
    assert!(node.calls("GET", "/vncwebsocket") >= 3);
    assert_no_machine(&node);
}

#[test]
fn a_boot_that_fails_shows_the_end_of_the_console() {
    let node = Node::whole("pve boot that fails", Setup::new(), "9000-9000");
    let silent = Fault::on("*", AGENT).always().with(What::AgentSilent);
    node.server.inject(silent);
    // Nothing listens there, so it never gets in.
    let recipe = tiny(&node, "[ssh]\nport = 2223\ntimeout = \"30m\"\n");
    let arguments = ["doctor", "--target", "lab", "--boot", recipe.as_str()];
    let mut command = node.command(&arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut booting = command.spawn().unwrap();
    let console = node.server.folder().join("run/9000/serial0");
    let is_up = || {
        let said = std::fs::read(&console).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        // What was said before has been read since.
        let after = said.split("tiny: sshd is up").nth(1);
        after.is_some_and(|after| after.matches("imgbuild-address").count() > 3)
    };
    while !is_up() {
        assert_eq!(booting.try_wait().unwrap(), None, "it ended before");
        std::thread::sleep(Duration::from_millis(20));
    }
    // It was read all the time, over one connection.
    assert_eq!(node.calls("GET", "/vncwebsocket"), 1);
    node.stop_vm(9000);
    let ended = Ended::from(booting.wait_with_output().unwrap()).with_code(1);
    for said in [
        "it does not run any more",
        "last lines of the serial console",
        "tiny: sshd is up",
    ] {
        assert!(ended.stderr.contains(said), "{said}:\n{}", ended.stderr);
    }
    assert!(
        !ended.stderr.contains("imgbuild-address"),
        "{}",
        ended.stderr
    );
    assert_no_machine(&node);
}

#[test]
fn where_nobody_may_tell_the_address_it_is_said_at_once() {
    let node = Node::whole("pve boot unseen", Setup::new(), "9000-9000");
    let forbidden = |call: Fault, privilege: &str| {
        node.server.inject(call.always().with(What::Forbidden {
            path: "/vms/9000".into(),
            privilege: privilege.into(),
        }));
    };
    forbidden(Fault::on("*", AGENT), "VM.Monitor");
    let unknown = Fault::on("GET", CONSOLE).times(3);
    node.server.inject(unknown.with(What::NoConsoleForTokens));
    let recipe = tiny(&node, "[ssh]\nport = 2222\ntimeout = \"30m\"\n");
    boot(&node, &recipe)
        .with_code(1)
        .saying("the guest agent must not be asked")
        .saying("its console cannot be read (its terminal does not take the server's own ticket)")
        .saying("API tokens may read consoles from qemu-server 8.4.7 and 9.1.7 on");
    forbidden(Fault::on("POST", "/nodes/*/qemu/*/termproxy"), "VM.Console");
    boot(&node, &recipe)
        .with_code(1)
        .saying("the privilege VM.Console on /vms/9000 is missing")
        .saying("--append 1 --privs VM.Console");
    assert_no_machine(&node);
}

#[test]
fn a_target_that_does_not_say_where_machines_go_is_refused() {
    let node = Node::start("pve boot nowhere", Setup::new());
    Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let recipe = recipe_by_file(&node.lab, "disk.qcow2");
    boot(&node, &recipe)
        .with_code(2)
        .saying("the target has no `storages.images`, `storages.iso`, `bridge`, `vmid-range`");
    assert_no_machine(&node);
}

#[test]
fn nothing_is_made_where_something_is_missing() {
    let node = Node::whole("pve boot unfit", Setup::new(), "9000-9000");
    node.has_vm(9000, "somebody-elses", "");
    Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let recipe = recipe_by_file(&node.lab, "disk.qcow2");
    boot(&node, &recipe)
        .with_code(1)
        .printing_part("MISSING  ids 9000 to 9000");
    assert_eq!(node.calls("POST", "/qemu"), 1, "that of the other machine");
}

/// The tags of a machine that a build has until this year.
fn tags(build: &str, year: u32) -> String {
    format!("imgbuild;imgbuild-{build};imgbuild-until-{year}0101-000000")
}

#[test]
fn gc_removes_what_builds_anywhere_have_left_and_nothing_else() {
    let node = Node::whole("pve gc target", Setup::new(), "9000-9099");
    node.has_vm(9000, "dead", &tags("20200101-000000-0a0b", 2021));
    node.has_vm(9001, "alive", &tags("20261125-000000-0a0b", 2999));
    node.has_vm(9002, "somebody-elses", "");
    node.has_vm(9003, "a-template", "imgbuild;stable");
    node.has_vm(9004, "of-no-time", "imgbuild;imgbuild-20200101-000000-0a0b");
    for file in [
        "imgbuild-20200101-000000-0a0b-until-20210101-000000.iso",
        "imgbuild-20261125-000000-0a0b-until-29990101-000000.iso",
        "debian.iso",
    ] {
        node.put_as("iso", file, b"a seed");
    }
    let before = node.server.inventory();
    let ended = node.imgbuild(&["gc", "--target", "lab"]).with_code(0);
    for said in [
        "removing the machine 9000 of build 20200101-000000-0a0b",
        "removing the seed imgbuild-20200101-000000-0a0b-until-20210101-000000.iso",
        "the machine 9001 of build 20261125-000000-0a0b on pve",
        "is left alone: its build may go on until 2999-01-01 00:00 UTC",
    ] {
        assert!(ended.stderr.contains(said), "{said}:\n{}", ended.stderr);
    }
    let now = node.server.inventory();
    assert_eq!(now.vms, before.vms[1..]);
    let files = now.volumes.iter().map(|(id, _)| id.as_str());
    assert_eq!(
        files.collect::<Vec<_>>(),
        [
            "pve/local:iso/debian.iso",
            "pve/local:iso/imgbuild-20261125-000000-0a0b-until-29990101-000000.iso",
        ]
    );
    node.imgbuild(&["gc", "--target", "lab", "--format", "json"])
        .with_code(0)
        .printing_part("\"left-alone\":[\"the machine 9001");
}

#[test]
fn gc_removes_a_template_of_a_dead_build_after_its_clones_and_a_clone_that_was_told_nothing() {
    let node = Node::whole("pve gc clones", Setup::new(), "9000-9099");
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    node.put(&disk.file, &disk.bytes);
    let before = node.server.inventory();
    let dead = tags("20200101-000000-0a0b", 2021);
    node.has_template(9000, &format!("local:import/{}", disk.file));
    let tagged = format!("tags={dead}");
    node.curl("qemu/9000/config", &["--data-urlencode", &tagged]);
    node.curl("qemu/9000/clone", &["-d", "newid=9001", "-d", "name=clone"]);
    // As it is right after it was cloned from a layer: of the build it has only the name.
    node.has_vm(
        9002,
        "imgbuild-20200101-000000-0a0b",
        "imgbuild;imgbuild-layer",
    );
    node.imgbuild(&["gc", "--target", "lab"]).with_code(0);
    assert_eq!(node.server.inventory(), before);
}

#[test]
fn what_gc_cannot_remove_is_named() {
    let node = Node::whole("pve gc refused", Setup::new(), "9000-9099");
    node.has_vm(9000, "dead", &tags("20200101-000000-0a0b", 2021));
    let refused = Fault::on("DELETE", "/**").always();
    node.server.inject(refused.with(What::Error {
        reason: "no luck".into(),
    }));
    node.imgbuild(&["gc", "--target", "lab"])
        .with_code(1)
        .saying("500 no luck")
        .saying("these remain: the machine 9000");
}
