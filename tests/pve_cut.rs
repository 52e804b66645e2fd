//! Signals while something is going on on a Proxmox VE node: nothing half-made stays there.

mod lab;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::node::{Disk, Node, recipe_by_file, recipe_by_url};
use lab::{Ended, Lab, until};
use pve_lab::{Fault, Setup, What};

const UPLOAD: &str = "/nodes/*/storage/*/upload";
const DOWNLOAD: &str = "/nodes/*/storage/*/download-url";
const ANY: &str = "/**";

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
        !node.server.inventory().running.is_empty() && node.lab.is_journaled("upid")
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
fn the_next_pull_removes_what_a_killed_one_left() {
    let (node, mut child) = hanging("pve pull after KILL", UPLOAD);
    child.kill().unwrap();
    end(child).with_code(137);
    node.lab.until_dead();
    let recipe = node.lab.path("web.toml");
    node.pull(recipe.to_str().unwrap())
        .with_code(0)
        .saying("removed the upload of imgbuild-");
    assert_eq!(node.images().len(), 1);
    assert_eq!(node.server.inventory().running, Vec::<String>::new());
    node.lab.assert_nothing_left();
}

/// What a server is that takes connections and says nothing.
fn silent_server() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    (listener, address)
}

#[test]
fn gc_that_waits_for_a_server_is_ended_by_ctrl_c() {
    let lab = Lab::new("pve gc waits");
    let (listener, address) = silent_server();
    let project = lab.write(
        "imgbuild.toml",
        format!(
            "[targets.lab]\nkind = \"proxmox\"\nendpoint = \"{address}\"\nnode = \"pve\"\n\
             token = {{ env = \"LAB_TOKEN\" }}\nstorages = {{ import = \"local\" }}\n"
        ),
    );
    let build = lab.home().join("state/builds/20260101-000000-0000");
    std::fs::create_dir_all(&build).unwrap();
    let left = serde_json::json!({"add": {
        "kind": "remote", "project": project, "target": "lab",
        "leftover": {
            "place": {"endpoint": format!("{address}/"), "node": "pve", "storage": "local"},
            "what": {"task": {"upid": "UPID:pve:00000001:00000001:00000001:download:x:a@pve!b:"}},
        },
    }});
    std::fs::write(build.join("journal.jsonl"), format!("{left}\n")).unwrap();
    let mut command = lab.command(&["gc"]);
    command.env("LAB_TOKEN", "a@pve!b=c");
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let connection = listener.accept().unwrap();
    signal(&child, "INT");
    end(child).with_code(130);
    drop(connection);
    assert!(lab.is_journaled("upid"), "it is still known");
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
fn a_journal_that_cannot_be_read_is_named_and_others_are_reaped_all_the_same() {
    let (node, mut child) = hanging("pve gc, damaged journal", DOWNLOAD);
    child.kill().unwrap();
    end(child).with_code(137);
    node.lab.until_dead();
    let damaged = node.lab.home().join("state/builds/20260101-000000-0000");
    std::fs::create_dir_all(&damaged).unwrap();
    std::fs::write(damaged.join("journal.jsonl"), "{}\n{}\n").unwrap();
    node.imgbuild(&["gc"])
        .with_code(1)
        .saying("removed the task UPID:pve:")
        .saying("reading the journal")
        .saying("these remain: what build 20260101-000000-0000 has left");
    assert_eq!(node.server.inventory().running, Vec::<String>::new());
    std::fs::remove_dir_all(&damaged).unwrap();
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

/// A pull that is in the middle of sending a file.
fn sending(name: &str) -> (Node, Child, Disk) {
    let node = Node::start(name, Setup::new());
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let pause = Duration::from_secs(4);
    node.server
        .inject(Fault::on("POST", UPLOAD).with(What::SlowCall { pause }));
    let child = start(&node, &recipe_by_file(&node.lab, "disk.qcow2"));
    until("the upload never began", || {
        let requests = node.server.requests();
        requests.iter().any(|request| request.fault)
    });
    (node, child, disk)
}

/// The server hears of the end of a connection a moment later.
fn until_dropped(node: &Node) {
    until("the server still has a part of it", || {
        node.server.inventory().strays.is_empty()
    });
}

#[test]
fn an_upload_that_is_cut_in_the_middle_leaves_nothing() {
    for (name, code) in [("INT", 130), ("KILL", 137)] {
        let (node, child, _) = sending(&format!("pve {name} in an upload"));
        signal(&child, name);
        end(child).with_code(code);
        node.lab.until_dead();
        node.imgbuild(&["gc"]).with_code(0);
        until_dropped(&node);
        node.assert_nothing_left();
    }
}

#[test]
fn a_task_whose_name_a_killed_pull_was_not_told_ends_by_itself_with_a_whole_image() {
    for path in [DOWNLOAD, UPLOAD] {
        for signalled in ["INT", "KILL"] {
            let node = Node::start(&format!("pve {signalled}, untold {path}"), Setup::new());
            let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
            let web = disk.served();
            node.server
                .inject(Fault::on("POST", path).with(What::TaskUntold));
            let recipe = match path == DOWNLOAD {
                true => recipe_by_url(&node.lab, &web, &disk.sha256),
                false => recipe_by_file(&node.lab, "disk.qcow2"),
            };
            let child = start(&node, &recipe);
            until("the task never ran", || {
                !node.server.inventory().running.is_empty()
            });
            signal(&child, signalled);
            end(child);
            node.lab.until_dead();
            node.imgbuild(&["gc"]).with_code(0);
            let running = node.server.inventory().running;
            assert_eq!(running.len(), 1, "another build may wait for it");
            node.server.relent();
            until("it never ended", || {
                node.server.inventory().running.is_empty()
            });
            node.assert_only(&disk.file, disk.size());
        }
    }
}

#[test]
fn a_copying_that_was_killed_itself_leaves_half_an_image_that_is_removed() {
    let node = Node::start("pve half an image", Setup::new());
    Disk::make(&node.lab, "disk.qcow2", "qcow2");
    node.server
        .inject(Fault::on("POST", UPLOAD).with(What::TaskKilled));
    node.pull(&recipe_by_file(&node.lab, "disk.qcow2"))
        .with_code(1)
        .saying("failed: unexpected status");
    assert_eq!(node.calls("DELETE", ".qcow2"), 1);
    node.assert_nothing_left();
}

#[test]
fn what_another_build_has_brought_meanwhile_is_left_to_it() {
    let (node, mut child) = hanging("pve gc, another's image", UPLOAD);
    child.kill().unwrap();
    end(child).with_code(137);
    node.lab.until_dead();
    let disk = Disk::of(&node.lab.path("disk.qcow2"));
    let other = &disk.bytes[..disk.bytes.len() - 512];
    node.put(&disk.file, other);
    node.imgbuild(&["gc"]).with_code(0);
    node.assert_only(&disk.file, disk.size() - 512);
}

#[test]
fn what_another_build_is_bringing_is_not_taken_from_it() {
    let (node, mut child) = hanging("pve gc, another brings it", UPLOAD);
    let disk = Disk::of(&node.lab.path("disk.qcow2"));
    let other = Lab::new("pve another build");
    for file in ["imgbuild.toml", "disk.qcow2", "web.toml"] {
        other.write(file, std::fs::read(node.lab.path(file)).unwrap());
    }
    node.server
        .inject(Fault::on("POST", UPLOAD).with(What::TaskHangs));
    let recipe = other.path("web.toml");
    let mut command = node.command(&["image", "pull", "--target", "lab"]);
    let command = command.arg(recipe).current_dir(other.path("."));
    let command = command.env("IMGBUILD_HOME", other.home());
    let bringing = command.stderr(Stdio::piped()).stdout(Stdio::piped());
    let bringing = bringing.spawn().unwrap();
    until("the other upload never came", || other.is_journaled("upid"));
    child.kill().unwrap();
    end(child).with_code(137);
    node.lab.until_dead();
    node.imgbuild(&["gc"]).with_code(0);
    assert_eq!(node.server.inventory().running.len(), 2);
    node.server.relent();
    end(bringing).with_code(0);
    until("a task runs for ever", || {
        node.server.inventory().running.is_empty()
    });
    node.assert_only(&disk.file, disk.size());
    other.assert_nothing_left();
}

/// All that can go wrong with a call, but for what needs a VM.
fn faults() -> Vec<What> {
    let lasting = Duration::from_millis(100);
    vec![
        What::Refused { lasting },
        What::CutCall,
        What::CutAnswer,
        What::StrangeAnswer,
        What::Unauthorized,
        What::Forbidden {
            path: "/storage/local".into(),
            privilege: "Datastore.AllocateTemplate".into(),
        },
        What::Error {
            reason: "got timeout".into(),
        },
        What::GatewayTimeout,
        What::TaskError {
            message: "no luck".into(),
        },
        What::StorageFull,
    ]
}

/// How an image comes to the node.
#[derive(Clone, Copy, Debug)]
enum Way {
    Download,
    Upload,
}

impl Way {
    /// A call that the server does not answer is held for 30 s, divided by `pace`.
    fn prepare(self, name: &str, pace: u32) -> (Node, Disk, String) {
        let node = Node::start(name, Setup::new().pace(pace));
        let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
        let recipe = match self {
            Way::Download => recipe_by_url(&node.lab, &disk.served(), &disk.sha256),
            Way::Upload => recipe_by_file(&node.lab, "disk.qcow2"),
        };
        (node, disk, recipe)
    }
}

/// Whether the call that was to go wrong came.
fn came(node: &Node) -> bool {
    node.server.requests().iter().any(|request| request.fault)
}

#[test]
fn whatever_goes_wrong_with_any_call_the_image_is_there_or_nothing_is() {
    println!("way, call, fault: exit code, images on the node");
    for way in [Way::Download, Way::Upload] {
        // How many calls there are depends on how long the tasks take.
        let mut call = 1;
        while faults().into_iter().all(|what| goes_wrong(way, call, what)) {
            call += 1;
        }
        assert!(call > 5, "{way:?} made few calls only");
    }
}

/// Lets one call of a pull go wrong; false if there was no such call.
fn goes_wrong(way: Way, call: u32, what: What) -> bool {
    let name = format!("{way:?}, call {call}: {what:?}");
    let (node, disk, recipe) = way.prepare(&name, 100);
    node.server.inject(Fault::on("*", ANY).nth(call).with(what));
    let ended = node.pull(&recipe);
    match ended.code {
        Some(0) => node.assert_only(&disk.file, disk.size()),
        // An image that was whole before something went wrong stays: it is what its name says.
        Some(1) if node.images().is_empty() => node.assert_nothing_left(),
        Some(1) => node.assert_only(&disk.file, disk.size()),
        code => panic!("{name}: {code:?}\n{}", ended.stderr),
    }
    assert!(!ended.stderr.contains("panicked"), "{name}");
    let (code, images) = (ended.code.unwrap_or_default(), node.images().len());
    println!("{name}: {code}, {images}");
    came(&node)
}

#[test]
fn a_kill_at_any_call_leaves_nothing_that_gc_does_not_find() {
    for way in [Way::Download, Way::Upload] {
        let mut call = 1;
        while is_killed_at(way, call) {
            call += 1;
        }
        assert!(call > 5, "{way:?} made few calls only");
    }
}

/// Kills a pull while it waits for one of its calls, and cleans up; false if there was no such call.
fn is_killed_at(way: Way, call: u32) -> bool {
    let (node, disk, recipe) = way.prepare(&format!("{way:?}, killed at call {call}"), 3);
    node.server
        .inject(Fault::on("*", ANY).nth(call).with(What::GatewayTimeout));
    let mut child = start(&node, &recipe);
    let mut is_over = || child.try_wait().unwrap().is_some();
    while !came(&node) {
        if is_over() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    end(child).with_code(137);
    node.lab.until_dead();
    node.imgbuild(&["gc"]).with_code(0);
    // What the server was asked for goes on, and ends by itself.
    until("a task runs for ever", || {
        node.server.inventory().running.is_empty()
    });
    until_dropped(&node);
    match node.images().is_empty() {
        true => node.assert_nothing_left(),
        false => node.assert_only(&disk.file, disk.size()),
    }
    true
}
