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
        assert!(text.contains(&format!("/{name}\n")), "{name}");
    }
}

#[test]
fn every_key_of_a_recipe_is_documented() {
    let types = std::fs::read_to_string("src/recipe/types.rs").unwrap();
    let reference = std::fs::read_to_string("docs/recipe.md").unwrap();
    let fields = types
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub "));
    let keys = fields.filter_map(|field| {
        field
            .split_once(": ")
            .map(|(name, _)| name.replace('_', "-"))
    });
    let keys: Vec<String> = keys.collect();
    assert!(keys.len() > 40, "only {} keys found", keys.len());
    for key in keys {
        assert!(
            reference.contains(&format!("`{key}`")),
            "`{key}` is not in docs/recipe.md"
        );
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
