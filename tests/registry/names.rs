//! What a version is called, and what is said of it.

use std::path::Path;

use crate::lab::Lab;
use crate::lab::versions::{assert_agrees, json, list};
use crate::scene::*;

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
