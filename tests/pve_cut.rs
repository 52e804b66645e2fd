//! Signals while something is going on on a Proxmox VE node: nothing half-made stays there.

mod lab;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::node::{Disk, Node, recipe_by_file, recipe_by_url};
use lab::{Ended, Lab};
use pve_lab::{Fault, Setup, What};

const UPLOAD: &str = "/nodes/*/storage/*/upload";
const DOWNLOAD: &str = "/nodes/*/storage/*/download-url";

/// Waits for something that nothing else tells of.
#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn start(node: &Node, recipe: &str) -> Child {
    let mut command = node.command(&["image", "pull", "--target", "lab", recipe]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success());
}

fn end(child: Child) -> Ended {
    child.wait_with_output().unwrap().into()
}

/// Whether the journal of a build names this.
fn is_journaled(lab: &Lab, text: &str) -> bool {
    let builds = std::fs::read_dir(lab.home().join("state/builds"));
    let journals = builds.into_iter().flatten().flatten();
    let texts = journals.map(|build| std::fs::read_to_string(build.path().join("journal.jsonl")));
    texts.flatten().any(|journal| journal.contains(text))
}

/// A node whose task for `path` never ends, and a pull that waits for it.
fn hanging(name: &str, path: &str) -> (Node, Child) {
    let node = Node::start(name, Setup::new());
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    node.server
        .inject(Fault::on("POST", path).with(What::TaskHangs));
    let web = disk.served();
    let recipe = match path == DOWNLOAD {
        true => recipe_by_url(&node.lab, &web, &disk.sha256),
        false => recipe_by_file(&node.lab, "disk.qcow2"),
    };
    let child = start(&node, &recipe);
    until("the task never ran", || {
        !node.server.inventory().running.is_empty() && is_journaled(&node.lab, "upid")
    });
    (node, child)
}

#[test]
fn a_task_that_never_ends_is_aborted_by_ctrl_c() {
    for path in [DOWNLOAD, UPLOAD] {
        for (name, code) in [("INT", 130), ("TERM", 143)] {
            let (node, child) = hanging(&format!("pve {name} {path}"), path);
            signal(&child, name);
            end(child).with_code(code);
            node.assert_nothing_left();
        }
    }
}

#[test]
fn gc_aborts_what_a_killed_import_left_running() {
    for path in [DOWNLOAD, UPLOAD] {
        let (node, mut child) = hanging(&format!("pve KILL {path}"), path);
        child.kill().unwrap();
        end(child).with_code(137);
        node.lab.until_dead();
        assert!(!node.server.inventory().running.is_empty());
        node.imgbuild(&["gc"]).with_code(0).saying("UPID:pve:");
        node.assert_nothing_left();
    }
}

#[test]
fn without_the_login_gc_names_what_remains_and_keeps_it_in_mind() {
    let (node, mut child) = hanging("pve gc without login", DOWNLOAD);
    child.kill().unwrap();
    end(child).with_code(137);
    node.lab.until_dead();
    node.lab
        .imgbuild(&["gc"])
        .with_code(1)
        .saying("the environment has no LAB_TOKEN")
        .saying("UPID:pve:");
    assert!(!node.server.inventory().running.is_empty());
    node.imgbuild(&["gc"]).with_code(0);
    node.assert_nothing_left();
}

#[test]
fn gc_does_not_touch_another_server_that_has_the_target_s_name_today() {
    let (node, mut child) = hanging("pve gc elsewhere", DOWNLOAD);
    child.kill().unwrap();
    end(child).with_code(137);
    node.lab.until_dead();
    let other = Node::start("pve another", Setup::new());
    let project = std::fs::read(other.lab.path("imgbuild.toml")).unwrap();
    node.lab.write("imgbuild.toml", project);
    node.imgbuild(&["gc"])
        .with_code(1)
        .saying("by lab the project means");
    assert_eq!(other.server.requests().len(), 0);
}

#[test]
fn an_upload_that_is_cut_in_the_middle_leaves_nothing() {
    for (name, code) in [("INT", 130), ("KILL", 137)] {
        let node = Node::start(&format!("pve {name} in an upload"), Setup::new());
        // Large enough for a signal to come before its end.
        let bytes: Vec<u8> = (0..64 << 20).map(|at: u32| (at % 251) as u8).collect();
        node.lab.write("large.raw", bytes);
        let large = [node.lab.path("large.raw"), node.lab.path("disk.qcow2")];
        let made = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args(large)
            .status();
        assert!(made.unwrap().success());
        let child = start(&node, &recipe_by_file(&node.lab, "disk.qcow2"));
        until("the upload never began", || {
            let requests = node.server.requests();
            let upload = requests
                .iter()
                .find(|request| request.path.ends_with("/upload"));
            upload.is_some_and(|upload| upload.received > 0)
        });
        signal(&child, name);
        end(child).with_code(code);
        node.lab.until_dead();
        node.imgbuild(&["gc"]).with_code(0);
        until("the server still has a part of it", || {
            node.server.inventory().strays.is_empty()
        });
        node.assert_nothing_left();
    }
}
