//! Steps that make something on this machine, cut off in the middle; and a person at a breakpoint.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::lab::terminal::Terminal;
use crate::lab::{Image, Lab};

/// A file of 4 GiB that costs nothing, and takes minutes to be packed.
const DOWNLOADS: &str = r#"
[[step]]
run = "truncate -s 4G /home/endless"

[[step]]
name = "take home"
download = { from = "/home/endless", to = "home/" }
"#;

/// Waits until something of the download has arrived, and returns all that it has made.
fn arriving(lab: &Lab) -> Vec<PathBuf> {
    let began = Instant::now();
    loop {
        let made = lab.of_steps();
        let size = |path: &PathBuf| path.metadata().map_or(0, |about| about.len());
        let archive = made.iter().find(|path| path.ends_with("archive"));
        if archive.is_some_and(|archive| size(archive) > 0) {
            return made;
        }
        assert!(began.elapsed() < Duration::from_secs(300), "{made:?}");
        // Nothing tells of bytes that arrive; often enough to be long before the end.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn cut_while_downloading(lab: &Lab, signal: &str, code: i32) {
    lab.write("home/endless", "what was there before");
    let recipe = lab.recipe("cut", Image::Tiny, DOWNLOADS);
    let mut run = lab.watch(&[recipe.to_str().unwrap()]);
    run.until_phase("take home");
    let made = arriving(lab);
    assert!(
        made[0].starts_with(lab.path("home")),
        "it must be on the file system that it goes to: {made:?}"
    );
    run.signal(signal);
    run.end().with_code(code);
    lab.until_dead();
}

fn nothing_came(lab: &Lab) {
    lab.assert_nothing_left();
    let home = std::fs::read_dir(lab.path("home")).unwrap();
    let names: Vec<_> = home.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name == "endless"), "{names:?}");
    let before = std::fs::read_to_string(lab.path("home/endless")).unwrap();
    assert_eq!(before, "what was there before");
}

#[test]
fn a_download_that_is_killed_is_removed_by_gc() {
    let lab = Lab::new("SIGKILL while downloading");
    cut_while_downloading(&lab, "KILL", 137);
    assert!(!lab.of_steps().is_empty(), "nothing was left to be removed");
    lab.imgbuild(&["gc"])
        .with_code(0)
        .saying(".partial, left by build");
    nothing_came(&lab);
    lab.imgbuild(&["gc"]).with_code(0).not_saying("removed");
}

#[test]
fn a_download_that_is_interrupted_leaves_nothing() {
    let lab = Lab::new("Ctrl-C while downloading");
    cut_while_downloading(&lab, "INT", 130);
    nothing_came(&lab);
}

const BREAKPOINTS: &str = r#"
[[step]]
run = "mkdir -p /srv && echo by the step >/srv/here"

[[step]]
name = "look"
breakpoint = true

[[step]]
name = "look again"
breakpoint = true

[[step]]
name = "what the person did"
run = "grep -q 'by a person' /srv/here"
"#;

/// Starts a build on a terminal and waits until it stops; returns the command that it says to log in with.
fn stopped(lab: &Lab) -> (Terminal, String) {
    let recipe = lab.recipe("looked-at", Image::Tiny, BREAKPOINTS);
    let mut terminal = Terminal::start(&lab.command(&["run", recipe.to_str().unwrap()]));
    let login = login(&mut terminal, "look");
    (terminal, login)
}

fn login(terminal: &mut Terminal, step: &str) -> String {
    terminal.until(&format!("stopped at `{step}`; log in with\n"));
    let shown = terminal.until("press Enter to go on");
    let lines: Vec<&str> = shown.lines().collect();
    let command = lines
        .iter()
        .find(|line| line.trim_start().starts_with("ssh "));
    (*command.unwrap_or_else(|| panic!("{shown}"))).to_owned()
}

/// Runs something in the guest as a person would, with the command as it was shown.
fn in_guest(login: &str, script: &str) -> String {
    let line = format!("{login} -o BatchMode=yes {script:?}");
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}\n{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_person_at_a_breakpoint_logs_in_and_goes_on() {
    let lab = Lab::new("breakpoint");
    let (mut terminal, first) = stopped(&lab);
    assert_eq!(in_guest(&first, "cat /srv/here"), "by the step\n");
    in_guest(&first, "echo by a person | sudo -n tee -a /srv/here");
    // Somebody impatient: what was typed before the second breakpoint is no answer to it.
    terminal.types("\n\n\n");
    let second = login(&mut terminal, "look again");
    assert!(in_guest(&second, "cat /srv/here").ends_with("by a person\n"));
    terminal.types("\n");
    let (status, shown) = terminal.end();
    assert!(status.success(), "{shown}");
    assert!(lab.artifact("looked-at").exists());
    lab.assert_nothing_left();
}

#[test]
fn a_build_killed_at_a_breakpoint_leaves_a_key_that_gc_removes() {
    let lab = Lab::new("SIGKILL at a breakpoint");
    let (terminal, login) = stopped(&lab);
    in_guest(&login, "true");
    terminal.signal("KILL");
    terminal.end();
    lab.until_dead();
    assert_eq!(lab.of_steps().len(), 2, "the key and the guest's");
    lab.imgbuild(&["gc"])
        .with_code(0)
        .saying("ssh-key, left by build")
        .saying("known_hosts, left by build");
    lab.assert_nothing_left();
}

#[test]
fn ctrl_c_at_a_breakpoint_ends_the_build_and_cleans_up() {
    let lab = Lab::new("Ctrl-C at a breakpoint");
    let (mut terminal, _) = stopped(&lab);
    terminal.types("\x03");
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(130), "{shown}");
    lab.assert_nothing_left();
}
