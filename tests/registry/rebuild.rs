//! A registry that is damaged.

use crate::lab::Lab;
use crate::lab::versions::{assert_agrees, list};
use crate::scene::*;

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
