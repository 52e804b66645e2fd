//! The reference of all keys, as Markdown, out of the JSON Schema.

use std::fmt::Write;

use serde_json::{Map, Value};

/// The tables in the order in which they are told: heading, name in the schema, and what is said before their keys.
const TABLES: &[(&str, &str)] = &[
    ("## `[image]`", "Image"),
    ("## `[vars]`", "Declaration"),
    ("## `[data.NAME]`", "Data"),
    ("## `[secrets]`", "Secret"),
    ("## `[source]`", "Base"),
    ("### `nixos`", "Nixos"),
    ("## `[machine]`", "Machine"),
    ("## `[cloud-init]`", "CloudInit"),
    ("## `[ssh]`", "Ssh"),
    ("## `[[step]]` and `[[test]]`", "Step"),
    ("### `upload`", "Upload"),
    ("### `download`", "Download"),
    ("### `file`", "File"),
    ("### `fetch`", "Fetch"),
    ("## `[seal]`", "Seal"),
    ("## `[output]`", "Output"),
    ("## `[signing]`", "Signing"),
    ("## `[target]`", "Targets"),
    ("### `[target.proxmox]`", "Proxmox"),
    ("#### `disks`", "Disk"),
    ("#### `networks`", "Network"),
    ("#### `hostpci`", "HostPci"),
];

/// The whole document.
pub fn text(recipe: &Value, bundle: &Value) -> String {
    let mut text = String::from(
        "# Recipe reference\n\n\
         <!-- Made from the types in src/recipe by `TRYCMD=overwrite cargo test --test docs`: edit them, not this. -->\n\n\
         Every key of a recipe and of a bundle. [guide.md](guide.md) tells how they work together. A key without a default\n\
         is not set if it is not given. The examples stand each for itself.\n\n\
         A recipe is one TOML file. Unknown tables and keys are errors. Paths start at the folder of the file that they stand\n\
         in, except that `path` of `[output]` and `to` of `download` start at the current folder.\n\n\
         ## Tables\n\n",
    );
    keys(&mut text, recipe, recipe, |_| true);
    let mut told: Vec<&str> = TABLES.iter().map(|(_, name)| *name).collect();
    for (heading, name) in TABLES {
        let table = &recipe["$defs"][name];
        let about = table["description"].as_str().unwrap_or_default();
        write!(text, "\n{heading}\n\n{about}\n\n").unwrap();
        let actions = required_once(table);
        match *name {
            "Step" => {
                text += "The actions:\n\n";
                keys(&mut text, recipe, table, |key| actions.contains(&key));
                text += "\nHow it is done:\n\n";
                keys(&mut text, recipe, table, |key| !actions.contains(&key));
            }
            _ => keys(&mut text, recipe, table, |_| true),
        }
        if *name == "Seal" {
            text += "\n| item | what sealing does |\n|---|---|\n";
            for item in table["properties"]["keep"]["items"]["anyOf"]
                .as_array()
                .unwrap()
            {
                if let (Some(item), Some(about)) =
                    (item["const"].as_str(), item["description"].as_str())
                {
                    writeln!(text, "| `{item}` | {about} |").unwrap();
                }
            }
        }
    }
    values(&mut text, recipe);
    text += "\n## Bundles\n\nA bundle is a TOML file too, with these tables.\n\n";
    keys(&mut text, bundle, bundle, |_| true);
    let about = &bundle["$defs"]["About"];
    write!(
        text,
        "\n### `[bundle]`\n\n{}\n\n",
        about["description"].as_str().unwrap()
    )
    .unwrap();
    keys(&mut text, bundle, about, |_| true);
    told.push("About");
    for schema in [recipe, bundle] {
        for (name, table) in schema["$defs"].as_object().unwrap() {
            let is_told = table.get("properties").is_none() || told.contains(&name.as_str());
            assert!(is_told, "{name} has no place in the reference");
        }
    }
    text
}

/// The values with a syntax of their own.
fn values(text: &mut String, schema: &Value) {
    *text += "\n## Values\n\n| type | how it is written |\n|---|---|\n";
    for value in schema["$defs"].as_object().unwrap().values() {
        if let (Some(title), Some(about)) = (value["title"].as_str(), value["description"].as_str())
        {
            writeln!(text, "| {title} | {about} |").unwrap();
        }
    }
    *text += "\nText may hold [templates](guide.md#variables-and-templates), and so may every value that can be written as text.\n";
}

/// The keys of which a table has exactly one.
fn required_once(table: &Value) -> Vec<&str> {
    let choices = table["oneOf"].as_array().into_iter().flatten();
    choices
        .filter_map(|choice| choice["required"][0].as_str())
        .collect()
}

/// Those keys of a table that are `wanted`, the needed ones first.
fn keys(text: &mut String, schema: &Value, table: &Value, wanted: impl Fn(&str) -> bool) {
    let needed = |key: &str| {
        let own = table["required"].as_array().into_iter().flatten();
        let at_top = table.get("title").map(|_| &schema["else"]["required"]);
        let image = (table == &schema["$defs"]["Image"])
            .then(|| &schema["else"]["properties"]["image"]["required"]);
        let more = [at_top, image]
            .into_iter()
            .flatten()
            .filter_map(Value::as_array)
            .flatten();
        own.chain(more).any(|name| name == key)
    };
    *text += "| key | type | default | meaning | example |\n|---|---|---|---|---|\n";
    let properties = table["properties"].as_object().unwrap();
    let properties = properties.iter().filter(|(key, _)| wanted(key));
    let (first, rest): (Vec<_>, Vec<_>) = properties.partition(|(key, _)| needed(key));
    for (key, about) in first.into_iter().chain(rest) {
        let default = match about.get("default") {
            _ if needed(key) => "needed".to_owned(),
            None => String::new(),
            Some(value) => shown(value),
        };
        let example = about["examples"][0].clone();
        let example = match example {
            Value::Null => String::new(),
            example => format!("`{key} = {}`", toml(&example)),
        };
        let row = [
            format!("`{key}`"),
            kind(schema, about),
            default,
            meaning(schema, about),
            example,
        ];
        writeln!(
            text,
            "| {} |",
            row.map(|cell| cell.replace('|', "\\|")).join(" | ")
        )
        .unwrap();
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "empty".into(),
        Value::Array(list) if list.is_empty() => "empty".into(),
        Value::Object(table) if table.is_empty() => "empty".into(),
        value => format!("`{}`", toml(value)),
    }
}

/// A value as a recipe has it.
fn toml(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Array(list) => format!("[{}]", list.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(table) => {
            let entries = table
                .iter()
                .map(|(key, value)| format!("{key} = {}", toml(value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// What a key means, with the meanings of its words if they have any.
fn meaning(schema: &Value, about: &Value) -> String {
    let definition = resolved(schema, about);
    let own = about
        .get("description")
        .or_else(|| definition.get("description"));
    let mut meaning = own.and_then(Value::as_str).unwrap_or_default().to_owned();
    for word in definition["anyOf"][0]["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
    {
        if let (Some(name), Some(about)) = (word["const"].as_str(), word["description"].as_str()) {
            write!(meaning, " `{name}`: {about}").unwrap();
        }
    }
    meaning
}

fn resolved<'s>(schema: &'s Value, about: &'s Value) -> &'s Value {
    let name = about["$ref"]
        .as_str()
        .and_then(|reference| reference.rsplit('/').next());
    name.map_or(about, |name| &schema["$defs"][name])
}

/// The name of the table that a key holds, by itself or as the element of a list or table.
pub fn table<'s>(schema: &'s Value, about: &'s Value) -> Option<&'s str> {
    let name = about["$ref"]
        .as_str()
        .and_then(|reference| reference.rsplit('/').next());
    let deeper = ["items", "additionalProperties"].into_iter();
    let mut deeper = deeper.filter_map(|key| about.get(key)).flat_map(|inner| {
        inner["anyOf"]
            .as_array()
            .map_or(vec![inner], |choices| choices.iter().collect())
    });
    match name {
        Some(name) => schema["$defs"][name].get("properties").map(|_| name),
        None => deeper.find_map(|inner| table(schema, inner)),
    }
}

/// A key's type in a user's words.
fn kind(schema: &Value, about: &Value) -> String {
    let definition = resolved(schema, about);
    if definition.get("properties").is_some() {
        let name = table(schema, about);
        let heading = TABLES.iter().find(|(_, other)| Some(*other) == name);
        return match heading.and_then(|(heading, _)| anchor(heading)) {
            Some(anchor) => format!("[table](#{anchor})"),
            None => "table".into(),
        };
    }
    if let Some(title) = definition["title"].as_str() {
        return format!("[{title}](#values)");
    }
    if let Some(value) = definition.get("const") {
        return format!("`{value}`");
    }
    if let Some(choices) = definition["anyOf"].as_array() {
        return alternatives(schema, choices);
    }
    if let Some(words) = words(definition) {
        return words;
    }
    match &definition["type"] {
        Value::String(kind) => match kind.as_str() {
            "string" => "text".into(),
            "array" => format!("list of {}", kind_of_all(schema, &definition["items"])),
            "object" => format!(
                "table of {}",
                kind_of_all(schema, &definition["additionalProperties"])
            ),
            other => other.into(),
        },
        _ => "any value".into(),
    }
}

fn kind_of_all(schema: &Value, inner: &Value) -> String {
    match inner {
        Value::Object(_) => kind(schema, inner),
        _ => "any value".into(),
    }
}

fn alternatives(schema: &Value, choices: &[Value]) -> String {
    let is_template = |choice: &&Value| {
        let fields: Option<&Map<String, Value>> = choice.as_object();
        fields.is_some_and(|fields| fields.len() == 2 && fields.contains_key("pattern"))
    };
    if choices.iter().any(|choice| choice.get("const").is_some()) {
        return "items from the table below".into();
    }
    let choices = choices.iter().filter(|choice| !is_template(choice));
    let kinds: Vec<String> = choices.map(|choice| kind(schema, choice)).collect();
    kinds.join(" or ")
}

/// The words that a value may be.
fn words(definition: &Value) -> Option<String> {
    let listed = definition["enum"]
        .as_array()
        .map(|words| words.iter().collect::<Vec<_>>());
    let described = definition["oneOf"].as_array();
    let described = described.map(|words| words.iter().map(|word| &word["const"]).collect());
    let words: Vec<String> = listed
        .or(described)?
        .into_iter()
        .map(|word| format!("`{word}`"))
        .collect();
    Some(words.join(", "))
}

/// The anchor that a heading has on the usual Markdown servers.
pub fn anchor(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = heading.to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect())
}
