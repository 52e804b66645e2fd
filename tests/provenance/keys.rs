//! Whose keys sign, and whose are believed.

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
