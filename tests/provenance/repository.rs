//! What is told of the git repository that a recipe is in, and what that decides.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::lab::Lab;
use crate::scene::*;

fn git(folder: &Path, arguments: &[&str]) {
    let who = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
    let mut git = Command::new("git");
    accepted(
        &git.arg("-C")
            .arg(folder)
            .args(who)
            .args(arguments)
            .output()
            .unwrap(),
    );
}

#[test]
fn the_recipes_repository_is_recorded_without_credentials() {
    let lab = Lab::new("provenance, git");
    let folder = lab.path("images");
    lab.write(
        "images/recipes/web.toml",
        "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"../../disk.raw\"\n",
    );
    debian(&lab);
    git(&folder, &["init", "-q"]);
    git(&folder, &["add", "."]);
    git(&folder, &["commit", "-q", "-m", "x"]);
    git(
        &folder,
        &[
            "remote",
            "add",
            "origin",
            "https://me:hunter2@example.org/images.git",
        ],
    );
    let run = || {
        lab.imgbuild(&["run", "--force", "images/recipes/web.toml"])
            .with_code(0)
    };
    run();
    let image = lab.artifact("web");
    let statement = read(&beside(&image, "provenance"));
    assert!(!statement.to_string().contains("hunter2"));
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(
        definition["externalParameters"]["recipe"],
        "recipes/web.toml"
    );
    let repository = &definition["resolvedDependencies"][1];
    assert_eq!(repository["uri"], "git+https://example.org/images.git");
    assert_eq!(
        repository["annotations"],
        json!({"kind": "repository", "dirty": false})
    );
    let commit = Command::new("git")
        .arg("-C")
        .arg(&folder)
        .args(["rev-parse", "HEAD"])
        .output();
    let commit = String::from_utf8(commit.unwrap().stdout).unwrap();
    assert_eq!(repository["digest"]["gitCommit"], commit.trim());
    accepted(&python(&["statement", text(&beside(&image, "provenance"))]));

    let policy = "[policy]\ngit-remote = [\"git@example.org:images\", \"https://example.org/images\"]\nclean-tree = true\n";
    let policy = lab.write("policy.toml", policy);
    verify(&lab, &image, &["--policy", text(&policy)]).with_code(0);
    lab.write("images/new", "x");
    run();
    verify(&lab, &lab.artifact("web"), &["--policy", text(&policy)])
        .with_code(6)
        .saying("policy clean-tree: the repository had changes");
}

#[test]
fn a_commit_that_changes_no_input_makes_no_new_version() {
    let lab = Lab::new("provenance, commits");
    let folder = lab.path("images");
    lab.write(
        "images/web.toml",
        "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"../disk.raw\"\n",
    );
    debian(&lab);
    git(&folder, &["init", "-q"]);
    git(&folder, &["commit", "-q", "--allow-empty", "-m", "first"]);
    let run = |arguments: &[&str]| {
        let all = [&["run", "images/web.toml"], arguments].concat();
        lab.imgbuild(&all).with_code(0)
    };
    let told = || {
        let statement = read(&beside(&newest(&lab, "web"), "provenance"));
        let all = &statement["predicate"]["buildDefinition"]["resolvedDependencies"];
        let mut all = all.as_array().unwrap().iter();
        let repository = all.find(|one| one["annotations"]["kind"] == "repository");
        let repository = repository.unwrap();
        (
            repository["digest"]["gitCommit"].clone(),
            repository["annotations"]["dirty"].clone(),
        )
    };
    run(&[]);
    let (first, dirty) = told();
    assert_eq!(dirty, true, "the recipe is not committed");

    git(&folder, &["add", "."]);
    git(&folder, &["commit", "-q", "-m", "the recipe, as it is"]);
    run(&[]).printing_part("web@1: up to date: ");
    assert_eq!(told(), (first.clone(), true.into()));

    run(&["--force"]).printing_part("web@2: ");
    let (second, dirty) = told();
    assert_ne!(second, first);
    assert_eq!(dirty, false);
}
