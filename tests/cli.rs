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
