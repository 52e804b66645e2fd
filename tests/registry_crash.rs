//! SIGKILL in the middle of what changes the registry. Afterwards it opens, it agrees with the disk, and `doctor` is content.
//!
//! Some moments are fixed: the test holds the registry's write lock, so that a command waits at a known place when it is
//! killed. For those in between, a command is killed after more and more of the time that it takes.

mod lab;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use lab::versions::{assert_agrees, assert_same_on_disk, json, list};
use lab::{Lab, Watched};
use rusqlite::Connection;
use serde_json::Value;

/// How often a command is killed on its way.
const KILLS: u32 = 25;

/// Writes `web.toml`, which imports a small disk with a boot sector and nothing else.
fn recipe(lab: &Lab) -> String {
    let mut disk = vec![7; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    lab.write("web.raw", disk);
    let text = "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"web.raw\"\n";
    lab.write("web.toml", text).to_str().unwrap().to_owned()
}

fn build(lab: &Lab, recipe: &str) {
    lab.imgbuild(&["run", "--force", recipe]).with_code(0);
}

/// A lab with that recipe and two versions of its image.
fn two_versions(name: &str) -> Lab {
    let lab = Lab::new(name);
    let recipe = recipe(&lab);
    build(&lab, &recipe);
    build(&lab, &recipe);
    lab
}

/// The registry's write lock, until it is dropped.
struct Writing(Connection);

impl Writing {
    fn begin(lab: &Lab) -> Self {
        let db = Connection::open(lab.home().join("state/registry.db")).unwrap();
        db.busy_timeout(Duration::from_secs(60)).unwrap();
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        Writing(db)
    }

    fn newest_state(&self) -> String {
        self.of_newest("state")
    }

    /// The file name of the newest version.
    fn newest(&self) -> String {
        format!("web-{}.qcow2", self.of_newest("CAST(number AS TEXT)"))
    }

    fn of_newest(&self, what: &str) -> String {
        let text = format!("SELECT {what} FROM version ORDER BY number DESC LIMIT 1");
        self.0.query_row(&text, [], |row| row.get(0)).unwrap()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

fn start(lab: &Lab, arguments: &[&str]) -> Child {
    let mut command = lab.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until something is so, and fails if the command ends before that.
#[track_caller]
fn until(child: &mut Child, is_so: impl Fn(&Child) -> bool) {
    while !is_so(child) {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        // Nothing tells of it.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a command has the registry open and waits for its lock: SQLite sleeps between attempts.
fn waits(child: &Child) -> bool {
    let process = Path::new("/proc").join(child.id().to_string());
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten();
    let mut files = open.flatten().map(|file| std::fs::read_link(file.path()));
    let has_it = files.any(|file| file.is_ok_and(|file| file.ends_with("registry.db")));
    let asleep = std::fs::read_to_string(process.join("wchan"));
    has_it && asleep.is_ok_and(|asleep| asleep.contains("nanosleep"))
}

/// That the file beside the registry has what was done, once and in order.
#[track_caller]
fn assert_history_is_written(lab: &Lab) {
    let history = json(lab, &["history"])["history"].clone();
    let text = std::fs::read_to_string(lab.home().join("state/history.jsonl")).unwrap();
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    // Killed before the registry knew that they are there.
    lines.dedup();
    assert_eq!(history, Value::from(lines));
}

/// Returns how it ended: it may have done so before.
fn kill(mut child: Child) -> ExitStatus {
    child.kill().unwrap();
    child.wait().unwrap()
}

#[test]
fn killed_before_its_word_is_written_a_promotion_was_none() {
    let lab = two_versions("promotion, killed at the lock");
    lab.imgbuild(&["template", "promote", "web@1", "stable"])
        .with_code(0);
    let writing = Writing::begin(&lab);
    let mut child = start(&lab, &["template", "promote", "web@2", "stable"]);
    until(&mut child, waits);
    kill(child);
    drop(writing);
    assert_eq!(list(&lab), ["web@1 stable", "web@2"]);
    assert_agrees(&lab);
    lab.imgbuild(&["template", "promote", "web@2", "stable"])
        .with_code(0);
    lab.imgbuild(&["template", "rollback", "web@stable"])
        .with_code(0);
    assert_eq!(list(&lab), ["web@1 stable", "web@2"]);
}

/// A build that goes on while nobody can write to the registry, so that its version is not there yet.
fn caught(lab: &Lab, recipe: &str) -> (Watched, Writing) {
    loop {
        let mut run = lab.watch(&["--force", recipe]);
        // The version is reserved by then.
        run.until_phase("convert");
        let writing = Writing::begin(lab);
        if writing.newest_state() == "building" {
            return (run, writing);
        }
        // It was faster than this test.
        drop(writing);
        run.end().with_code(0);
    }
}

#[test]
fn a_build_that_is_revoked_on_its_way_says_so_at_its_end() {
    let lab = Lab::new("revoked on its way");
    let recipe = recipe(&lab);
    build(&lab, &recipe);
    let (run, writing) = caught(&lab, &recipe);
    // As `template revoke --descendants` does, which would have to wait for this lock.
    let text = "UPDATE version SET revoked = 0, reason = 'leaks a key' WHERE state = 'building'";
    writing
        .0
        .execute_batch(&format!("{text}; COMMIT; BEGIN"))
        .unwrap();
    drop(writing);
    let ended = run.end().with_code(0);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("leaks a key"), "{said}");
}

#[test]
fn killed_before_its_word_is_written_a_version_that_is_there_is_one() {
    let lab = Lab::new("publishing, killed at the lock");
    let recipe = recipe(&lab);
    build(&lab, &recipe);
    let (run, writing) = caught(&lab, &recipe);
    let newest = writing.newest();
    let began = Instant::now();
    while std::fs::read_link(lab.link("web")).unwrap() != Path::new(&newest) {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it never came so far"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    run.signal("KILL");
    run.end().with_code(137);
    lab.until_dead();
    assert_eq!(writing.newest_state(), "building");
    drop(writing);
    let version = newest.replace(".qcow2", "").replace('-', "@");
    assert!(list(&lab).contains(&version));
    lab.imgbuild(&["gc"]).with_code(0);
    assert_agrees(&lab);
    lab.assert_nothing_left();
}

#[test]
fn killed_before_its_word_is_written_pruning_has_removed_nothing() {
    let lab = two_versions("pruning, killed at the lock");
    let writing = Writing::begin(&lab);
    let mut child = start(&lab, &["template", "prune", "--keep", "1"]);
    until(&mut child, waits);
    kill(child);
    drop(writing);
    assert_eq!(list(&lab), ["web@1", "web@2"]);
    assert_agrees(&lab);
}

/// Does something again and again, killed later and later on its way; `prepare` comes before each time, `check` after it.
fn killed_on_its_way(lab: &Lab, prepare: impl Fn(), arguments: &[&str], check: impl Fn()) {
    prepare();
    let began = Instant::now();
    lab.imgbuild(arguments).with_code(0);
    let whole = began.elapsed();
    let mut on_the_way = 0;
    for kill_at in 0..KILLS {
        prepare();
        let child = start(lab, arguments);
        // Beyond the end, too: it may take longer than it did.
        std::thread::sleep(whole * kill_at * 5 / (KILLS * 4));
        on_the_way += u32::from(kill(child).signal().is_some());
        check();
    }
    assert_ne!(on_the_way, 0, "it had ended each time");
    assert_agrees(lab);
    lab.imgbuild(arguments).with_code(0);
    assert_agrees(lab);
    lab.assert_nothing_left();
}

#[test]
fn killed_at_any_moment_promoting_leaves_one_version_promoted() {
    let lab = two_versions("promotion, killed");
    killed_on_its_way(
        &lab,
        || {
            drop(
                lab.imgbuild(&["template", "promote", "web@1", "stable"])
                    .with_code(0),
            )
        },
        &["template", "promote", "web@2", "stable"],
        || {
            let listed = list(&lab);
            let moved = ["web@1", "web@2 stable"];
            assert!(
                listed == ["web@1 stable", "web@2"] || listed == moved,
                "{listed:?}"
            );
            assert_history_is_written(&lab);
        },
    );
}

#[test]
fn killed_at_any_moment_pruning_leaves_whole_versions() {
    let lab = Lab::new("pruning, killed");
    let recipe = recipe(&lab);
    killed_on_its_way(
        &lab,
        || {
            build(&lab, &recipe);
            build(&lab, &recipe);
        },
        &["template", "prune", "--keep", "1"],
        || assert_same_on_disk(&lab),
    );
}

#[test]
fn killed_at_any_moment_rebuilding_leaves_the_old_registry_or_the_new_one() {
    let lab = two_versions("rebuilding, killed");
    killed_on_its_way(
        &lab,
        || {
            lab.imgbuild(&["template", "promote", "web@1", "stable"])
                .with_code(0);
        },
        &["registry", "rebuild"],
        || {
            // Opening would make one.
            assert!(lab.home().join("state/registry.db").exists());
            assert_eq!(list(&lab), ["web@1 stable", "web@2"]);
        },
    );
}

#[test]
fn killed_at_any_moment_a_build_leaves_a_version_or_none() {
    let lab = Lab::new("building, killed");
    let recipe = recipe(&lab);
    killed_on_its_way(
        &lab,
        || {},
        &["run", "--force", &recipe],
        || {
            lab.until_dead();
            // Takes away the unfinished image.
            lab.imgbuild(&["gc"]).with_code(0);
            assert_same_on_disk(&lab);
        },
    );
}
