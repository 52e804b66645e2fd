//! What vendors publish, in their formats and without their content: archives, apt repositories, npm packages, git.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::server::{Answer, Request, sha256};

/// A compressed archive with these files: path, content, mode. They belong to somebody whom the guest does not know.
pub fn archive(files: &[(&str, &str, u32)]) -> Vec<u8> {
    packed(files, 4242)
}

fn packed(files: &[(&str, &str, u32)], owner: u64) -> Vec<u8> {
    let gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    let mut archive = tar::Builder::new(gz);
    for (path, content, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// A package of Debian: what stands in its control file and in an index, and the file.
pub struct Deb {
    control: String,
    file: Vec<u8>,
    name: String,
}

impl Deb {
    pub fn new(name: &str, version: &str, files: &[(&str, &str, u32)]) -> Self {
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\n\
             Maintainer: Nobody <nobody@example.org>\nDescription: stands in for {name}\n"
        );
        let mut file = b"!<arch>\n".to_vec();
        let parts = [
            ("debian-binary", b"2.0\n".to_vec()),
            (
                "control.tar.gz",
                packed(&[("./control", &control, 0o644)], 0),
            ),
            ("data.tar.gz", packed(files, 0)),
        ];
        for (part, content) in parts {
            let size = content.len();
            let head = format!(
                "{part:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n",
                0, 0, 0, "100644"
            );
            file.extend(head.bytes());
            file.extend(&content);
            file.resize(file.len().next_multiple_of(2), b'\n');
        }
        let name = format!("pool/{name}_{}.deb", version.replace([':', '~'], "-"));
        Deb {
            control,
            file,
            name,
        }
    }
}

/// A key that signs repositories.
pub struct Key(pgp::composed::SignedSecretKey);

impl Key {
    pub fn new() -> Self {
        use pgp::composed::{EncryptionCaps, KeyType, SecretKeyParamsBuilder};
        let mut params = SecretKeyParamsBuilder::default();
        params
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .can_encrypt(EncryptionCaps::None)
            .primary_user_id("Test <test@example.org>".into());
        let rng = ssh_key::rand_core::OsRng;
        Key(params.build().unwrap().generate(rng).unwrap())
    }

    pub fn fingerprint(&self) -> String {
        use pgp::types::KeyDetails;
        format!("{:X}", self.0.primary_key.fingerprint())
    }

    pub fn public(&self) -> Vec<u8> {
        let public = self.0.to_public_key();
        public.to_armored_bytes(Default::default()).unwrap()
    }

    fn sign(&self, data: &[u8]) -> Vec<u8> {
        let signature = pgp::composed::DetachedSignature::sign_binary_data(
            ssh_key::rand_core::OsRng,
            &self.0.primary_key,
            &pgp::types::Password::empty(),
            pgp::crypto::hash::HashAlgorithm::Sha512,
            data,
        );
        signature
            .unwrap()
            .to_armored_bytes(Default::default())
            .unwrap()
    }
}

/// An apt repository of one suite and one component below `root`, with its files by their paths on the server.
pub fn repository(root: &str, suite: &str, debs: &[Deb], key: &Key) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut index = String::new();
    for deb in debs {
        index.push_str(&format!(
            "{}Filename: {}\nSize: {}\nSHA256: {}\n\n",
            deb.control,
            deb.name,
            deb.file.len(),
            sha256(&deb.file)
        ));
        files.insert(format!("{root}/{}", deb.name), deb.file.clone());
    }
    let path = "stable/binary-amd64/Packages";
    let release = format!(
        "Origin: Test\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: stable\n\
         Date: Tue, 14 Nov 2023 22:13:20 UTC\nSHA256:\n {} {} {path}\n",
        sha256(index.as_bytes()),
        index.len()
    );
    let dist = format!("{root}/dists/{suite}");
    let signature = key.sign(release.as_bytes());
    files.insert(format!("{dist}/{path}"), index.into_bytes());
    files.insert(format!("{dist}/Release.gpg"), signature);
    files.insert(format!("{dist}/Release"), release.into_bytes());
    files
}

/// What an npm registry at `address` (with its path) answers about a package of one version, and its archive.
pub fn npm_package(
    address: &str,
    name: &str,
    version: &str,
    program: &str,
    dependencies: &[&str],
) -> BTreeMap<String, Vec<u8>> {
    use base64::Engine;
    use sha2::Digest;
    let dependencies: BTreeMap<_, _> = dependencies.iter().map(|name| (name, "*")).collect();
    let manifest = serde_json::json!({
        "name": name, "version": version, "main": "program.js", "bin": {name: "program.js"},
        "dependencies": dependencies,
    });
    let archive = archive(&[
        ("package/package.json", &manifest.to_string(), 0o644),
        ("package/program.js", program, 0o755),
    ]);
    let digest = base64::engine::general_purpose::STANDARD.encode(sha2::Sha512::digest(&archive));
    let file = format!("/{name}/-/{name}-{version}.tgz");
    let mut about = manifest;
    about["dist"] = serde_json::json!({
        "tarball": format!("{address}{file}"), "integrity": format!("sha512-{digest}"),
    });
    let all = serde_json::json!({
        "name": name, "dist-tags": {"latest": version}, "versions": {version: about.clone()},
    });
    let path = &address[address.match_indices('/').nth(2).unwrap().0..];
    BTreeMap::from([
        (format!("{path}/{name}"), all.to_string().into_bytes()),
        (
            format!("{path}/{name}/latest"),
            about.to_string().into_bytes(),
        ),
        (format!("{path}{file}"), archive),
    ])
}

/// Runs git on a repository of the test.
#[track_caller]
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(folder).args([
        "-c",
        "user.name=Test",
        "-c",
        "user.email=test@example.org",
        "-c",
        "init.defaultBranch=trunk",
        "-c",
        "commit.gpgSign=false",
        "-c",
        "tag.gpgSign=false",
    ]);
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Answers for the repositories in a folder, by git's own server; `path` is the request's within that folder.
pub fn git_answer(folder: &Path, path: &str, request: &Request) -> Answer {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("HTTP_GIT_PROTOCOL", header("git-protocol"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&request.body)
        .unwrap();
    let said = child.wait_with_output().unwrap().stdout;
    let end = said.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.expect("git http-backend answers with headers");
    let head = String::from_utf8_lossy(&said[..end]);
    let mut answer = Answer::new("200 OK");
    for line in head.lines() {
        match line.strip_prefix("Status: ") {
            Some(status) => answer.status = status.to_owned(),
            None => answer.headers.push(line.to_owned()),
        }
    }
    answer.body = said[end + 4..].to_vec();
    answer
}
