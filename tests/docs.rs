//! `docs/recipe.md` is made from the types of a recipe, and every example in the documents is valid.
//! `TRYCMD=overwrite cargo test --test docs` writes `docs/recipe.md` anew.

mod reference;

use std::path::Path;

use futures_util::FutureExt;
use imgbuild::recipe::{self, NoWeb, Overrides, schema};
use serde_json::{Value, json};

const REFERENCE: &str = "docs/recipe.md";

#[test]
fn the_reference_is_that_of_the_types() {
    let now = reference::text(&schema::recipe(), &schema::bundle());
    if std::env::var("TRYCMD").is_ok_and(|value| value == "overwrite") {
        std::fs::write(REFERENCE, &now).unwrap();
    }
    let written = std::fs::read_to_string(REFERENCE).unwrap();
    assert!(
        written == now,
        "{REFERENCE} is old; TRYCMD=overwrite writes it anew"
    );
}

/// The keys of all tables: where they are in the schema, and what it says of them.
fn keys(schema: &Value) -> Vec<(String, Value)> {
    let of = |place: &str, table: &Value| -> Vec<(String, Value)> {
        let keys = table["properties"].as_object().into_iter().flatten();
        keys.map(|(key, about)| (format!("{place}/properties/{key}"), about.clone()))
            .collect()
    };
    let definitions = schema["$defs"].as_object().unwrap();
    let below = definitions
        .iter()
        .flat_map(|(name, table)| of(&format!("/$defs/{name}"), table));
    below.chain(of("", schema)).collect()
}

#[test]
fn every_key_is_explained_and_has_an_example_that_fits() {
    for schema in [schema::recipe(), schema::bundle()] {
        for (place, about) in keys(&schema) {
            let is_table = reference::table(&schema, &about).is_some();
            let description = about.get("description").or_else(|| {
                reference::table(&schema, &about)
                    .and_then(|name| schema["$defs"][name].get("description"))
            });
            assert!(description.is_some(), "{place} has no description");
            let examples = about["examples"].as_array();
            assert!(is_table || examples.is_some(), "{place} has no example");
            let of_key = json!({"$defs": schema["$defs"], "$ref": format!("#{place}")});
            let top = json!({"allOf": [about], "$defs": schema["$defs"]});
            let validator = jsonschema::draft202012::options();
            let of_key = if place.starts_with("/$defs") {
                of_key
            } else {
                top
            };
            let validator = validator.build(&of_key).unwrap();
            for example in examples.into_iter().flatten() {
                assert!(validator.is_valid(example), "{place}: {example}");
            }
        }
    }
}

/// The TOML examples of a document.
fn examples(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("\n```toml\n").skip(1);
    blocks
        .map(|rest| rest.split("\n```").next().unwrap().to_owned() + "\n")
        .collect()
}

/// A recipe around an example that is a part of one.
fn whole(example: &str) -> String {
    let mut text = example.to_owned();
    let has = |table: &str| example.contains(table) || example.contains("extends = ");
    if !has("[source]") {
        text += "\n[source]\ndebian = '12'\n";
    }
    if !has("[image]") {
        text += "\n[image]\nname = 'x'\n";
    }
    text
}

#[test]
fn every_example_in_the_guide_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bundles")).unwrap();
    std::fs::write(
        folder.path().join("base.toml"),
        whole("[[step]]\nname = 'web server'\nrun = 'true'"),
    )
    .unwrap();
    let examples = examples("docs/guide.md");
    assert!(
        examples.len() > 10,
        "only {} examples found",
        examples.len()
    );
    let (bundles, recipes): (Vec<_>, Vec<_>) = examples
        .into_iter()
        .partition(|example| example.contains("[bundle]"));
    for bundle in bundles {
        std::fs::write(folder.path().join("bundles/motd.toml"), bundle).unwrap();
    }
    for example in recipes {
        let text = whole(&example);
        let overrides = Overrides::default();
        let recipes = recipe::parse("guide", &text, folder.path(), &overrides, &NoWeb);
        let Err(error) = recipes.now_or_never().unwrap() else {
            continue;
        };
        // The files and servers of the examples are not there.
        let absent = |message: &str| {
            message.contains("beside the recipe") || message.contains("there is no network here")
        };
        let faults = &error.get_faults().unwrap().list;
        let faults: Vec<&String> = faults
            .iter()
            .map(|fault| &fault.message)
            .filter(|message| !absent(message))
            .collect();
        assert!(faults.is_empty(), "{faults:?} in\n{example}");
    }
}

#[test]
fn the_readmes_recipe_is_the_quickstart() {
    let quickstart = std::fs::read_to_string("recipes/quickstart.toml").unwrap();
    let examples = examples("README.md");
    assert!(examples.len() > 4, "only {} examples found", examples.len());
    for example in examples {
        assert!(quickstart.contains(&example), "{example}");
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for path in [
        "README.md",
        "docs/recipe.md",
        "docs/guide.md",
        "docs/operations.md",
        "docs/provenance.md",
    ] {
        let text = std::fs::read_to_string(path).unwrap();
        let folder = Path::new(path).parent().unwrap();
        for link in text
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap())
        {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") {
                continue;
            }
            let target = match file {
                "" => text.clone(),
                file => {
                    let target = folder.join(file);
                    assert!(target.exists(), "{path}: {link}");
                    std::fs::read_to_string(target).unwrap_or_default()
                }
            };
            let anchors: Vec<String> = target.lines().filter_map(reference::anchor).collect();
            assert!(
                anchor.is_empty() || anchors.iter().any(|a| a == anchor),
                "{path}: {link}"
            );
        }
    }
}

/// The text of all files of Rust below a folder.
fn source(folder: &Path, all: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn the_errors_that_are_explained_are_those_that_are_told() {
    let mut told = String::new();
    for folder in ["src", "tests/pve/src"] {
        source(Path::new(folder), &mut told);
    }
    let page = std::fs::read_to_string("docs/proxmox.md").unwrap();
    let (_, errors) = page.split_once("## Common errors").unwrap();
    let rows: Vec<_> = errors
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    assert!(rows.len() > 20);
    for row in rows {
        let message = row.split(" | ").next().unwrap();
        let messages = message.split('`').skip(1).step_by(2);
        // What comes after a status are the server's own words, some of which the test server never says.
        for message in messages.filter(|message| !message.starts_with("500 ")) {
            let is_status = |c: char| c.is_ascii_digit() || ", ".contains(c);
            let message = message.trim_start_matches(is_status);
            for part in message
                .split('…')
                .map(|part| part.trim_matches([' ', '\'', ':']))
            {
                assert!(told.contains(part), "`{part}`, of {row}");
            }
        }
    }
}
