//! What is told of an image: the statement, and the documents about it.

use imgbuild::provenance::statement;
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::lab::server::sha256;
use crate::scene::*;

const SCHEMA: &str = "docs/provenance.schema.json";

#[test]
fn neither_secrets_nor_folders_of_this_machine_are_told() {
    let lab = Lab::new("provenance, private");
    let folder = lab.path("");
    let rest = format!(
        "[vars]\nplace = \"{}x\"\nmirror = \"https://me:hunter2@example.org/\"\nfile = [\"/etc/passwd\"]\nguest = \"/srv/not-here\"\nplain = \"1.2\"\nlist = [\"a\"]\n",
        folder.display()
    );
    debian(&lab);
    let head = "[image]\nname = \"web\"\ndescription = \"from {{ place }} by {{ mirror }}\"\nlabels = { made = \"{{ place }}\" }\n[source]\nimport = true\nfile = \"disk.raw\"\n";
    let recipe = lab.write("web.toml", format!("{head}{rest}"));
    lab.imgbuild(&["run", text(&recipe)]).with_code(0);
    let image = newest(&lab, "web");
    for what in ["provenance", "dsse", "sbom.cdx", "sbom.spdx", "record"] {
        let path = match what {
            "record" => lab.path("out/web-1.qcow2.build.json"),
            _ => beside(&image, what),
        };
        let mut content = std::fs::read_to_string(&path).unwrap();
        if what == "dsse" {
            use base64::Engine as _;
            let payload = read(&path)["payload"].as_str().unwrap().to_owned();
            let payload = base64::engine::general_purpose::STANDARD.decode(payload);
            content = String::from_utf8(payload.unwrap()).unwrap();
        }
        let home = std::env::var("HOME").unwrap();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let host = host.trim();
        let folder = folder.to_str().unwrap().trim_end_matches('/').to_owned();
        for private in [folder.as_str(), "hunter2", &format!("{home}/"), host] {
            assert!(
                !content.contains(private),
                "{what} has {private}:\n{content}"
            );
        }
    }
    let statement = read(&beside(&image, "provenance"));
    let vars = &statement["predicate"]["buildDefinition"]["externalParameters"]["vars"];
    assert_eq!(vars["plain"], "1.2");
    assert_eq!(vars["list"], json!(["a"]));
    assert_eq!(vars["guest"], "/srv/not-here");
    let described = &statement["predicate"]["buildDefinition"]["externalParameters"]["image"];
    assert_eq!(
        described["description"],
        "from ********/x by https://********@example.org/"
    );
    for hidden in ["place", "mirror", "file"] {
        assert_eq!(vars[hidden]["sha256"].as_str().unwrap().len(), 64, "{vars}");
    }
}

#[test]
fn an_image_whose_provenance_is_gone_is_not_up_to_date() {
    let lab = Lab::new("provenance, gone");
    let image = import(&lab, "web", "");
    let run = || lab.imgbuild(&["run", "web.toml"]).with_code(0).stdout;
    assert!(run().contains("up to date"));
    std::fs::remove_file(beside(&image, "sigstore")).unwrap();
    assert!(!run().contains("up to date"));
    assert!(run().contains("up to date"));
    verify(&lab, &newest(&lab, "web"), &[]).with_code(0);
}

#[test]
fn an_image_on_another_one_names_it_as_its_parent() {
    let lab = Lab::new("provenance, parent");
    let base = import(&lab, "base", "");
    for (name, source, by, told) in [
        (
            "child",
            "recipe = \"base.toml\"",
            "record",
            "base-1.qcow2.build.json",
        ),
        ("grandchild", "image = \"base@1\"", "registry", "base@1"),
    ] {
        let recipe = format!("[image]\nname = \"{name}\"\n[source]\nimport = true\n{source}\n");
        let recipe = lab.write(&format!("{name}.toml"), recipe);
        lab.imgbuild(&["run", text(&recipe)]).with_code(0);
        let image = newest(&lab, name);
        let statement = read(&beside(&image, "provenance"));
        let parent = &statement["predicate"]["buildDefinition"]["resolvedDependencies"][0];
        assert_eq!(parent["annotations"]["kind"], "parent-image");
        let verified = &parent["annotations"]["verified"];
        assert_eq!(verified["by"], by);
        let told_by = if by == "record" { "record" } else { "version" };
        assert_eq!(verified[told_by], told);
        let digest = sha256(&std::fs::read(&base).unwrap());
        assert_eq!(parent["digest"]["sha256"], digest);
        let policy = format!("[policy]\nbase-verified-by = [\"{by}\"]\n");
        let policy = lab.write("policy.toml", policy);
        verify(&lab, &image, &["--policy", text(&policy)]).with_code(0);
    }
}

#[test]
fn a_build_that_is_killed_leaves_no_image_that_cannot_be_verified() {
    for phase in ["digest", "sign", "publish"] {
        let lab = Lab::new(&format!("provenance, killed at {phase}"));
        debian(&lab);
        let recipe = "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"disk.raw\"\n";
        let recipe = lab.write("web.toml", recipe);
        let mut run = lab.watch(&[text(&recipe)]);
        run.until_phase(phase);
        run.signal("KILL");
        // These phases are short: it may have come to its end.
        run.end();
        lab.until_dead();
        let image = lab.artifact("web");
        if image.exists() {
            verify(&lab, &image, &[]).with_code(0);
        }
        lab.imgbuild(&["gc"]).with_code(0);
        lab.assert_nothing_left();
        lab.imgbuild(&["run", text(&recipe)]).with_code(0);
        verify(&lab, &image, &[]).with_code(0);
    }
}

#[test]
fn two_images_do_not_share_what_stands_beside_them() {
    let lab = Lab::new("provenance, shared");
    let recipe = |name: &str, output: &str| {
        let text = format!(
            "[image]\nname = \"{name}\"\n[source]\nimport = true\nfile = \"disk.raw\"\n[output]\n{output}\n"
        );
        lab.write(&format!("{name}.toml"), text);
    };
    debian(&lab);
    recipe("a", "path = \"out/same.qcow2\"");
    recipe("b", "path = \"out/same.raw\"\nformat = \"raw\"");
    lab.imgbuild(&["run", "a.toml", "b.toml"])
        .with_code(2)
        .saying("both a.toml and b.toml do");
}

#[test]
fn a_statement_fits_the_schema_that_is_documented() {
    let schema = statement::schema();
    let now = format!("{schema:#}\n");
    if std::env::var("TRYCMD").is_ok_and(|value| value == "overwrite") {
        std::fs::write(SCHEMA, &now).unwrap();
    }
    let written = std::fs::read_to_string(SCHEMA).unwrap_or_default();
    assert!(
        written == now,
        "{SCHEMA} is old; TRYCMD=overwrite writes it anew"
    );

    let lab = Lab::new("provenance, schema");
    let image = import(&lab, "web", "[vars]\na = 1\n");
    let validator = jsonschema::draft202012::options().build(&schema).unwrap();
    let mut statement = read(&beside(&image, "provenance"));
    let errors: Vec<String> = validator
        .iter_errors(&statement)
        .map(|error| error.to_string())
        .collect();
    assert_eq!(errors, Vec::<String>::new());
    statement["predicate"]["added"] = true.into();
    assert!(
        !validator.is_valid(&statement),
        "a field that nobody has documented"
    );
}

/// The names of all fields of a schema.
fn fields(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(object) => {
            if let Some(properties) = object.get("properties").and_then(Value::as_object) {
                found.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| fields(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn every_field_is_documented() {
    let document = std::fs::read_to_string("docs/provenance.md").unwrap();
    let mut all = vec![];
    fields(&statement::schema(), &mut all);
    assert!(all.len() > 40, "{all:?}");
    for field in all {
        assert!(
            document.contains(&format!("`{field}`")),
            "`{field}` is not in docs/provenance.md"
        );
    }
}
