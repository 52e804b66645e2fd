//! What the commands print, without any machine: `tests/cmd` holds the commands and their output.
//! `TRYCMD=overwrite cargo test --test cli` writes down what is printed now; read the difference before you commit it.

#[test]
fn commands_print_what_is_written_down() {
    trycmd::TestCases::new()
        .env("NO_COLOR", "1")
        .case("tests/cmd/*.md");
}

#[test]
fn every_bad_recipe_is_written_down() {
    let text = std::fs::read_to_string("tests/cmd/validate-bad.md").unwrap();
    for entry in std::fs::read_dir("tests/recipes/bad").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // Folders hold what the recipes use.
        if name.ends_with(".toml") {
            assert!(text.contains(&format!("/{name}\n")), "{name}");
        }
    }
}

fn imgbuild(arguments: &[&str]) -> String {
    let mut command = assert_cmd::Command::cargo_bin("imgbuild").unwrap();
    let output = command
        .args(arguments)
        .assert()
        .success()
        .get_output()
        .clone();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = imgbuild(&["completions", shell]);
        assert!(
            script.contains("validate") && script.contains("on-error"),
            "{shell}"
        );
    }
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    assert!(imgbuild(&["man"]).contains(".TH imgbuild"));
    let folder = tempfile::tempdir().unwrap();
    imgbuild(&["man", folder.path().to_str().unwrap()]);
    for page in [
        "imgbuild.1",
        "imgbuild-run.1",
        "imgbuild-image-pull.1",
        "imgbuild-gc.1",
    ] {
        assert!(folder.path().join(page).exists(), "{page}");
    }
}

#[test]
fn the_cache_of_layers_begins_empty_and_remembers_its_limit() {
    let home = tempfile::tempdir().unwrap();
    let cache = |arguments: &[&str], code: i32| {
        let mut command = assert_cmd::Command::cargo_bin("imgbuild").unwrap();
        command
            .arg("cache")
            .args(arguments)
            .env("IMGBUILD_HOME", home.path());
        let output = command.assert().code(code).get_output().clone();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(cache(&["list"], 0), "0 layers, 0 B of 20.00 GiB\n");
    assert_eq!(cache(&["limit", "3GiB"], 0), "removed 0 layers (0 B)\n");
    assert_eq!(cache(&["limit"], 0), "3.00 GiB\n");
    assert_eq!(
        cache(&["prune", "--unused-for", "1"], 0),
        "removed 0 layers (0 B)\n"
    );
    cache(&["show", "nothing"], 2);
    cache(&["limit", "much"], 2);
}

#[test]
fn gc_finishes_removing_a_layer_that_somebody_killed_had_begun_to_remove() {
    let home = tempfile::tempdir().unwrap();
    let half = home.path().join("cache/layers/.removed-x/deep");
    std::fs::create_dir_all(&half).unwrap();
    let mut command = assert_cmd::Command::cargo_bin("imgbuild").unwrap();
    let command = command.arg("gc").env("IMGBUILD_HOME", home.path());
    command.assert().success();
    assert!(!half.exists());
}

#[test]
fn doctor_is_content_with_a_machine_that_can_run_the_tests() {
    let home = tempfile::tempdir().unwrap();
    let mut command = assert_cmd::Command::cargo_bin("imgbuild").unwrap();
    let output = command
        .arg("doctor")
        .env("IMGBUILD_HOME", home.path())
        .assert()
        .success();
    let text = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(
        text.contains("qemu-system-x86_64") && !text.contains("MISSING"),
        "{text}"
    );
}
