//! Versions that others are built on, and those that nobody may build on.

use serde_json::Value;

use crate::lab::Lab;
use crate::lab::versions::{assert_agrees, json, list};
use crate::scene::*;

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
