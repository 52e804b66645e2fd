//! What goes wrong with a machine on a Proxmox VE node: nothing of it stays there.

mod lab;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lab::node::{Disk, Node};
use lab::{Ended, until};
use pve_lab::{Fault, Inventory, Setup, What};

const CREATE: &str = "/nodes/*/qemu";
const START: &str = "/nodes/*/qemu/*/status/start";
const ANY: &str = "/**";

/// A node that has a disk without any system on it as base image, so that its machine never answers.
struct Place {
    node: Node,
    recipe: String,
    before: Inventory,
}

impl Place {
    /// A call that the server does not answer is held for 30 s, divided by `pace`.
    fn prepare(name: &str, pace: u32) -> Self {
        Place::of(name, pace, "2M")
    }

    /// The same with a disk of this size.
    fn of(name: &str, pace: u32, size: &str) -> Self {
        let node = Node::whole(name, Setup::new().pace(pace), "9000-9003");
        Disk::make(&node.lab, "disk.qcow2", "qcow2");
        let path = node.lab.path("disk.qcow2");
        let resized = Command::new("qemu-img")
            .args(["resize", "-q"])
            .arg(&path)
            .arg(size)
            .status();
        assert!(resized.unwrap().success());
        let disk = Disk::of(&path);
        node.put(&disk.file, &disk.bytes);
        let recipe = "[image]\nname = \"web\"\n[source]\nfile = \"disk.qcow2\"\n\
             [machine]\ncpus = 1\nmemory = \"64M\"\ndisk = \"64M\"\n[ssh]\ntimeout = \"1s\"\n";
        let recipe = node.lab.write("web.toml", recipe);
        Place {
            recipe: recipe.to_str().unwrap().to_owned(),
            before: node.server.inventory(),
            node,
        }
    }

    fn start(&self) -> Child {
        let arguments = ["doctor", "--target", "lab", "--boot", &self.recipe];
        let mut command = self.node.command(&arguments);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Waits for the end of what goes on there without imgbuild.
    fn until_quiet(&self) {
        let server = &self.node.server;
        until("something runs for ever", || {
            let now = server.inventory();
            now.running.is_empty() && now.locked.is_empty() && now.strays.is_empty()
        });
    }

    /// Whether the server has what it had, but for a machine that somebody else made meanwhile.
    fn is_clean(&self) -> bool {
        let now = self.node.server.inventory();
        let others: Vec<_> = now
            .vms
            .iter()
            .filter(|vm| !vm.contains("somebody-elses"))
            .collect();
        others.is_empty() && now.volumes == self.before.volumes
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        self.until_quiet();
        assert!(self.is_clean(), "{:#?}", self.node.server.inventory());
        self.node.lab.assert_nothing_left();
    }

    /// The calls so far.
    fn calls(&self) -> usize {
        self.node.server.requests().len()
    }
}

fn end(child: Child) -> Ended {
    child.wait_with_output().unwrap().into()
}

fn signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status();
    assert!(sent.unwrap().success());
}

#[test]
fn a_machine_that_never_answers_is_removed_and_told_with_what_helps() {
    for firmware in ["bios", "uefi"] {
        let place = Place::prepare(&format!("pve {firmware} boot in vain"), 100);
        let recipe = std::fs::read_to_string(&place.recipe).unwrap();
        let machine = format!("[machine]\nfirmware = \"{firmware}\"\n");
        let recipe = recipe.replace("[machine]\n", &machine);
        place.node.lab.write("web.toml", recipe);
        end(place.start())
            .with_code(1)
            .printing_part("MISSING  boot")
            .saying("it is not known at which address it is: the guest agent does not answer")
            .saying("the image must have the guest agent, or cloud-init and a console")
            .saying("its console has said nothing");
        place.assert_nothing_left();
    }
}

#[test]
fn who_may_not_ask_the_agent_is_told_so() {
    let place = Place::prepare("pve boot, agent forbidden", 100);
    let forbidden = What::Forbidden {
        path: "/vms/9000".into(),
        privilege: "VM.Monitor".into(),
    };
    let agent = Fault::on("GET", "/nodes/*/qemu/*/agent/*").with(forbidden);
    place.node.server.inject(agent);
    end(place.start())
        .with_code(1)
        .saying("the privilege VM.Monitor on /vms/9000 is missing")
        .saying("pveum acl modify /vms/9000");
    place.assert_nothing_left();
}

#[test]
fn an_image_larger_than_the_disk_of_the_recipe_is_refused() {
    let place = Place::of("pve boot too small", 100, "65M");
    end(place.start())
        .with_code(2)
        .saying("the base image needs 65.00 MiB, the recipe asks for 64.00 MiB");
    place.assert_nothing_left();
}

#[test]
fn an_id_that_somebody_takes_first_is_left_to_them() {
    let place = Place::prepare("pve boot, taken", 100);
    let taken = Fault::on("POST", CREATE).times(2).with(What::VmidTaken);
    place.node.server.inject(taken);
    end(place.start()).with_code(1).saying("the machine 9002");
    place.assert_nothing_left();
    let vms = place.node.server.inventory().vms;
    assert_eq!(vms, ["9000 somebody-elses []", "9001 somebody-elses []"]);
}

#[test]
fn when_all_ids_are_taken_nothing_is_made() {
    let place = Place::prepare("pve boot, all taken", 100);
    let taken = Fault::on("POST", CREATE).always().with(What::VmidTaken);
    place.node.server.inject(taken);
    end(place.start())
        .with_code(5)
        .saying("no id from 9000 to 9003 is free");
    assert_eq!(place.node.server.inventory().vms.len(), 4);
    place.assert_nothing_left();
}

/// A boot that waits for a task which never ends.
fn hanging(name: &str, path: &str) -> (Place, Child) {
    let place = Place::prepare(name, 1);
    let hangs = Fault::on("POST", path).with(What::TaskHangs);
    place.node.server.inject(hangs);
    let child = place.start();
    let server = &place.node.server;
    until("the task never ran", || {
        let hangs = |request: &pve_lab::Request| request.fault && request.status == Some(200);
        server.requests().iter().any(hangs)
            && !server.inventory().running.is_empty()
            && (path != CREATE || place.node.lab.is_journaled(":qmcreate:"))
    });
    (place, child)
}

#[test]
fn a_task_that_never_ends_is_aborted() {
    for path in [CREATE, START] {
        for (name, code) in [("INT", 130), ("TERM", 143), ("KILL", 137)] {
            let (place, child) = hanging(&format!("pve boot, {name} {path}"), path);
            signal(&child, name);
            end(child).with_code(code);
            place.node.lab.until_dead();
            place.node.imgbuild(&["gc"]).with_code(0);
            assert_eq!(place.node.server.inventory().running, Vec::<String>::new());
            place.assert_nothing_left();
        }
    }
}

#[test]
fn a_seed_s_copying_of_which_a_killed_boot_was_not_told_is_aborted() {
    let place = Place::prepare("pve boot, seed untold", 1);
    let upload = Fault::on("POST", "/nodes/*/storage/*/upload");
    place.node.server.inject(upload.with(What::TaskUntold));
    let mut child = place.start();
    let running = || place.node.server.inventory().running;
    until("the task never ran", || !running().is_empty());
    child.kill().unwrap();
    end(child).with_code(137);
    place.node.lab.until_dead();
    place.node.imgbuild(&["gc"]).with_code(0);
    assert_eq!(running(), Vec::<String>::new());
    place.assert_nothing_left();
}

/// A place where the server removes machines, but not the disks of the first.
fn with_a_busy_disk(name: &str) -> Place {
    let place = Place::prepare(name, 100);
    let busy = Fault::on("DELETE", "/nodes/*/qemu/*").with(What::DiskStays);
    place.node.server.inject(busy);
    place
}

#[test]
fn a_disk_that_stayed_when_its_machine_went_is_removed() {
    let place = with_a_busy_disk("pve boot, busy disk");
    end(place.start()).with_code(1).not_saying("remains");
    place.assert_nothing_left();
}

#[test]
fn a_disk_that_cannot_be_removed_is_named_and_gc_tries_again() {
    let place = with_a_busy_disk("pve boot, disk for now");
    let forbidden = What::Forbidden {
        path: "/storage/local".into(),
        privilege: "Datastore.Allocate".into(),
    };
    let removing = Fault::on("DELETE", "/nodes/*/storage/*/content/**").always();
    place.node.server.inject(removing.with(forbidden));
    let named = "local:9000/vm-9000-disk-0.qcow2";
    end(place.start())
        .with_code(1)
        .saying("some of what this build has made remains")
        .saying(&format!("it is gone, but its disk stays: removing {named}"))
        .saying("Datastore.Allocate")
        .saying(&format!("on the node: pvesm free {named}"));
    let hint = format!("on the node: pvesm free {named}");
    place.node.imgbuild(&["gc"]).with_code(1).saying(&hint);
    place.node.server.relent();
    place.node.imgbuild(&["gc"]).with_code(0);
    place.assert_nothing_left();
}

/// A place where a killed boot was not told of the task that makes its machine, and never ends.
fn killed_while_making(name: &str) -> Place {
    let place = Place::prepare(name, 1);
    let untold = Fault::on("POST", CREATE).with(What::TaskUntold);
    place.node.server.inject(untold);
    let mut child = place.start();
    let is_making = |upid: &String| upid.contains(":qmcreate:");
    let running = || place.node.server.inventory().running;
    until("the task never ran", || running().iter().any(is_making));
    child.kill().unwrap();
    end(child).with_code(137);
    place.node.lab.until_dead();
    place
}

#[test]
fn a_machine_s_making_of_which_a_killed_boot_was_not_told_is_aborted() {
    let place = killed_while_making("pve boot, machine untold");
    place.node.imgbuild(&["gc"]).with_code(0);
    assert_eq!(place.node.server.inventory().running, Vec::<String>::new());
    place.assert_nothing_left();
}

/// Asserts that `gc` waits for the machine, and does not abort what makes it.
#[track_caller]
fn assert_waited_for(place: &Place) {
    let calls = place.calls();
    let gc = place.node.command(&["gc"]).stderr(Stdio::piped()).spawn();
    let is_look = |path: &str| path.ends_with("/qemu/9000/config");
    until("gc does not look whose it is", || {
        let requests = place.node.server.requests();
        let looks = requests[calls..].iter().filter(|it| is_look(&it.path));
        looks.count() > 3
    });
    place.node.server.relent();
    end(gc.unwrap()).with_code(0);
    let tasks = place.node.server.tasks();
    let made = tasks.iter().find(|task| task.kind == "qmcreate").unwrap();
    assert_eq!(made.exit.as_deref(), Some("OK"), "it was aborted");
    place.assert_nothing_left();
}

#[test]
fn what_another_build_may_be_making_is_waited_for() {
    let mut place = killed_while_making("pve boot, machine of others");
    let seed = "imgbuild-20991231-000000-0a0b-until-20991231-235959.iso";
    place.node.put_as("iso", seed, b"another's");
    let is_seed = |(id, _): &&(String, u64)| id.ends_with(seed);
    let volumes = place.node.server.inventory().volumes;
    place
        .before
        .volumes
        .extend(volumes.iter().find(is_seed).cloned());
    place.before.volumes.sort();
    assert_waited_for(&place);
}

#[test]
fn what_was_begun_long_after_the_build_has_asked_is_waited_for() {
    let place = killed_while_making("pve boot, machine of later");
    let builds = place.node.lab.home().join("state/builds");
    let build = std::fs::read_dir(builds).unwrap().next().unwrap();
    let journal = build.unwrap().path().join("journal.jsonl");
    let text = std::fs::read_to_string(&journal).unwrap();
    let (before, after) = text.split_once("\"asked\":").unwrap();
    let (at, after) = after.split_once('}').unwrap();
    let earlier = at.parse::<i64>().unwrap() - 600;
    std::fs::write(&journal, format!("{before}\"asked\":{earlier}}}{after}")).unwrap();
    assert_waited_for(&place);
}

/// A pattern for calls like this one.
fn pattern(path: &str) -> String {
    let path = path
        .split_once("/content/")
        .map_or(path.to_owned(), |(storage, _)| {
            format!("{storage}/content/**")
        });
    let segment =
        |segment: &str| match segment.starts_with("UPID:") || segment.parse::<u32>().is_ok() {
            true => "*".to_owned(),
            false => segment.to_owned(),
        };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// The kinds of call that a boot makes, with how many of each belong to the look at the target that comes before.
fn kinds_of_call() -> BTreeMap<(String, String), u32> {
    let place = Place::prepare("pve boot, kinds of call", 100);
    let looked = place.calls();
    place
        .node
        .imgbuild(&["doctor", "--target", "lab"])
        .with_code(0);
    let booted = place.calls();
    end(place.start()).with_code(1);
    let requests = place.node.server.requests();
    let count = |of: &[pve_lab::Request]| -> BTreeMap<_, u32> {
        let mut counts = BTreeMap::new();
        for call in of {
            let kind = (call.method.clone(), pattern(&call.path));
            *counts.entry(kind).or_default() += 1;
        }
        counts
    };
    let plain = count(&requests[looked..booted]);
    let of_look = |kind: &(String, String)| plain.get(kind).copied().unwrap_or_default();
    let all = count(&requests[booted..]).into_iter();
    let more = all.filter(|(kind, calls)| *calls > of_look(kind));
    more.map(|(kind, _)| (kind.clone(), of_look(&kind)))
        .collect()
}

/// All that can go wrong with a call of this method, but for what has tests of its own.
fn faults(method: &str) -> Vec<What> {
    let lasting = Duration::from_millis(100);
    let error = |reason: &str| What::Error {
        reason: reason.into(),
    };
    let mut faults = vec![
        What::Refused { lasting },
        What::CutAnswer,
        What::Unauthorized,
        error("no luck"),
        What::GatewayTimeout,
    ];
    if method != "GET" {
        faults.extend([
            What::CutCall,
            What::Forbidden {
                path: "/vms/9000".into(),
                privilege: "VM.Allocate".into(),
            },
            error("can't lock file '/var/lock/qemu-server/lock-9000.conf' - got timeout"),
            What::TaskError {
                message: "no luck".into(),
            },
            What::StorageFull,
            What::LockTimeout,
        ]);
    }
    faults
}

/// What goes wrong in one run: this call of this kind, in this way.
struct Row {
    method: String,
    path: String,
    nth: u32,
    what: What,
}

fn rows() -> Vec<Row> {
    let kinds = kinds_of_call();
    assert!(kinds.len() > 10, "{kinds:?}");
    let mut rows = vec![];
    for ((method, path), before) in kinds {
        // Each task is asked for; the first are those of the seed, the machine, its disk and its start.
        let times = match path.contains("/tasks/") {
            true => 6,
            false => 1,
        };
        for nth in 1..=times {
            rows.extend(faults(&method).into_iter().map(|what| Row {
                method: method.clone(),
                path: path.clone(),
                nth: before + nth,
                what,
            }));
        }
    }
    rows
}

#[test]
fn whatever_goes_wrong_with_any_call_nothing_stays() {
    println!("call, fault: exit code, whether gc was needed");
    let rows = rows();
    let (next, by_gc) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // A run waits most of its time.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    by_gc.fetch_add(usize::from(goes_wrong(row)), Ordering::Relaxed);
                }
            });
        }
    });
    println!("{} rows, {} of them by gc", rows.len(), by_gc.into_inner());
}

/// Lets one call of a boot go wrong, and tells whether it was `gc` that removed what was left.
fn goes_wrong(row: &Row) -> bool {
    let Row {
        method,
        path,
        nth,
        what,
    } = row;
    let name = format!("{method} {path} {nth}: {what:?}");
    let place = Place::prepare(&name, 50);
    let fault = Fault::on(method, path).nth(*nth).with(what.clone());
    place.node.server.inject(fault);
    let ended = end(place.start());
    assert!(
        matches!(ended.code, Some(1 | 5)),
        "{name}: {:?}\n{}",
        ended.code,
        ended.stderr
    );
    assert!(!ended.stderr.contains("panicked"), "{name}");
    place.until_quiet();
    let remains = ended
        .stderr
        .contains("some of what this build has made remains");
    if remains {
        place.node.imgbuild(&["gc"]).with_code(0);
    }
    println!("{name}: {:?}, {remains}", ended.code.unwrap_or_default());
    place.assert_nothing_left();
    remains
}

#[test]
fn a_kill_at_any_call_leaves_nothing_that_gc_does_not_find() {
    let place = Place::prepare("pve boot, plain calls", 3);
    let before = place.calls();
    place
        .node
        .imgbuild(&["doctor", "--target", "lab"])
        .with_code(0);
    let plain = place.calls() - before;
    let mut call = u32::try_from(plain).unwrap() + 1;
    let first = call;
    while is_killed_at(call) {
        call += 1;
    }
    assert!(call > first + 15, "few calls only");
}

/// Kills a boot while it waits for one of its calls, and cleans up; false if there was no such call.
fn is_killed_at(call: u32) -> bool {
    let place = Place::prepare(&format!("pve boot, killed at call {call}"), 3);
    let held = Fault::on("*", ANY).nth(call).with(What::GatewayTimeout);
    place.node.server.inject(held);
    let mut child = place.start();
    let came = || {
        place
            .node
            .server
            .requests()
            .iter()
            .any(|request| request.fault)
    };
    while !came() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    end(child).with_code(137);
    place.node.lab.until_dead();
    place.node.imgbuild(&["gc"]).with_code(0);
    place.assert_nothing_left();
    true
}
