//! Ctrl-C ends what waits for something that never comes.

mod lab;

use std::cell::RefCell;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use lab::{Ended, Lab, until};

/// Starts `imgbuild`, whose stdin stays open and empty, and waits until it catches signals.
fn start(lab: &Lab, arguments: &[&str]) -> Child {
    let mut command = lab.command(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    until("it catches no signals", || {
        let status = std::fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|it| it.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
        // SIGINT is 2, SIGTERM 15; a signal's bit is one below its number.
        caught >> 1 & caught >> 14 & 1 == 1
    });
    child
}

fn interrupt(mut child: Child) -> Ended {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let stdin = child.stdin.take();
    let is_over = RefCell::new(&mut child);
    until("it goes on", || {
        is_over.borrow_mut().try_wait().unwrap().is_some()
    });
    drop(stdin);
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_key_that_nobody_types() {
    let lab = Lab::new("key on stdin");
    interrupt(start(&lab, &["key", "trust", "-"])).with_code(130);
    let verify = ["provenance", "verify", "x.qcow2", "--key", "-"];
    interrupt(start(&lab, &verify)).with_code(130);
}

#[test]
fn an_expression_that_nobody_types() {
    let lab = Lab::new("console");
    let recipe = lab.write(
        "x.toml",
        "[image]\nname = \"x\"\n[source]\nfile = \"x.qcow2\"\n",
    );
    let console = ["console", "--recipe", recipe.to_str().unwrap()];
    interrupt(start(&lab, &console)).with_code(130);
}

#[test]
fn a_program_that_does_not_say_its_version() {
    let lab = Lab::new("doctor");
    let program = lab.write(
        "bin/qemu-img",
        "#!/bin/sh\necho $$ >asking\nmv asking asked\nexec sleep 86400\n",
    );
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", lab.path("bin").display(), env!("PATH"));
    let mut doctor = lab.command(&["doctor"]);
    doctor
        .env("PATH", path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let doctor = doctor.spawn().unwrap();
    until("it asks no program", || lab.path("asked").exists());
    interrupt(doctor).with_code(130);
    let pid = std::fs::read_to_string(lab.path("asked")).unwrap();
    let is_there = || std::fs::exists(format!("/proc/{}", pid.trim())).unwrap();
    until("the program is still there", || !is_there());
}
