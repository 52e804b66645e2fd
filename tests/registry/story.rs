//! The whole life of a template.

use serde_json::Value;

use crate::lab::Lab;
use crate::lab::versions::{assert_agrees, json, list};
use crate::scene::*;

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
