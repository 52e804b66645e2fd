//! Versions, channels and rollback, by the real binary. Images are imported: no machine is needed to have versions.

mod lab;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::versions::{assert_agrees, json, list};
use lab::{Ended, Lab};
use serde_json::Value;

/// A disk with an ext4 file system that has these files, as raw.
fn disk(lab: &Lab, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let tree = lab.path(&format!("tree-{name}"));
    let _ = std::fs::remove_dir_all(&tree);
    // What makes it a root file system.
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    std::fs::write(tree.join("etc/passwd"), "").unwrap();
    for (path, content) in files {
        std::fs::create_dir_all(tree.join(path).parent().unwrap()).unwrap();
        std::fs::write(tree.join(path), content).unwrap();
    }
    let disk = lab.path(&format!("{name}.raw"));
    let _ = std::fs::remove_file(&disk);
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .args([&tree, &disk])
        .arg("16M")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    disk
}

/// Writes `NAME.toml`, which imports `NAME.raw` unless `source` says otherwise.
fn recipe(lab: &Lab, name: &str, source: &str, rest: &str) -> String {
    let text = format!("[image]\nname = \"{name}\"\n{rest}\n[source]\nimport = true\n{source}\n");
    let path = lab.write(&format!("{name}.toml"), text);
    path.to_str().unwrap().to_owned()
}

/// Builds version after version of an image, each of another disk.
fn build(lab: &Lab, name: &str, content: &str) -> Ended {
    build_of(lab, name, &[("srv/content", content)])
}

fn build_of(lab: &Lab, name: &str, files: &[(&str, &str)]) -> Ended {
    disk(lab, name, files);
    let recipe = recipe(lab, name, &format!("file = \"{name}.raw\""), "");
    lab.imgbuild(&["run", &recipe]).with_code(0)
}

/// Makes an overlay of an image.
fn clone_of(lab: &Lab, image: &Path) -> PathBuf {
    let clone = lab.path("clone.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([image, &clone])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    clone
}

/// Opens an image as a machine on a clone of it would, until it is dropped.
struct InUse(Child);

impl InUse {
    fn open(lab: &Lab, image: &Path) -> Self {
        let clone = clone_of(lab, image);
        let mut child = Command::new("qemu-io")
            .args(["-f", "qcow2"])
            .arg(&clone)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let opened = |child: &Child| {
            let open = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
            let mut files = open.flatten().map(|file| std::fs::read_link(file.path()));
            files.any(|file| file.is_ok_and(|file| file == image))
        };
        while !opened(&child) {
            assert!(child.try_wait().unwrap().is_none(), "qemu-io has ended");
            // Nothing tells of it.
            std::thread::sleep(Duration::from_millis(5));
        }
        InUse(child)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_build_is_a_version_and_the_image_is_a_link_to_the_newest() {
    let lab = Lab::new("versions");
    // As an imgbuild without versions has left it.
    lab.write("out/web.qcow2", "an older image");
    lab.write("out/web.qcow2.build.json", "{}");
    build(&lab, "web", "one").printing_part("web@1: ");
    let target = std::fs::read_link(lab.link("web")).unwrap();
    assert_eq!(target, Path::new("web-1.qcow2"));
    assert!(!lab.path("out/web.qcow2.build.json").exists());
    let record = lab.record("web");
    assert_eq!(record["image"]["version"], 1);
    assert_eq!(record["artifact"]["file"], "web-1.qcow2");

    build(&lab, "web", "two").printing_part("web@2: ");
    let target = std::fs::read_link(lab.link("web")).unwrap();
    assert_eq!(target, Path::new("web-2.qcow2"));
    assert!(lab.path("out/web-1.qcow2").exists(), "the older one stays");
    let recipe = lab.path("web.toml");
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(0)
        .printing_part("web@2: up to date: ");
    let plan = lab.imgbuild(&["plan", "--detailed-exit-code", recipe.to_str().unwrap()]);
    plan.with_code(0).printing_part("web (up to date)");
    assert_eq!(list(&lab), ["web@1", "web@2"]);
    assert_agrees(&lab);
    lab.assert_nothing_left();
}

#[test]
fn variables_are_recorded_without_secrets_in_them() {
    let lab = Lab::new("variables");
    disk(&lab, "web", &[]);
    let vars = "[vars]\nplain = \"1.2\"\nmirror = \"https://me:hunter2@example.org/\"\n";
    let recipe = recipe(&lab, "web", "file = \"web.raw\"", vars);
    lab.imgbuild(&["run", &recipe]).with_code(0);
    let record = lab.record("web");
    assert_eq!(record["vars"]["plain"], "1.2");
    assert_eq!(
        record["vars"]["mirror"]["sha256"].as_str().unwrap().len(),
        64
    );
    assert!(!record.to_string().contains("hunter2"), "{record}");
}

#[test]
fn a_version_can_be_named_by_the_date() {
    let lab = Lab::new("labels");
    disk(&lab, "web", &[]);
    let recipe = recipe(&lab, "web", "file = \"web.raw\"", "version = \"%Y.%m.%d\"");
    for _ in 0..2 {
        lab.imgbuild(&["run", "--force", &recipe]).with_code(0);
    }
    let versions = json(&lab, &["template", "list"])["versions"].clone();
    let label = versions[0]["label"].as_str().unwrap();
    assert_eq!(versions[1]["label"], format!("{label}-2"));
    let shown = json(&lab, &["template", "show", &format!("web@{label}-2")]);
    assert_eq!(shown["version"]["name"], "web@2");
    assert_eq!(lab.record("web")["image"]["label"], format!("{label}-2"));
}

#[test]
fn the_story_of_a_template() {
    let lab = Lab::new("story");
    let with_nginx = |content: &str, version: &str| {
        let status = format!(
            "Package: nginx\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n"
        );
        let files = [
            ("srv/content", content),
            ("var/lib/dpkg/status", status.as_str()),
        ];
        build_of(&lab, "web", &files)
    };
    with_nginx("one", "1.22");
    lab.imgbuild(&["template", "promote", "web", "stable"])
        .with_code(0)
        .printing("web@stable is web@1\n");

    // A package is changed, and what is in a file.
    with_nginx("two", "1.24");
    lab.imgbuild(&["template", "diff", "web@1", "web@2", "--files"])
        .with_code(0)
        .printing_part("package   ~ nginx 1.22 → 1.24\n")
        .printing_part("file      ~ /srv/content (content)\n")
        .not_saying("/etc/passwd");
    let diff = json(&lab, &["template", "diff", "web@1", "web@2"]);
    assert_eq!(
        diff["packages"]["changed"]["nginx"],
        serde_json::json!(["1.22", "1.24"])
    );
    assert_ne!(
        diff["records"]["base"][0]["sha256"],
        diff["records"]["base"][1]["sha256"]
    );
    assert_eq!(diff["files"], Value::Null);

    lab.imgbuild(&["template", "promote", "web@2", "stable"])
        .with_code(0)
        .printing("web@stable is web@2 (was web@1)\n");
    lab.imgbuild(&["template", "rollback", "web@stable"])
        .with_code(0)
        .printing("web@stable is web@1 (was web@2)\n");
    let reason = ["template", "revoke", "web@2", "--reason", "nginx leaks"];
    lab.imgbuild(&reason)
        .with_code(0)
        .printing("revoked web@2\n");
    lab.imgbuild(&["template", "promote", "web@2", "stable"])
        .with_code(6)
        .saying("nginx leaks");

    for content in ["three", "four"] {
        build(&lab, "web", content);
    }
    let old = lab.path("out/web-3.qcow2").canonicalize().unwrap();
    let clone = InUse::open(&lab, &old);
    let prune = ["template", "prune", "--keep", "1"];
    lab.imgbuild(&[&prune[..], &["--dry-run"]].concat())
        .with_code(0)
        .printing_part("would remove web@2 ")
        .printing_part("kept web@1: the channel stable points to it\n")
        .printing_part("kept web@3: its file is open in qemu-io (process ");
    assert_eq!(list(&lab), ["web@1 stable", "web@2", "web@3", "web@4"]);
    lab.imgbuild(&prune)
        .with_code(0)
        .printing_part("removed web@2 ");
    lab.imgbuild(&["template", "rm", "web@3"])
        .with_code(5)
        .saying("qemu-io");
    assert!(lab.path("out/web-1.sbom.cdx.json").exists());
    assert!(!lab.path("out/web-2.sbom.cdx.json").exists());
    drop(clone);
    lab.imgbuild(&prune)
        .with_code(0)
        .printing_part("removed web@3 ");
    assert_eq!(list(&lab), ["web@1 stable", "web@4"]);

    let history = json(&lab, &["history", "web"])["history"].clone();
    let told: Vec<String> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|event| format!("{} {}", event["action"].as_str().unwrap(), event["version"]))
        .collect();
    assert_eq!(
        told,
        [
            "built 1",
            "promoted 1",
            "built 2",
            "promoted 2",
            "rolled-back 1",
            "revoked 2",
            "built 3",
            "built 4",
            "removed 2",
            "removed 3"
        ]
    );
    assert_eq!(history[4]["previous"], 2);
    assert_eq!(history[5]["reason"], "nginx leaks");
    assert_agrees(&lab);
    lab.assert_nothing_left();
}

#[test]
fn pruning_tells_what_went_and_what_did_not() {
    let lab = Lab::new("half a pruning");
    for content in ["one", "two", "three"] {
        build(&lab, "web", content);
    }
    let first = lab.path("out/web-1.qcow2");
    std::fs::remove_file(&first).unwrap();
    std::fs::create_dir(&first).unwrap();
    let pruned = lab.imgbuild(&["template", "prune", "--keep", "1"]);
    pruned
        .with_code(1)
        .saying("web-1.qcow2")
        .printing_part("removed web@2 ");
    std::fs::remove_dir(&first).unwrap();
    assert_eq!(list(&lab), ["web@3"]);
    assert_agrees(&lab);
}

#[test]
fn what_lies_beneath_a_machine_of_libvirts_is_kept() {
    let lab = Lab::new("libvirt");
    for content in ["one", "two"] {
        build(&lab, "web", content);
    }
    let clone = clone_of(&lab, &lab.path("out/web-1.qcow2"));
    let clone = clone.display();
    lab.write(
        "config/libvirt/qemu/db.xml",
        format!("<domain><name>db</name><devices><disk><source file='{clone}'/></disk></devices></domain>"),
    );
    let imgbuild = |arguments: &[&str]| -> Ended {
        let mut command = lab.command(arguments);
        command.env("XDG_CONFIG_HOME", lab.path("config"));
        command.output().unwrap().into()
    };
    let prune = ["template", "prune", "--keep", "1"];
    imgbuild(&prune)
        .with_code(0)
        .printing_part("kept web@1: the machine db, which libvirt knows, uses it\n");
    imgbuild(&["template", "rm", "web@1"])
        .with_code(5)
        .saying("the machine db");
    lab.write("config/libvirt/qemu/db.xml", "<domain>");
    imgbuild(&prune)
        .with_code(0)
        .saying("config/libvirt/qemu/db.xml")
        .printing_part("removed web@1 ");
    assert_agrees(&lab);
}

#[test]
fn an_image_is_built_on_a_version() {
    let lab = Lab::new("ancestry");
    build(&lab, "base", "one");
    let child = recipe(&lab, "child", "image = \"base@stable\"", "");
    lab.imgbuild(&["run", &child])
        .with_code(2)
        .saying("there is no such channel");
    lab.imgbuild(&["template", "promote", "base@1", "stable"])
        .with_code(0);
    lab.imgbuild(&["plan", &child])
        .with_code(0)
        .printing_part("source    image: base@1\n");
    lab.imgbuild(&["run", &child]).with_code(0);
    let record = lab.record("child");
    assert_eq!(record["source"]["version"], "base@1");
    assert_eq!(record["source"]["verified"]["by"], "registry");
    let base = lab.record("base");
    assert_eq!(record["source"]["sha256"], base["artifact"]["sha256"]);
    let shown = json(&lab, &["template", "show", "child"])["version"].clone();
    assert_eq!(shown["parent"], "base@1");
    assert_eq!(shown["asked"], "base@stable");
    assert_eq!(shown["outdated"], Value::Null);

    // A newer base changes nothing until it is promoted.
    build(&lab, "base", "two");
    lab.imgbuild(&["run", &child])
        .with_code(0)
        .printing_part("child@1: up to date");
    lab.imgbuild(&["template", "promote", "base@2", "stable"])
        .with_code(0);
    lab.imgbuild(&["template", "show", "child"])
        .with_code(0)
        .printing_part("outdated  base@2 is promoted to stable");
    lab.imgbuild(&["run", &child])
        .with_code(0)
        .printing_part("child@2: ");
    assert_eq!(lab.record("child")["source"]["version"], "base@2");

    // What others are built on stays.
    build(&lab, "base", "three");
    lab.imgbuild(&["template", "rm", "base@1"])
        .with_code(5)
        .saying("child@1 is built on it");
    lab.imgbuild(&["template", "prune", "--keep", "1"])
        .with_code(0);
    assert_eq!(list(&lab), ["base@1", "base@2 stable", "base@3", "child@2"]);
    assert_agrees(&lab);
}

#[test]
fn a_base_that_is_not_what_was_built_is_refused() {
    let lab = Lab::new("changed base");
    build(&lab, "base", "one");
    let path = lab.path("out/base-1.qcow2");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let child = recipe(&lab, "child", "image = \"base\"", "");
    lab.imgbuild(&["run", &child]).with_code(6);
}

#[test]
fn a_revoked_version_is_refused_whatever_a_recipe_calls_it() {
    let lab = Lab::new("revoked");
    build(&lab, "base", "one");
    std::fs::copy(lab.artifact("base"), lab.path("copy.qcow2")).unwrap();
    let sources = [
        ("named", "image = \"base\""),
        ("in-place", "file = \"out/base.qcow2\""),
        ("copied", "file = \"copy.qcow2\""),
    ];
    let recipes = sources.map(|(name, source)| recipe(&lab, name, source, ""));
    for recipe in &recipes {
        lab.imgbuild(&["run", recipe]).with_code(0);
    }
    let revoke = [
        "template",
        "revoke",
        "base",
        "--descendants",
        "--reason",
        "stolen key",
    ];
    lab.imgbuild(&revoke)
        .with_code(0)
        .printing("revoked base@1, copied@1, in-place@1, named@1\n");
    for recipe in &recipes {
        lab.imgbuild(&["run", recipe])
            .with_code(6)
            .saying("stolen key");
    }
    lab.imgbuild(&["template", "restore", "base", "--descendants"])
        .with_code(0);
    for recipe in &recipes {
        lab.imgbuild(&["run", recipe])
            .with_code(0)
            .printing_part("@1: up to date");
    }
    // One that was revoked itself is built anew.
    lab.imgbuild(&["template", "revoke", "named", "--reason", "x"])
        .with_code(0);
    lab.imgbuild(&["run", &recipes[0]])
        .with_code(0)
        .printing_part("named@2: ");
    let since = [
        "template",
        "revoke",
        "named",
        "--since",
        "2000-01-01",
        "--reason",
        "y",
    ];
    lab.imgbuild(&since)
        .with_code(0)
        .printing("revoked named@2\n");
}

#[test]
fn names_that_mean_nothing_are_refused() {
    let lab = Lab::new("names");
    build(&lab, "web", "one");
    for (arguments, said) in [
        (&["promote", "web", "7"][..], "begins with a letter"),
        (&["promote", "web", "Stable"], "begins with a letter"),
        (&["promote", "web@2", "stable"], "there is no such version"),
        (&["promote", "wep", "stable"], "did you mean `web`?"),
        (&["rollback", "web"], "write it as NAME@CHANNEL"),
        (&["rollback", "web@stable"], "there is no such channel"),
        (
            &["revoke", "web@1", "--since", "2026-01-01", "--reason", "x"],
            "--since is about",
        ),
        (
            &["revoke", "web", "--since", "yesterday", "--reason", "x"],
            "write it as",
        ),
        (&["prune", "--keep", "0"], "--keep"),
    ] {
        let all = [&["template"], arguments].concat();
        lab.imgbuild(&all).with_code(2).saying(said);
    }
}

#[test]
fn a_registry_that_cannot_be_read_is_refused_and_can_be_rebuilt() {
    let lab = Lab::new("rebuild");
    build(&lab, "web", "one");
    build(&lab, "web", "two");
    lab.imgbuild(&["template", "promote", "web@1", "stable"])
        .with_code(0);
    lab.imgbuild(&["template", "revoke", "web@2", "--reason", "it leaks"])
        .with_code(0);
    let registry = lab.home().join("state/registry.db");
    std::fs::write(&registry, "no database at all").unwrap();
    let recipe = lab.path("web.toml");
    let recipe = recipe.to_str().unwrap();
    for command in [&["template", "list"][..], &["run", recipe], &["history"]] {
        lab.imgbuild(command)
            .with_code(1)
            .saying("imgbuild registry rebuild");
    }
    let doctor = lab.imgbuild(&["doctor"]).with_code(1);
    assert!(
        doctor.stdout.contains("MISSING  registry"),
        "{}",
        doctor.stdout
    );
    lab.imgbuild(&["registry", "rebuild"])
        .with_code(0)
        .printing("2 versions found in 1 folders; 1 channels and 1 revocations are as they were\n");
    assert_eq!(list(&lab), ["web@1 stable", "web@2"]);
    lab.imgbuild(&["template", "promote", "web@2", "stable"])
        .with_code(6)
        .saying("it leaks");
    lab.imgbuild(&["template", "restore", "web@2"]).with_code(0);
    lab.imgbuild(&["run", recipe])
        .with_code(0)
        .printing_part("web@2: up to date");
    assert_agrees(&lab);
}
