//! Programs that end well, badly, or not by themselves.

use super::*;

fn sh(script: &str) -> Program {
    Program::new("sh").arg("-c").arg(script)
}

#[tokio::test]
async fn stdout_is_returned() {
    assert_eq!(
        sh("echo one; echo two").stdout().await.unwrap(),
        "one\ntwo\n"
    );
}

#[tokio::test]
async fn a_failure_says_the_command_its_status_and_its_last_words() {
    let error = sh("echo no such disk >&2; exit 3")
        .stdout()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("exit status: 3"), "{error}");
    assert!(
        error.to_string().contains("sh -c 'echo no such disk"),
        "{error}"
    );
    assert_eq!(error.get_detail().unwrap().text, "no such disk");
}

#[tokio::test]
async fn stdin_is_what_was_given_however_long_and_empty_otherwise() {
    let text = "line\n".repeat(100_000);
    let echoed = Program::new("cat").stdin(text.as_str()).stdout();
    assert!(echoed.await.unwrap() == text);
    assert_eq!(Program::new("cat").stdout().await.unwrap(), "");
}

#[tokio::test]
async fn input_that_is_not_read_is_an_error_unless_the_program_has_one_of_its_own() {
    let text = "line\n".repeat(100_000);
    let run = |script| sh(script).stdin(text.as_str()).stdout();
    let error = run("exit 0").await.unwrap_err();
    assert!(error.to_string().contains("did not read all"), "{error}");
    let error = run("exit 3").await.unwrap_err();
    assert!(error.to_string().contains("exit status: 3"), "{error}");
}

#[tokio::test]
async fn stderr_is_bounded() {
    let error = sh("head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1")
        .stdout()
        .await
        .unwrap_err();
    assert!(error.get_detail().unwrap().text.len() <= STDERR_KEPT);
}

#[tokio::test]
async fn a_missing_program_points_at_doctor() {
    let error = Program::new("no-such-program-here")
        .stdout()
        .await
        .unwrap_err();
    assert!(error.get_hint().unwrap().contains("imgbuild doctor"));
}

#[tokio::test]
async fn dropping_kills_grandchildren_too() {
    let folder = tempfile::tempdir().unwrap();
    let log = File::create(folder.path().join("log")).unwrap();
    let script = format!(
        "sleep 1000 & echo $! > {0}/new; mv {0}/new {0}/pid; wait",
        folder.path().display()
    );
    let process = sh(&script).spawn(log).unwrap();
    let pid = loop {
        match std::fs::read_to_string(folder.path().join("pid")) {
            Ok(pid) => break pid.trim().parse().unwrap(),
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let grandchild = Pid::from_raw(pid).unwrap();
    let watch =
        rustix::process::pidfd_open(grandchild, rustix::process::PidfdFlags::empty()).unwrap();
    drop(process);
    let mut fds = [rustix::event::PollFd::new(
        &watch,
        rustix::event::PollFlags::IN,
    )];
    let limit = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(
        rustix::event::poll(&mut fds, Some(&limit)).unwrap(),
        1,
        "still alive after ten seconds"
    );
}

#[tokio::test]
async fn a_program_that_aborts_has_crashed_and_one_that_fails_or_is_killed_has_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut found = vec![];
    for end in [
        "kill -ABRT $$",
        "kill -SEGV $$",
        "kill -KILL $$",
        "exit 134",
    ] {
        let log = File::create(folder.path().join("log")).unwrap();
        let status = sh(end).spawn(log).unwrap().wait().await.unwrap();
        found.push(crashed(status));
    }
    assert_eq!(found, [true, true, false, false]);
}

#[test]
fn a_passphrase_and_what_it_shall_not_have_are_kept_from_a_program() {
    let program = Program::new("git").without_env(&["GIT_"]);
    let kept = |name: &str| program.keeps_back(OsStr::new(name));
    assert!(kept("IMGBUILD_SIGNING_PASSPHRASE") && kept("GIT_DIR"));
    assert!(!kept("PATH") && !kept("IMGBUILD_HOME") && !kept("LEGIT_DIR"));
}

#[test]
fn logins_are_kept_from_our_tools_and_not_from_a_user_s_programs() {
    let keeps_back = |program: &Program| program.keeps_back(OsStr::new("PROXMOX_VE_API_TOKEN"));
    assert!(keeps_back(&Program::new("qemu-img")));
    let users = Program::of_user("sh");
    assert!(!keeps_back(&users));
    assert!(users.keeps_back(OsStr::new("IMGBUILD_SIGNING_PASSPHRASE")));
}

#[test]
fn words_are_quoted_only_where_needed() {
    assert_eq!(quote("a-b_c=1,d:/x"), "a-b_c=1,d:/x");
    assert_eq!(quote("it's"), r"'it'\''s'");
    assert_eq!(quote(""), "''");
}
