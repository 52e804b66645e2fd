//! The JSON Schema, and what it makes of the recipes of this repository.
//! `TRYCMD=overwrite cargo test --test schema` writes the files in `docs` anew.

use std::path::{Path, PathBuf};

use imgbuild::recipe::schema;
use jsonschema::Validator;
use serde_json::Value;

const OF_RECIPES: &str = "docs/recipe.schema.json";
const OF_BUNDLES: &str = "docs/bundle.schema.json";

fn validator(schema: &Value) -> Validator {
    jsonschema::draft202012::options().build(schema).unwrap()
}

/// What a schema finds wrong with a file.
fn faults(validator: &Validator, path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let table: toml::Table = toml::from_str(&text).unwrap();
    let value = serde_json::to_value(table).unwrap();
    let errors = validator.iter_errors(&value);
    errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect()
}

/// The recipes and the bundles below these folders.
fn recipes_and_bundles(folders: &[&str]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut pending: Vec<PathBuf> = folders.iter().map(PathBuf::from).collect();
    let mut found = vec![];
    while let Some(folder) = pending.pop() {
        let entries = std::fs::read_dir(&folder).into_iter().flatten();
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                pending.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found.into_iter().partition(|path| {
        let folder = path.parent().and_then(Path::file_name);
        folder.is_none_or(|folder| folder != "bundles")
    })
}

/// Those that are valid.
fn good() -> (Vec<PathBuf>, Vec<PathBuf>) {
    recipes_and_bundles(&["recipes", "bundles", "scripts", "tests/recipes/good"])
}

#[test]
fn the_schemas_in_docs_are_those_of_the_types() {
    for (path, schema) in [
        (OF_RECIPES, schema::recipe()),
        (OF_BUNDLES, schema::bundle()),
    ] {
        let now = format!("{schema:#}\n");
        if std::env::var("TRYCMD").is_ok_and(|value| value == "overwrite") {
            std::fs::write(path, &now).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == now,
            "{path} is old; TRYCMD=overwrite writes it anew"
        );
    }
}

#[test]
fn every_recipe_of_the_repository_fits_the_schema() {
    let (recipes, bundles) = good();
    assert!(recipes.len() >= 4, "{recipes:?}");
    let (of_recipes, of_bundles) = (validator(&schema::recipe()), validator(&schema::bundle()));
    for (validator, paths) in [(of_recipes, recipes), (of_bundles, bundles)] {
        for path in paths {
            let faults = faults(&validator, &path);
            assert!(
                faults.is_empty(),
                "{}:\n{}",
                path.display(),
                faults.join("\n")
            );
        }
    }
}

#[test]
fn every_recipe_of_the_repository_tells_editors_where_the_schema_is() {
    let (recipes, bundles) = good();
    for (schema, paths) in [(OF_RECIPES, recipes), (OF_BUNDLES, bundles)] {
        for path in paths {
            let text = std::fs::read_to_string(&path).unwrap();
            let line = text.lines().next().unwrap_or_default();
            let named = line
                .strip_prefix("#:schema ")
                .map(|named| path.parent().unwrap().join(named));
            let named = named.and_then(|named| named.canonicalize().ok());
            let expected = Path::new(schema).canonicalize().unwrap();
            assert_eq!(named, Some(expected), "{}: {line}", path.display());
        }
    }
}

#[test]
fn every_recipe_of_the_repository_is_formatted() {
    let (recipes, bundles) = good();
    for path in recipes.iter().chain(&bundles) {
        let text = std::fs::read_to_string(path).unwrap();
        let name = path.display().to_string();
        let formatted = imgbuild::recipe::format(&name, &text).unwrap();
        assert_eq!(text, formatted, "imgbuild fmt {name}");
    }
}

/// Recipes in `tests/recipes/bad` whose fault is in their shape. The others are wrong for what only `imgbuild validate`
/// can know: other files, other places in the recipe, the network.
const MISSHAPEN: &[&str] = &[
    "breakpoint-false",
    "condition-type",
    "data-two",
    "download-relative",
    "fetch-integrity",
    "fetch-strip-without-unpack",
    "fetch-unverified",
    "file-mode",
    "file-mode-number",
    "file-two-contents",
    "image-missing",
    "image-name",
    "image-name-missing",
    "key-unknown",
    "machine-cpus",
    "machine-cpus-text",
    "machine-firmware",
    "machine-size-syntax",
    "matrix-no-list",
    "matrix-not-a-table",
    "only-on",
    "output-no-file",
    "packages-none",
    "seal-keep",
    "secret-name",
    "secret-two-sources",
    "several-at-once",
    "source-digest-and-list",
    "source-empty",
    "source-file-mirror",
    "source-image",
    "source-image-digest",
    "source-import-machine",
    "source-index-digest",
    "source-key-without-signature",
    "source-missing",
    "source-recipe-digest",
    "source-sha256",
    "source-signature-of-nothing",
    "source-signature-without-key",
    "source-template-digest",
    "source-template-id",
    "source-template-name",
    "source-two",
    "source-url-scheme",
    "source-url-unverified",
    "ssh-address",
    "ssh-port",
    "ssh-user",
    "step-as-table",
    "step-env-name",
    "step-exit-codes-none",
    "step-exit-codes-range",
    "step-nothing",
    "step-reboot-false",
    "step-timeout",
    "step-two-actions",
    "table-unknown",
    "target-disks-many",
    "target-hostpci-many",
    "target-key-unknown",
    "target-mtu",
    "target-networks-many",
    "target-tag",
    "target-vlan",
    "target-vmid",
    "upload-owner",
    "upload-relative",
    "vars-float",
    "vars-key-unknown",
    "vars-name",
    "vars-no-default",
    "vars-type-missing",
    "with-without-use",
];

#[test]
fn a_recipe_of_the_wrong_shape_is_refused_by_the_schema_too() {
    let validator = validator(&schema::recipe());
    let refused = |name: &&str| {
        let path = Path::new("tests/recipes/bad").join(format!("{name}.toml"));
        !faults(&validator, &path).is_empty()
    };
    let accepted: Vec<&&str> = MISSHAPEN.iter().filter(|name| !refused(name)).collect();
    assert!(accepted.is_empty(), "the schema accepts {accepted:?}");
}

#[test]
fn an_editor_is_told_what_is_wrong_where_it_is_wrong() {
    let validator = validator(&schema::recipe());
    let faults = faults(&validator, Path::new("tests/recipes/bad/key-unknown.toml"));
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].starts_with("/machine: ") && faults[0].contains("memroy"),
        "{faults:?}"
    );
}

/// Every key that the schema has, after the name of its table.
fn keys(schema: &Value) -> Vec<String> {
    let definitions = schema["$defs"].as_object().unwrap();
    let definitions = definitions
        .iter()
        .map(|(name, table)| (name.as_str(), table));
    let tables = definitions.chain([("top", schema)]).map(|(name, table)| {
        let keys = table["properties"].as_object().into_iter().flatten();
        keys.map(move |(key, _)| format!("{name}.{key}"))
    });
    tables.flatten().collect()
}

#[test]
fn every_key_is_in_a_good_recipe() {
    let (recipes, bundles) = recipes_and_bundles(&["tests/recipes/good"]);
    let used_in = |schema: &Value, paths: &[PathBuf]| -> Vec<String> {
        paths.iter().flat_map(|path| used(schema, path)).collect()
    };
    let of_bundles = schema::bundle();
    let mut used = used_in(&schema::recipe(), &recipes);
    used.extend(used_in(&of_bundles, &bundles));
    let all = [schema::recipe(), of_bundles]
        .iter()
        .flat_map(keys)
        .collect::<Vec<_>>();
    let unused: Vec<&String> = all.iter().filter(|key| !used.contains(key)).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

/// The keys that a recipe uses.
fn used(schema: &Value, path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let table: toml::Table = toml::from_str(&text).unwrap();
    let mut keys = vec![];
    walk(
        schema,
        schema,
        "top",
        &serde_json::to_value(table).unwrap(),
        &mut keys,
    );
    keys
}

fn walk(root: &Value, schema: &Value, name: &str, value: &Value, keys: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return walk(root, &root["$defs"][name], name, value, keys);
    }
    for choice in schema["anyOf"].as_array().into_iter().flatten() {
        walk(root, choice, name, value, keys);
    }
    for element in value.as_array().into_iter().flatten() {
        walk(root, &schema["items"], name, element, keys);
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        match schema["properties"].get(key) {
            Some(deeper) => {
                keys.push(format!("{name}.{key}"));
                walk(root, deeper, name, value, keys);
            }
            None => walk(root, &schema["additionalProperties"], name, value, keys),
        }
    }
}
