//! However a build ends, nothing of it stays: Ctrl-C, SIGTERM and SIGKILL at every phase.

use crate::lab::{Ended, Image, Lab};

/// Every phase of a build with one step and one test, in order: first of one that boots, then of one that goes on from the
/// memory that the build before it has left.
const PHASES: &[&str] = &[
    "source",
    "start build machine",
    "boot",
    "cloud-init",
    "save memory",
    "work",
    "seal",
    "restore memory",
    "log in",
    "wake",
    "power off",
    "zero free blocks",
    "convert",
    "audit",
    "start test machine",
    "test look",
];

fn recipe(lab: &Lab, image: Image) -> String {
    let rest = "[[step]]\nname = \"work\"\nrun = \"sleep 1\"\n[[test]]\nname = \"look\"\nrun = \"sleep 1\"\n";
    lab.recipe("cut", image, rest).to_str().unwrap().to_owned()
}

fn interrupted_at(lab: &Lab, image: Image, phase: &str, signal: &str, code: i32) -> Ended {
    let recipe = recipe(lab, image);
    let mut run = lab.watch(&[&recipe]);
    run.until_phase(phase);
    run.signal(signal);
    let ended = run.end().with_code(code);
    lab.until_dead();
    assert!(
        !lab.artifact("cut").exists(),
        "{phase}: an image was published"
    );
    ended
}

#[test]
fn ctrl_c_at_any_phase_cleans_up() {
    let lab = Lab::new("Ctrl-C at any phase");
    for phase in PHASES {
        let ended = interrupted_at(&lab, Image::Tiny, phase, "INT", 130);
        ended.saying("stopping").not_saying("what remains, and why");
        lab.assert_nothing_left();
    }
}

#[test]
fn after_sigkill_at_any_phase_gc_finds_everything() {
    let lab = Lab::new("SIGKILL at any phase");
    for phase in PHASES {
        interrupted_at(&lab, Image::Tiny, phase, "KILL", 137);
        lab.imgbuild(&["gc"]).with_code(0);
        lab.assert_nothing_left();
        lab.imgbuild(&["gc"]).with_code(0).not_saying("removed");
    }
}

#[test]
fn sigterm_has_its_own_exit_code() {
    let lab = Lab::new("SIGTERM");
    interrupted_at(&lab, Image::Tiny, "boot", "TERM", 143);
    lab.assert_nothing_left();
}

#[test]
fn the_next_run_reaps_what_a_killed_one_left() {
    let lab = Lab::new("next run reaps");
    interrupted_at(&lab, Image::Tiny, "work", "KILL", 137);
    let recipe = recipe(&lab, Image::Tiny);
    let mut run = lab.watch(&[&recipe]);
    run.until_phase("source");
    run.signal("INT");
    let ended = run.end().with_code(130);
    assert!(ended.stdout.contains("left by build"), "{}", ended.stdout);
    lab.assert_nothing_left();
}

#[test]
fn a_full_guest_killed_in_three_phases_leaves_nothing_after_gc() {
    let lab = Lab::new("Debian, SIGKILL");
    for phase in ["boot", "work", "convert"] {
        interrupted_at(&lab, Image::Debian, phase, "KILL", 137);
        lab.imgbuild(&["gc"]).with_code(0);
        lab.assert_nothing_left();
    }
}
