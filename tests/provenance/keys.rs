//! Whose keys sign, and whose are believed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::terminal::Terminal;
use crate::lab::{Ended, Lab};
use crate::scene::*;

#[test]
fn a_key_that_was_replaced_is_still_good_for_what_it_has_signed() {
    let lab = Lab::new("provenance, key rotated");
    let image = import(&lab, "web", "");
    let (before, _) = key(&lab);
    let mut with_another = lab.command(&["key", "rotate"]);
    with_another.env("IMGBUILD_SIGNING_KEY", lab.path("another"));
    let refused: Ended = with_another.output().unwrap().into();
    refused.with_code(2).saying("IMGBUILD_SIGNING_KEY");
    lab.imgbuild(&["key", "rotate"]).with_code(0);
    let (after, _) = key(&lab);
    assert_ne!(before, after);
    verify(&lab, &image, &[]).with_code(0);
    let image = import(&lab, "next", "");
    let shown = verify(&lab, &image, &["--format", "json"])
        .with_code(0)
        .stdout;
    assert!(
        shown.contains(&after) && !shown.contains(&before),
        "{shown}"
    );
}

/// A key made by ssh-keygen.
fn ssh_key(lab: &Lab, name: &str, passphrase: &str) -> PathBuf {
    let path = lab.path(name);
    let mut ssh = Command::new("ssh-keygen");
    let made = ssh
        .args([
            "-q",
            "-t",
            "ed25519",
            "-C",
            name,
            "-N",
            passphrase,
            "-f",
            text(&path),
        ])
        .output();
    accepted(&made.unwrap());
    path
}

#[test]
fn a_key_of_ssh_keygens_signs_with_its_passphrase_and_not_without() {
    let lab = Lab::new("provenance, passphrase");
    let key = ssh_key(&lab, "release", "correct horse");
    debian(&lab);
    let recipe = "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"disk.raw\"\n[signing]\nkey = \"release\"\n";
    let recipe = lab.write("web.toml", recipe);
    let run = |passphrase: Option<&str>| -> Ended {
        let mut command = lab.command(&["run", text(&recipe)]);
        if let Some(passphrase) = passphrase {
            command.env("IMGBUILD_SIGNING_PASSPHRASE", passphrase);
        }
        command.env_remove("SSH_AUTH_SOCK").output().unwrap().into()
    };
    run(None).with_code(2).saying("IMGBUILD_SIGNING_PASSPHRASE");
    run(Some("wrong horse"))
        .with_code(2)
        .not_saying("wrong horse");
    assert!(
        !lab.artifact("web").exists(),
        "an image that nobody has signed"
    );
    run(Some("correct horse"))
        .with_code(0)
        .not_saying("correct horse");
    let image = newest(&lab, "web");
    let public = key.with_extension("pub");
    verify(&lab, &image, &["--key", text(&public)]).with_code(0);
    verify(&lab, &image, &[]).with_code(6);
    lab.assert_nothing_left();
}

#[test]
fn a_passphrase_is_asked_for_where_somebody_is_and_not_shown() {
    let lab = Lab::new("provenance, asked");
    let key = ssh_key(&lab, "release", "correct horse");
    debian(&lab);
    let recipe = "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"disk.raw\"\n";
    let recipe = lab.write("web.toml", recipe);
    let mut command = lab.command(&["run", text(&recipe)]);
    command
        .env("IMGBUILD_SIGNING_KEY", &key)
        .env_remove("SSH_AUTH_SOCK");
    let mut terminal = Terminal::start(&command);
    terminal.until("passphrase of the signing key");
    terminal.types("correct horse\n");
    let (status, shown) = terminal.end();
    assert!(status.success(), "{shown}");
    assert!(!shown.contains("correct horse"), "{shown}");
    let public = key.with_extension("pub");
    verify(&lab, &lab.artifact("web"), &["--key", text(&public)]).with_code(0);

    // Ctrl-C is an answer, too.
    std::fs::remove_file(lab.artifact("web")).unwrap();
    let mut terminal = Terminal::start(&command);
    terminal.until("passphrase of the signing key");
    terminal.types("\u{3}");
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(130), "{shown}");
    assert!(!lab.artifact("web").exists());
    lab.assert_nothing_left();
}

/// An ssh-agent that ends with the test.
struct Agent {
    socket: PathBuf,
    process: std::process::Child,
}

impl Agent {
    fn start(lab: &Lab, key: &Path) -> Self {
        let socket = lab.path("agent");
        let mut agent = Command::new("ssh-agent");
        let process = agent
            .args(["-D", "-a", text(&socket)])
            .stdout(std::process::Stdio::null())
            .spawn();
        let agent = Agent {
            process: process.unwrap(),
            socket,
        };
        let add = || {
            let mut add = Command::new("ssh-add");
            add.arg("-q")
                .arg(key)
                .env("SSH_AUTH_SOCK", &agent.socket)
                .output()
                .unwrap()
        };
        // It does not tell when it listens.
        let began = std::time::Instant::now();
        while !agent.socket.exists() {
            assert!(began.elapsed().as_secs() < 30, "the agent does not listen");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        accepted(&add());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_key_that_an_agent_holds_signs() {
    let lab = Lab::new("provenance, agent");
    let key = ssh_key(&lab, "held", "");
    let agent = Agent::start(&lab, &key);
    std::fs::remove_file(&key).unwrap();
    let public = key.with_extension("pub");
    debian(&lab);
    let recipe = lab.write(
        "web.toml",
        "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"disk.raw\"\n",
    );
    let run = |socket: &Path| -> Ended {
        let mut command = lab.command(&["run", text(&recipe)]);
        let command = command
            .env("IMGBUILD_SIGNING_KEY", &public)
            .env("SSH_AUTH_SOCK", socket);
        command.output().unwrap().into()
    };
    run(&agent.socket).with_code(0);
    let image = newest(&lab, "web");
    verify(&lab, &image, &["--key", text(&public)]).with_code(0);
    let pem = lab.imgbuild(&[
        "provenance",
        "export",
        text(&image),
        "exported",
        "--key",
        text(&public),
    ]);
    pem.with_code(0);
    let fingerprint = read(&beside(&image, "dsse"))["signatures"][0]["keyid"].clone();
    let key = (
        fingerprint.as_str().unwrap().to_owned(),
        lab.path("exported/key.pem"),
    );
    for output in signatures(&image, &key) {
        accepted(&output);
    }
    std::fs::remove_file(&image).unwrap();
    run(&lab.path("no-agent")).with_code(1).saying("ssh-agent");
    assert!(!image.exists());
}

#[test]
fn key_formats_are_for_keys_only() {
    let lab = Lab::new("key show");
    let openssh = lab
        .imgbuild(&["key", "show", "--format", "openssh"])
        .with_code(0);
    assert!(
        openssh.stdout.starts_with("ssh-ed25519 AAAA"),
        "{}",
        openssh.stdout
    );
    let pem = lab
        .imgbuild(&["key", "show", "--format", "pem"])
        .with_code(0);
    let mut openssl = Command::new("openssl");
    let path = lab.write("key.pem", &pem.stdout);
    accepted(
        &openssl
            .args(["pkey", "-pubin", "-noout", "-in"])
            .arg(&path)
            .output()
            .unwrap(),
    );
    lab.imgbuild(&["gc", "--format", "pem"])
        .with_code(2)
        .saying("key show");
    lab.imgbuild(&["key", "trust"]).with_code(2);
    lab.imgbuild(&["key", "trust", "home/config/signing_key"])
        .with_code(2)
        .saying("it is a private key");
    let stranger = lab.path("no-such-file");
    lab.imgbuild(&["key", "trust", text(&stranger)])
        .with_code(2);
}
