//! Layers: what is unchanged is not done again, what comes of it is the same, and nothing that is broken is used.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::lab::tls::TlsServer;
use crate::lab::{Ended, Image, Lab, clone, today, tree};

/// The phases that a run has gone through.
fn phases(ended: &Ended) -> Vec<String> {
    let events = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let started = events.filter(|event: &Value| event["event"] == "phase-started");
    started
        .map(|event| event["phase"].as_str().unwrap().to_owned())
        .collect()
}

/// What steps have printed after `mark `.
fn printed(ended: &Ended, mark: &str) -> Vec<String> {
    let events = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let lines = events.filter_map(|event: Value| Some(event["line"].as_str()?.to_owned()));
    lines
        .filter_map(|line| line.strip_prefix(mark).map(|rest| rest.trim().to_owned()))
        .collect()
}

fn build(lab: &Lab, arguments: &[&str]) -> Ended {
    lab.watch(arguments).end().with_code(0)
}

fn layers(lab: &Lab) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(lab.home().join("cache/layers"))
        .into_iter()
        .flatten();
    let mut folders: Vec<PathBuf> = folders
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

/// The layers made after the boot, the first one first.
fn boots(lab: &Lab) -> Vec<PathBuf> {
    let is_boot = |folder: &PathBuf| {
        let text = std::fs::read_to_string(folder.join("layer.json")).unwrap();
        let manifest: Value = serde_json::from_str(&text).unwrap();
        manifest["name"] == "boot"
    };
    layers(lab).into_iter().filter(is_boot).collect()
}

fn flip_a_byte(path: PathBuf) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// What is built cold and from layers, one of these each day: two steps called `first` and `second`, of which the second
/// takes its time.
const WORKS: &[&str] = &[
    r#"
[[step]]
name = "first"
run = "mkdir /srv/data; seq 1000 >/srv/data/numbers; adduser --disabled-password --gecos '' carol"

[[step]]
name = "second"
packages = ["tree"]
timeout = "10m"
"#,
    r#"
[[step]]
name = "first"
file = { to = "/etc/systemd/system/hello.service", content = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n" }

[[step]]
name = "second"
run = "systemctl enable hello.service; sleep 15; chmod 4755 /usr/bin/nice; ln -s nice /usr/bin/kind"
"#,
    r#"
[[step]]
name = "first"
upload = { from = "greeting.txt", to = "/srv/tree/", owner = "daemon" }

[[step]]
name = "second"
reboot = true
"#,
];

const LAST: &str = r#"
[[step]]
name = "last"
run = """
echo "clock $(date +%s)"
echo "random $(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \\n')"
echo one >/srv/last
"""
"#;

/// A step that asks a TLS server, which the guest's clock must be right for.
fn ask(server: &TlsServer) -> String {
    let TlsServer {
        port, certificate, ..
    } = server;
    format!(
        r#"
[[step]]
name = "secure"
run = """
python3 - <<'END'
import socket, ssl
context = ssl.create_default_context(cadata='''
{certificate}''')
with socket.create_connection(('10.0.2.2', {port})) as plain:
    with context.wrap_socket(plain, server_hostname='10.0.2.2') as secure:
        print('tls', secure.version())
END
"""
"#
    )
}

/// For each layer with memory: its part of what the machine has.
fn parts_of_memory(lab: &Lab) -> Vec<f64> {
    let files = layers(lab)
        .into_iter()
        .map(|layer| layer.join("memory.zst"));
    let sizes = files.filter_map(|file| Some(file.metadata().ok()?.len()));
    sizes
        .map(|size| size as f64 / (1536 << 20) as f64)
        .collect()
}

/// One cold build, and all that comes of its layers.
#[test]
fn a_rebuild_does_what_changed_and_makes_the_same_image() {
    let lab = Lab::new("layers");
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let steps = WORKS[today() % WORKS.len()];
    lab.write("greeting.txt", "hello\n");
    let recipe = |name: &str, last: &str, more: &str| {
        let work = LAST.replace("echo one", &format!("echo {last}"));
        let work = format!("{steps}{work}{more}");
        let path = lab.recipe(name, Image::Debian, &work);
        path.to_str().unwrap().to_owned()
    };
    let first = recipe("first", "one", "");
    let cold = build(&lab, &[&first]);
    assert!(phases(&cold).contains(&"boot".to_owned()));
    let parts = parts_of_memory(&lab);
    assert!(parts.iter().all(|part| *part < 0.4), "{parts:?}");
    assert!(parts[0] * 1536.0 < 150.0, "after the boot: {parts:?}");

    // Nothing changed: nothing is started.
    let again = build(&lab, &[&first]);
    assert_eq!(phases(&again), ["source"]);
    assert!(
        again.stdout.contains(r#""up-to-date":true"#),
        "{}",
        again.stdout
    );
    let plan = lab
        .imgbuild(&["plan", "--detailed-exit-code", &first])
        .with_code(0);
    assert_eq!(plan.stdout.matches("cached").count(), 4, "{}", plan.stdout);

    // The last step changed, in two recipes at once: both go on from the same memory, which is older than the certificate.
    let server = TlsServer::start(&lab.path(""));
    let more = ask(&server);
    let (second, third) = (
        recipe("second", "two", &more),
        recipe("third", "three", &more),
    );
    let plan = lab
        .imgbuild(&["plan", "--detailed-exit-code", &second])
        .with_code(4);
    assert!(
        plan.stdout.contains("runs: script changed"),
        "{}",
        plan.stdout
    );
    let both = build(&lab, &[&second, &third]);
    let done = phases(&both);
    for not_done in ["boot", "cloud-init", "first", "second"] {
        assert!(!done.contains(&not_done.to_owned()), "{not_done}: {done:?}");
    }
    assert_eq!(done.iter().filter(|phase| *phase == "wake").count(), 2);
    assert_eq!(printed(&both, "tls"), ["TLSv1.3", "TLSv1.3"]);
    let random = printed(&both, "random");
    assert_eq!(random.len(), 2, "{}", both.stdout);
    assert_eq!(random[0].len(), 64);
    let shared = random[0]
        .as_bytes()
        .chunks(2)
        .zip(random[1].as_bytes().chunks(2));
    let shared = shared.filter(|(one, other)| one == other).count();
    assert!(shared < 8, "{shared} of 32 bytes are the same: {random:?}");
    for clock in printed(&both, "clock") {
        let clock: u64 = clock.parse().unwrap();
        assert!(now().abs_diff(clock) < 300, "{clock} but it is {}", now());
    }

    // What came of layers is what comes of a build without.
    let made = tree::tree(&lab.artifact("second"));
    let uncached = build(&lab, &["--no-cache", &second]);
    assert!(phases(&uncached).contains(&"second".to_owned()));
    let cold = tree::tree(&lab.artifact("second"));
    assert_eq!(tree::differences(&made, &cold), Vec::<String>::new());
    assert!(made.contains_key("/srv/last") && made.len() > 5000);
    assert_eq!(tree::read(&lab.artifact("third"), "/srv/last"), "three\n");

    // What was sealed after a restore is nobody yet: each of its clones becomes somebody of its own.
    let [one, two] = clone::two(&lab.artifact("third"), &lab.path(""));
    assert_ne!(one.machine_id, two.machine_id);
    assert_ne!(one.host_key, two.host_key);
    assert_ne!(one.random_seed, two.random_seed);
    lab.assert_nothing_left();
}

/// Memory that was damaged, memory of another QEMU, and a disk that was damaged: each costs more, none is believed.
#[test]
fn what_is_broken_is_not_used() {
    let lab = Lab::new("broken layers");
    let recipe = |content: &str| {
        let work = format!("[[step]]\nname = \"work\"\nrun = \"echo {content} >/srv/work\"\n");
        let path = lab.recipe("broken", Image::Debian, &work);
        path.to_str().unwrap().to_owned()
    };
    build(&lab, &[&recipe("one")]);
    let boot = boots(&lab).remove(0);
    flip_a_byte(boot.join("memory.zst"));
    let booted = build(&lab, &[&recipe("two")]);
    assert!(
        booted.stdout.contains("its disk is booted"),
        "{}",
        booted.stdout
    );
    assert!(!phases(&booted).contains(&"wake".to_owned()));
    assert_eq!(tree::read(&lab.artifact("broken"), "/srv/work"), "two\n");
    // So that the next build need not boot, there is the same layer with memory of its own now.
    assert_eq!(boots(&lab).len(), 2);

    for boot in boots(&lab) {
        let manifest = boot.join("layer.json");
        let text = std::fs::read_to_string(&manifest).unwrap();
        let key = serde_json::from_str::<Value>(&text).unwrap()["memory"]["key"].clone();
        let other = text.replace(key.as_str().unwrap(), &"0".repeat(64));
        std::fs::write(&manifest, other).unwrap();
    }
    let other_qemu = build(&lab, &[&recipe("three")]);
    assert!(!phases(&other_qemu).contains(&"restore memory".to_owned()));
    assert!(
        other_qemu.stdout.contains("going on after"),
        "{}",
        other_qemu.stdout
    );

    flip_a_byte(boot.join("disk.qcow2"));
    let cold = build(&lab, &[&recipe("four")]);
    assert!(cold.stdout.contains("is dropped"), "{}", cold.stdout);
    assert!(!boot.exists(), "a damaged layer stays");
    assert_eq!(tree::read(&lab.artifact("broken"), "/srv/work"), "four\n");
    lab.assert_nothing_left();
}

// A step must take its time for the memory after it to be worth saving; a short one is done again from the memory before
// it, because that is quicker than booting what is on the disk.

/// The first step that fails is mended and run at once, on what was done before it; a reboot is a step like others.
#[test]
fn a_build_that_failed_goes_on_where_it_failed() {
    let lab = Lab::new("failed and mended");
    let recipe = |third: &str| {
        let work = format!(
            "[[step]]\nname = \"one\"\nrun = \"sleep 15; echo one >>/srv/log\"\n\
             [[step]]\nname = \"reboot\"\nreboot = true\n\
             [[step]]\nname = \"three\"\nrun = \"{third}\"\n"
        );
        let path = lab.recipe("mended", Image::Tiny, &work);
        path.to_str().unwrap().to_owned()
    };
    lab.watch(&[&recipe("exit 3")]).end().with_code(1);
    assert_eq!(layers(&lab).len(), 3, "boot, one, reboot");
    let mended = build(&lab, &[&recipe("echo three >>/srv/log")]);
    assert!(!phases(&mended).contains(&"one".to_owned()));
    let log = tree::read(&lab.artifact("mended"), "/srv/log");
    assert_eq!(log, "one\nthree\n");

    // From a step on, and from the beginning.
    let from = build(
        &lab,
        &["--from", "reboot", &recipe("echo three >>/srv/log")],
    );
    let done = phases(&from);
    assert!(
        done.contains(&"reboot".to_owned()) && !done.contains(&"one".to_owned()),
        "{done:?}"
    );
    let all = build(&lab, &["--force", &recipe("echo three >>/srv/log")]);
    assert!(phases(&all).contains(&"one".to_owned()));
    lab.watch(&["--from", "no such step", &recipe("true")])
        .end()
        .with_code(2);
    lab.assert_nothing_left();
}

#[test]
fn a_step_without_cache_is_always_done_and_so_is_what_follows() {
    let lab = Lab::new("no cache");
    let work = "[[step]]\nname = \"one\"\nrun = \"sleep 15\"\n\
                [[step]]\nname = \"two\"\nrun = \"true\"\ncache = false\n\
                [[step]]\nname = \"three\"\nrun = \"true\"\n";
    let recipe = lab.recipe("always", Image::Tiny, work);
    let recipe = recipe.to_str().unwrap();
    build(&lab, &[recipe]);
    assert_eq!(layers(&lab).len(), 2, "boot, one");
    let again = build(&lab, &[recipe]);
    let done = phases(&again);
    assert!(!done.contains(&"one".to_owned()), "{done:?}");
    assert!(
        done.contains(&"two".to_owned()) && done.contains(&"three".to_owned()),
        "{done:?}"
    );
}

#[test]
fn a_build_keeps_the_layers_it_stands_on_whatever_the_limit() {
    let lab = Lab::new("eviction");
    let recipe = |name: &str, last: &str| {
        let work = format!(
            "[[step]]\nname = \"one\"\nrun = \"true\"\n[[step]]\nname = \"two\"\nrun = \"{last}\"\n"
        );
        let path = lab.recipe(name, Image::Tiny, &work);
        path.to_str().unwrap().to_owned()
    };
    build(&lab, &[&recipe("before", "true")]);
    let mut run = lab.watch(&[&recipe("during", "sleep 10")]);
    run.until_phase("two");
    lab.imgbuild(&["cache", "limit", "0"]).with_code(0);
    assert_eq!(layers(&lab).len(), 3, "boot, one, and the draft");
    run.end().with_code(0);
    assert_eq!(
        layers(&lab).len(),
        0,
        "over the limit, and no longer in use"
    );
    lab.assert_nothing_left();
}

#[test]
fn a_layer_that_is_being_written_when_the_build_is_killed_is_none() {
    let lab = Lab::new("SIGKILL at save memory");
    let work = "[[step]]\nname = \"work\"\nrun = \"true\"\n";
    let recipe = lab.recipe("killed", Image::Debian, work);
    let mut run = lab.watch(&[recipe.to_str().unwrap()]);
    run.until_phase("save memory");
    run.signal("KILL");
    run.end().with_code(137);
    lab.until_dead();
    lab.imgbuild(&["gc"]).with_code(0);
    lab.assert_nothing_left();
    assert_eq!(layers(&lab), Vec::<PathBuf>::new());
}
