//! Ctrl-C ends what waits for something that never comes.

mod lab;

use std::cell::{OnceCell, RefCell};
use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::process::{Child, Command, Stdio};

use lab::{Ended, Lab, until};
use rustix::fs::OFlags;
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

/// A command that waits for a policy which is never said, with the end of the pipe that keeps it waiting.
fn waiting_for_its_policy(lab: &Lab) -> (Child, File) {
    let policy = lab.path("policy");
    let made = Command::new("mkfifo").arg(&policy).status().unwrap();
    assert!(made.success());
    let arguments = ["provenance", "verify", "x.qcow2", "--policy"];
    let mut verify = lab.command(&arguments);
    verify.arg(&policy);
    let child = start(verify);
    let silent = OnceCell::new();
    // It cannot be opened so before the other end is.
    until("it does not read its policy", || {
        let mut options = File::options();
        options
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        options
            .open(&policy)
            .is_ok_and(|file| silent.set(file).is_ok())
    });
    (child, silent.into_inner().unwrap())
}

#[test]
fn the_third_time_gives_up_on_whatever_it_is_that_does_not_end() {
    let lab = Lab::new("third Ctrl-C");
    let (mut child, _silent) = waiting_for_its_policy(&lab);
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    for line in ["stopping", "still cleaning up"] {
        interrupt(&child);
        let said = told.next().unwrap().unwrap();
        assert!(said.starts_with(line), "{said}");
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn nobody_has_to_hear_that_it_stops() {
    let lab = Lab::new("Ctrl-C, stderr gone");
    let (mut child, _silent) = waiting_for_its_policy(&lab);
    drop(child.stderr.take());
    let watched = RefCell::new(&mut child);
    until("it goes on", || {
        let mut child = watched.borrow_mut();
        let ended = child.try_wait().unwrap();
        if ended.is_none() {
            interrupt(&child);
        }
        ended.is_some()
    });
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_log_that_nobody_reads_is_no_reason_to_die() {
    let lab = Lab::new("log, stderr gone");
    let mut doctor = start(lab.command(&["-v", "doctor"]));
    drop(doctor.stderr.take());
    let ended = doctor.wait_with_output().unwrap();
    // It says how the machine is, whatever that is.
    assert!(String::from_utf8_lossy(&ended.stdout).contains("qemu-img"));
    assert!(matches!(ended.status.code(), Some(0 | 1)), "{ended:?}");
}
