//! What goes wrong below a build: QEMU, the guest, the host's disk.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::lab::{Image, Lab};

#[test]
fn qemu_dying_in_the_middle_of_a_step_is_told_as_such() {
    let lab = Lab::new("qemu dies");
    let recipe = lab.recipe(
        "dies",
        Image::Tiny,
        "[[step]]\nname = \"long\"\nrun = \"sleep 1000\"\n",
    );
    // There is nothing to keep of a machine that is gone.
    let mut run = lab.watch(&["--on-error", "keep", recipe.to_str().unwrap()]);
    run.until_phase("long");
    let id = run_id(&lab);
    let killed = Command::new("pkill")
        .args(["-KILL", "-f", &format!("imgbuild-{id}-build")])
        .status();
    assert!(killed.unwrap().success());
    let ended = run.end().with_code(1);
    assert!(
        ended.stdout.contains("QEMU ended unexpectedly"),
        "{}",
        ended.stdout
    );
    lab.assert_nothing_left();
}

#[test]
fn a_machine_that_crashes_or_hangs_in_its_boot_is_started_again() {
    let lab = Lab::new("crash and hang in a boot");
    let recipe = lab.recipe(
        "unlucky",
        Image::Tiny,
        "[[step]]\nname = \"work\"\nrun = \"true\"\n[[test]]\nrun = \"true\"\n",
    );
    let mut run = lab.watch(&["--no-cache", recipe.to_str().unwrap()]);
    let signal = |signal: &str, role: &str| {
        let word = format!("imgbuild-{}-{role}", run_id(&lab));
        let sent = Command::new("pkill").args([signal, "-f", &word]).status();
        assert!(sent.unwrap().success());
    };
    run.until_phase("boot");
    // What its assertions do when they do not hold.
    signal("-ABRT", "build");
    run.until_phase("boot");
    signal("-STOP", "build");
    let console = build_folder(&lab).join("console-build.log");
    let mut console = File::options().append(true).open(console).unwrap();
    writeln!(
        console,
        "rcu: rcu_preempt kthread starved for 5251 jiffies!"
    )
    .unwrap();
    run.until_phase("start test machine");
    run.until_phase("boot");
    signal("-ABRT", "test");
    let ended = run.end().with_code(0);
    let told = |text: &str| ended.stdout.matches(text).count();
    let out = &ended.stdout;
    assert_eq!(told("SIGABRT)): the machine is started again"), 2, "{out}");
    assert_eq!(
        told("kernel hangs: the machine is started again"),
        1,
        "{out}"
    );
    lab.assert_nothing_left();
}

fn build_folder(lab: &Lab) -> PathBuf {
    let mut builds = std::fs::read_dir(lab.home().join("state/builds")).unwrap();
    builds.next().unwrap().unwrap().path()
}

fn run_id(lab: &Lab) -> String {
    let folder = build_folder(lab);
    folder.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_guest_that_ignores_the_power_button_is_stopped_by_force() {
    let lab = Lab::new("power button");
    let recipe = lab.recipe(
        "stubborn",
        Image::Tiny,
        "[ssh]\ntimeout = \"60s\"\n[[step]]\nrun = \"rm -r /etc/acpi/PWRF\"\n",
    );
    // Its file system was not unmounted: the audit must not let that pass.
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(1)
        .saying("stopped by force")
        .saying("auditing the sealed image");
    assert!(!lab.artifact("stubborn").exists());
    lab.assert_nothing_left();
}

/// A limit on the size of files stands in for a disk that fills up: to QEMU both are a write that fails.
#[test]
fn a_host_disk_that_fills_up_in_the_middle_is_told_as_such() {
    let lab = Lab::new("disk full");
    let recipe = lab.recipe(
        "full",
        Image::Tiny,
        "disk = \"1G\"\n[[step]]\nname = \"fill\"\nrun = \"head -c 300000000 /dev/zero | tr '\\\\0' x >/big; sync; sleep 60\"\n",
    );
    let line = format!(
        "trap '' XFSZ; ulimit -f 100000; exec {} run {}",
        env!("CARGO_BIN_EXE_imgbuild"),
        recipe.display()
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", &line])
        .current_dir(lab.path(""))
        .env("IMGBUILD_HOME", lab.home());
    crate::lab::Ended::from(command.output().unwrap())
        .with_code(1)
        .saying("its disk cannot be read or written on this host");
    lab.assert_nothing_left();
}

#[test]
fn an_image_that_never_gets_to_ssh_shows_its_console() {
    let lab = Lab::new("no ssh");
    let mut disk = vec![0; 64 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    lab.write("empty.raw", disk);
    let recipe = lab.write(
        "dead.toml",
        "[image]\nname = \"dead\"\n[source]\nfile = \"empty.raw\"\n[machine]\nmemory = \"128M\"\n[ssh]\ntimeout = \"8s\"\n",
    );
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(1)
        .saying("error: waiting for SSH in the guest for 8 s");
    lab.assert_nothing_left();
}
