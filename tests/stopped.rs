//! Ctrl-C ends what waits for something that never comes.

mod lab;

use std::cell::RefCell;
use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use lab::{Ended, Lab, until};
use rustix::process::{Pid, Signal, kill_process};

/// Starts a command whose stdin stays open.
fn start(mut command: Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Writes something that is no whole key to a command's stdin, and waits until it was read.
fn begin_key(child: &mut Child) {
    let stdin = child.stdin.as_mut().unwrap();
    stdin.write_all(b"ssh-").unwrap();
    until("it does not read", || {
        rustix::io::ioctl_fionread(&*stdin).unwrap() == 0
    });
}

fn interrupt(child: &Child) {
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

fn is_interrupted(mut child: Child) {
    interrupt(&child);
    let stdin = child.stdin.take();
    let watched = RefCell::new(&mut child);
    until("it goes on", || {
        watched.borrow_mut().try_wait().unwrap().is_some()
    });
    drop(stdin);
    let ended = Ended::from(child.wait_with_output().unwrap());
    ended.with_code(130).saying("stopping");
}

#[test]
fn a_key_that_nobody_types() {
    let lab = Lab::new("key on stdin");
    for arguments in [
        &["key", "trust", "-"][..],
        &["provenance", "verify", "x.qcow2", "--key", "-"],
    ] {
        let mut child = start(lab.command(arguments));
        begin_key(&mut child);
        is_interrupted(child);
    }
}

#[test]
fn an_expression_that_nobody_types() {
    let lab = Lab::new("console");
    let recipe = lab.write(
        "x.toml",
        "[image]\nname = \"x\"\n[source]\nfile = \"x.qcow2\"\n",
    );
    let mut child = start(lab.command(&["console", "--recipe", recipe.to_str().unwrap()]));
    child.stdin.as_mut().unwrap().write_all(b"1 + 1\n").unwrap();
    let mut answer = [0; 2];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut answer)
        .unwrap();
    assert_eq!(&answer, b"2\n");
    is_interrupted(child);
}

#[test]
fn a_program_that_does_not_say_its_version() {
    let lab = Lab::new("doctor");
    let script = "#!/bin/sh\necho $$ >asking\nmv asking asked\nexec sleep 86400\n";
    let program = lab.write("bin/qemu-img", script);
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let mut doctor = lab.command(&["doctor"]);
    let path = std::env::var("PATH").unwrap();
    doctor.env("PATH", format!("{}:{path}", lab.path("bin").display()));
    let doctor = start(doctor);
    until("it asks no program", || lab.path("asked").exists());
    is_interrupted(doctor);
    let pid = std::fs::read_to_string(lab.path("asked")).unwrap();
    let command_line = format!("/proc/{}/cmdline", pid.trim());
    // It is empty when nobody has been told yet of the program's end.
    until("the program still runs", || {
        std::fs::read(&command_line).is_ok_and(|line| line.is_empty())
            || !std::fs::exists(&command_line).unwrap()
    });
}

#[test]
fn the_third_time_gives_up_on_whatever_it_is_that_does_not_end() {
    let lab = Lab::new("third Ctrl-C");
    let policy = lab.path("policy");
    let made = Command::new("mkfifo").arg(&policy).status().unwrap();
    assert!(made.success());
    let policy = policy.to_str().unwrap();
    let verify = ["provenance", "verify", "x.qcow2", "--policy", policy];
    let mut child = start(lab.command(&verify));
    // This waits until the other end is opened, which then waits for the first word.
    let _silent = File::options().write(true).open(policy).unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    for line in ["stopping", "still cleaning up"] {
        interrupt(&child);
        let said = told.next().unwrap().unwrap();
        assert!(said.starts_with(line), "{said}");
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
