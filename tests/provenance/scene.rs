//! What the tests work with: disks, images, keys, and the programs of others.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::lab::{Ended, Lab};

/// Where the programs of others are.
pub fn verifiers() -> PathBuf {
    let given = std::env::var_os("IMGBUILD_TEST_VERIFIERS").map(PathBuf::from);
    let folder =
        given.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("out/verifiers"));
    assert!(
        folder.join("versions").exists(),
        "no verifiers in {}: run scripts/make-verifiers",
        folder.display()
    );
    folder
}

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/verifiers")
        .join(name)
}

pub fn python(arguments: &[&str]) -> Output {
    let mut python = Command::new(verifiers().join("python/bin/python"));
    python
        .arg(script("verify.py"))
        .args(arguments)
        .output()
        .unwrap()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn write(path: &Path, value: &Value) {
    std::fs::write(path, serde_json::to_vec_pretty(value).unwrap()).unwrap();
}

#[track_caller]
pub fn accepted(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

#[track_caller]
pub fn refused(output: &Output) {
    assert!(!output.status.success(), "it was accepted: {output:?}");
}

/// A disk with the files of a small Debian: packages of dpkg, npm and pip.
pub fn debian(lab: &Lab) -> PathBuf {
    let status = "Package: openssl\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.0.11-1~deb12u2\nMaintainer: Somebody <x@example.org>\n\n\
                  Package: g++\nStatus: install ok installed\nArchitecture: amd64\nVersion: 4:12.2.0-3\nSource: gcc-defaults (1.203)\n";
    let metadata = "Metadata-Version: 2.1\nName: PyYAML\nVersion: 6.0.1\nLicense: MIT\n\nText.\n";
    let manifest = r#"{"name": "@openai/codex", "version": "0.169.0", "license": "Apache-2.0"}"#;
    for (path, text) in [
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        (
            "etc/os-release",
            "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n",
        ),
        ("var/lib/dpkg/status", status),
        (
            "usr/local/lib/node_modules/@openai/codex/package.json",
            manifest,
        ),
        (
            "usr/local/lib/python3.11/dist-packages/PyYAML-6.0.1.dist-info/METADATA",
            metadata,
        ),
    ] {
        lab.write(&format!("root/{path}"), text);
    }
    disk(lab)
}

/// A disk with the files that are below `root`.
pub fn disk(lab: &Lab) -> PathBuf {
    let image = lab.path("disk.raw");
    let made = Command::new("mke2fs")
        .env(
            "PATH",
            format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()),
        )
        .args(["-q", "-F", "-t", "ext4"])
        .arg("-d")
        .args([&lab.path("root"), &image])
        .arg("8M")
        .output();
    accepted(&made.unwrap());
    image
}

/// The package URLs of what is listed beside an image.
pub fn purls(image: &Path) -> Vec<String> {
    let document = read(&beside(image, "sbom.cdx"));
    let components = document["components"].as_array().unwrap().iter();
    let purls = components.filter_map(|component| component["purl"].as_str());
    purls.map(str::to_owned).collect()
}

/// The newest version of an image, where its name is a link to it.
pub fn newest(lab: &Lab, name: &str) -> PathBuf {
    lab.artifact(name).canonicalize().unwrap()
}

/// Imports that disk as `NAME.qcow2`, and returns where the image is.
pub fn import(lab: &Lab, name: &str, rest: &str) -> PathBuf {
    if !lab.path("disk.raw").exists() {
        debian(lab);
    }
    let recipe =
        format!("[image]\nname = \"{name}\"\n[source]\nimport = true\nfile = \"disk.raw\"\n{rest}");
    let recipe = lab.write(&format!("{name}.toml"), recipe);
    lab.imgbuild(&["run", text(&recipe)]).with_code(0);
    newest(lab, name)
}

/// A file beside an image, or beside what its name is a link to.
pub fn beside(image: &Path, what: &str) -> PathBuf {
    let image = image.canonicalize().unwrap();
    let stem = image.file_stem().unwrap().to_str().unwrap();
    image.with_file_name(format!("{stem}.{what}.json"))
}

pub fn verify(lab: &Lab, image: &Path, rest: &[&str]) -> Ended {
    lab.imgbuild(&[&["provenance", "verify", text(image)], rest].concat())
}

/// The fingerprint and the PEM file of the key that a lab signs with.
pub fn key(lab: &Lab) -> (String, PathBuf) {
    let shown = lab
        .imgbuild(&["key", "show", "--format", "json"])
        .with_code(0);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let pem = shown["key"]["pem"].as_str().unwrap();
    let fingerprint = shown["key"]["fingerprint"].as_str().unwrap();
    (fingerprint.to_owned(), lab.write("key.pem", pem))
}

/// A key made by ssh-keygen.
pub fn ssh_key(lab: &Lab, name: &str, passphrase: &str) -> PathBuf {
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

/// Both programs that know signatures: each says whether it accepts what is beside the image.
pub fn signatures(image: &Path, key: &(String, PathBuf)) -> [Output; 2] {
    let (fingerprint, pem) = key;
    let (envelope, bundle) = (beside(image, "dsse"), beside(image, "sigstore"));
    let node = Command::new("node")
        .arg(script("verify.cjs"))
        .arg(verifiers().join("node_modules"))
        .args([&bundle, pem])
        .arg(fingerprint)
        .output();
    let python = python(&["dsse", text(&envelope), text(pem), fingerprint]);
    [python, node.unwrap()]
}
