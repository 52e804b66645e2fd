//! Good provenance is accepted by all, and refused by all when anything was changed.

use std::path::Path;
use std::process::Command;

use imgbuild::provenance::dsse::{PAYLOAD_TYPE, pae};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::scene::*;

#[test]
fn others_accept_what_is_signed() {
    let lab = Lab::new("provenance accepted");
    let image = import(&lab, "web", "");
    verify(&lab, &image, &[]).with_code(0);
    let key = key(&lab);
    for output in signatures(&image, &key) {
        accepted(&output);
    }
    let statement = beside(&image, "provenance");
    accepted(&python(&["statement", text(&statement)]));
    accepted(&python(&["subject", text(&statement), text(&image)]));
    accepted(&python(&["cyclonedx", text(&beside(&image, "sbom.cdx"))]));
    accepted(&python(&["spdx", text(&beside(&image, "sbom.spdx"))]));
    let purls = python(&["purls", text(&beside(&image, "sbom.cdx"))]);
    accepted(&purls);
    assert_eq!(purls.stdout, b"4\n");
    lab.assert_nothing_left();
}

#[test]
fn openssl_and_ssh_keygen_accept_what_is_exported_and_nothing_else() {
    let lab = Lab::new("provenance exported");
    let image = import(&lab, "web", "");
    let folder = lab.path("exported");
    let export = ["provenance", "export", text(&image), text(&folder)];
    lab.imgbuild(&export).with_code(0);
    let openssl = || {
        let rest = [
            "-rawin",
            "-in",
            "statement.pae",
            "-sigfile",
            "statement.sig",
        ];
        let mut openssl = Command::new("openssl");
        openssl
            .args(["pkeyutl", "-verify", "-pubin", "-inkey", "key.pem"])
            .args(rest);
        openssl.current_dir(&folder).output().unwrap()
    };
    let ssh = || {
        let rest = ["-n", "imgbuild-provenance", "-s", "statement.json.sig"];
        let mut ssh = Command::new("ssh-keygen");
        ssh.args(["-Y", "verify", "-f", "allowed_signers", "-I", "imgbuild"])
            .args(rest);
        let statement = std::fs::File::open(folder.join("statement.json")).unwrap();
        ssh.stdin(statement).current_dir(&folder).output().unwrap()
    };
    accepted(&openssl());
    accepted(&ssh());
    for name in ["statement.pae", "statement.json"] {
        let path = folder.join(name);
        let changed = std::fs::read_to_string(&path)
            .unwrap()
            .replace("web-1.qcow2", "bad-1.qcow2");
        std::fs::write(path, changed).unwrap();
    }
    refused(&openssl());
    refused(&ssh());
}

#[test]
fn a_byte_of_the_image_that_was_changed_is_found() {
    let lab = Lab::new("provenance, image changed");
    let image = import(&lab, "web", "");
    let mut bytes = std::fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&image, bytes).unwrap();
    verify(&lab, &image, &[])
        .with_code(6)
        .saying("subject: the image has sha256");
    refused(&python(&[
        "subject",
        text(&beside(&image, "provenance")),
        text(&image),
    ]));
}

/// Changes the statement that an envelope, and a bundle, hold.
fn change_payload(image: &Path, change: impl Fn(&mut Value)) {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let (envelope, bundle) = (beside(image, "dsse"), beside(image, "sigstore"));
    let mut signed = read(&envelope);
    let payload = base64.decode(signed["payload"].as_str().unwrap()).unwrap();
    let mut statement: Value = serde_json::from_slice(&payload).unwrap();
    change(&mut statement);
    let payload = serde_json::to_vec_pretty(&statement).unwrap();
    signed["payload"] = base64.encode(&payload).into();
    std::fs::write(beside(image, "provenance"), &payload).unwrap();
    write(&envelope, &signed);
    let mut whole = read(&bundle);
    whole["dsseEnvelope"] = signed;
    write(&bundle, &whole);
}

#[test]
fn a_statement_that_was_changed_is_refused_by_all() {
    let lab = Lab::new("provenance, payload changed");
    let image = import(&lab, "web", "");
    let key = key(&lab);
    let commit = "/predicate/buildDefinition/resolvedDependencies/0/digest/sha256";
    change_payload(&image, |statement| {
        *statement.pointer_mut(commit).unwrap() = "0".repeat(64).into();
    });
    verify(&lab, &image, &[])
        .with_code(6)
        .saying("signature: it is not what SHA256:");
    for output in signatures(&image, &key) {
        refused(&output);
    }
}

#[test]
fn a_subject_that_was_renamed_is_refused_by_all() {
    let lab = Lab::new("provenance, subject renamed");
    import(&lab, "web", "");
    let key = key(&lab);
    // The image with all that is beside it, under another name: the signature is good, but about something else.
    for name in ["qcow2", "dsse.json", "sigstore.json", "provenance.json"] {
        let (from, to) = (format!("out/web-1.{name}"), format!("out/other.{name}"));
        std::fs::copy(lab.path(&from), lab.path(&to)).unwrap();
    }
    let other = lab.artifact("other");
    verify(&lab, &other, &[])
        .with_code(6)
        .saying("subject: what was signed is called web-1.qcow2");
    refused(&python(&[
        "subject",
        text(&beside(&other, "provenance")),
        text(&other),
    ]));
    // And the statement changed to fit the new name.
    change_payload(&other, |statement| {
        statement["subject"][0]["name"] = "other.qcow2".into();
    });
    verify(&lab, &other, &[]).with_code(6).saying("signature");
    for output in signatures(&other, &key) {
        refused(&output);
    }
}

#[test]
fn a_signature_of_something_else_is_refused_by_all() {
    let lab = Lab::new("provenance, signature swapped");
    let image = import(&lab, "web", "");
    let other = import(&lab, "other", "");
    let key = key(&lab);
    let foreign = read(&beside(&other, "dsse"))["signatures"].clone();
    let (envelope, bundle) = (beside(&image, "dsse"), beside(&image, "sigstore"));
    let mut signed = read(&envelope);
    signed["signatures"] = foreign;
    write(&envelope, &signed);
    let mut whole = read(&bundle);
    whole["dsseEnvelope"] = signed;
    write(&bundle, &whole);
    verify(&lab, &image, &[]).with_code(6).saying("signature");
    for output in signatures(&image, &key) {
        refused(&output);
    }
    verify(&lab, &other, &[]).with_code(0);
}

#[test]
fn another_key_is_refused_by_all_whatever_id_it_claims() {
    let lab = Lab::new("provenance, key swapped");
    let image = import(&lab, "web", "");
    let (fingerprint, _) = key(&lab);
    let stranger = Lab::new("a stranger");
    let (_, pem) = key(&stranger);
    verify(&lab, &image, &["--key", text(&pem)])
        .with_code(6)
        .saying(&format!("the key {fingerprint} is not trusted"));
    for output in signatures(&image, &(fingerprint.clone(), pem)) {
        refused(&output);
    }
    // The stranger signs the same image, and says that the signature is ours.
    let theirs = import(&stranger, "web", "");
    let mut envelope = read(&beside(&theirs, "dsse"));
    envelope["signatures"][0]["keyid"] = fingerprint.clone().into();
    write(&beside(&theirs, "dsse"), &envelope);
    verify(&lab, &theirs, &[])
        .with_code(6)
        .saying(&format!("it is not what {fingerprint} has signed"));
    refused(&signatures(&theirs, &key(&lab))[0]);
}

#[test]
fn each_file_beside_the_image_must_be_the_one_that_was_signed() {
    let lab = Lab::new("provenance, files changed");
    let image = import(&lab, "web", "");
    let record = lab.path("out/web-1.qcow2.build.json");
    let files = [
        ("statement", beside(&image, "provenance")),
        ("bundle", beside(&image, "sigstore")),
        ("file", beside(&image, "sbom.cdx")),
        ("file", beside(&image, "sbom.spdx")),
        ("file", record),
    ];
    for (rule, path) in files {
        let before = std::fs::read(&path).unwrap();
        let mut value = read(&path);
        value["added"] = true.into();
        write(&path, &value);
        if rule == "bundle" {
            // What a bundle says besides its envelope is not signed.
            let mut whole: Value = serde_json::from_slice(&before).unwrap();
            whole["dsseEnvelope"]["signatures"] = json!([]);
            write(&path, &whole);
        }
        verify(&lab, &image, &[]).with_code(6).saying(rule);
        std::fs::write(&path, before).unwrap();
    }
    verify(&lab, &image, &[]).with_code(0);
    std::fs::remove_file(beside(&image, "dsse")).unwrap();
    verify(&lab, &image, &[])
        .with_code(6)
        .saying("the image has no signed provenance beside it");
}

#[test]
fn another_machine_verifies_with_the_files_and_the_public_key_alone() {
    let lab = Lab::new("provenance made here");
    let image = import(&lab, "web", "");
    let line = lab.imgbuild(&["key", "show", "--format", "openssh"]).stdout;
    let there = Lab::new("provenance verified there");
    std::fs::create_dir(there.path("moved")).unwrap();
    for what in ["web-1.qcow2", "web-1.dsse.json"] {
        let from = image.with_file_name(what);
        std::fs::copy(from, there.path("moved").join(what)).unwrap();
    }
    let moved = there.path("moved/web-1.qcow2");
    verify(&there, &moved, &[])
        .with_code(6)
        .saying("is not trusted");
    let public = there.write("them.pub", &line);
    verify(&there, &moved, &["--key", text(&public)]).with_code(0);
    there
        .imgbuild(&["key", "trust", text(&public)])
        .with_code(0);
    verify(&there, &moved, &[]).with_code(0);
    let (fingerprint, _) = key(&lab);
    there
        .imgbuild(&["key", "trust", "--remove", &fingerprint])
        .with_code(0);
    verify(&there, &moved, &[]).with_code(6);
    // A link to the image is as good as the image.
    std::os::unix::fs::symlink("moved/web-1.qcow2", there.path("link.qcow2")).unwrap();
    verify(&there, &there.path("link.qcow2"), &["--key", text(&public)]).with_code(0);
}

#[test]
fn a_stranger_cannot_write_to_the_terminal() {
    let lab = Lab::new("provenance, terminal");
    let image = import(&lab, "web", "");
    let mut envelope = read(&beside(&image, "dsse"));
    envelope["signatures"][0]["keyid"] = "\u{1b}[2Jok\nsubject: fine".into();
    write(&beside(&image, "dsse"), &envelope);
    let other = Lab::new("provenance, terminal elsewhere");
    for arguments in [["provenance", "verify"], ["provenance", "show"]] {
        let said = other.imgbuild(&[&arguments[..], &[text(&image)]].concat());
        let said = format!("{}{}", said.stdout, said.stderr);
        assert!(said.contains("ok subject: fine"), "{said:?}");
        assert!(!said.contains('\u{1b}'), "{said:?}");
    }
}

#[test]
fn what_is_signed_is_the_encoding_of_the_standard() {
    let lab = Lab::new("provenance, encoding");
    let image = import(&lab, "web", "");
    lab.imgbuild(&["provenance", "export", text(&image), "exported"])
        .with_code(0);
    let payload = std::fs::read(beside(&image, "provenance")).unwrap();
    let exported = std::fs::read(lab.path("exported/statement.pae")).unwrap();
    assert!(exported == pae(PAYLOAD_TYPE, &payload));
}
