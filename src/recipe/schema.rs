//! The JSON Schema of recipes and bundles, for editors. It says of a text what can be said without knowing what its
//! templates become; `check` has the last word.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::bundle::About;
use super::types::*;
use super::vars::Declaration;
use crate::seal::Item;

/// What text must match. Text with a template in it may become anything, so it always does.
pub(super) mod pattern {
    /// A host's name of one part.
    pub const DNS_LABEL: &str = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$|\{[{%]";
    /// A version in the registry, on a target if it has one before it.
    pub const VERSION: &str = r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(@([a-z][a-z0-9-]*|[0-9][0-9A-Za-z._-]*|[A-Za-z][0-9A-Za-z_-]*\.[0-9A-Za-z._-]*))?$|\{[{%]";
    /// A digest.
    pub const SHA256: &str = r"^[0-9A-Fa-f]{64}$|\{[{%]";
    /// A digest as package registries write it.
    pub const INTEGRITY: &str = r"\bsha(256|512)-[0-9A-Za-z+/]+=*|\{[{%]";
    /// The address of something on the web.
    pub const WEB: &str = r"^https?://|\{[{%]";
    /// A path in the guest.
    pub const ABSOLUTE: &str = r"^/|\{[{%]";
    /// A path that is no folder's.
    pub const FILE: &str = r"[^/]$|\{[{%]";
    /// A user that the build can make.
    pub const USER: &str = r"^[a-z_][a-z0-9_-]{0,31}$|\{[{%]";
    /// A user, perhaps with a group.
    pub const OWNER: &str = r"^[0-9A-Za-z_.:][0-9A-Za-z_.:-]*$|\{[{%]";
    /// A name that the environment and templates can have.
    pub const VARIABLE: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
    /// A size.
    pub const SIZE: &str = r"^ *[0-9]+ *([kKmMgGtT]([iI]?[bB])?|[bB])? *$|\{[{%]";
    /// A number of CPUs.
    pub const CPUS: &str = r"^ *[0-9]+ *(cpus?)? *$|\{[{%]";
    /// Permission bits.
    pub const MODE: &str = r"^[0-7]{1,5}$|\{[{%]";
    /// Where a machine is looked for: a word, or what an IP address is made of.
    pub const ADDRESS: &str = r"^(auto|agent|console|[0-9A-Fa-f:.]+)$|\{[{%]";
    /// A machine's id or name on Proxmox VE.
    pub const MACHINE: &str = r"^[0-9A-Za-z]([0-9A-Za-z.-]*[0-9A-Za-z])?$|\{[{%]";
    /// A tag of Proxmox VE.
    pub const TAG: &str = r"^[a-z0-9_][a-z0-9_+.-]*$|\{[{%]";
    /// A template.
    pub const TEMPLATE: &str = r"\{[{%]";
}

/// A digest for examples: that of no bytes at all.
pub(super) const SAMPLE_DIGEST: &str =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The tables of a recipe.
#[derive(JsonSchema)]
#[schemars(
    title = "imgbuild recipe",
    deny_unknown_fields,
    rename_all = "kebab-case"
)]
#[expect(
    dead_code,
    reason = "the tables are decoded one by one; this is their schema"
)]
struct Recipe {
    /// The path of another recipe, which this one changes: tables merge, steps and tests are appended, everything else is
    /// replaced.
    #[schemars(example = &"base.toml")]
    extends: Option<String>,
    /// Lists of values for variables: there is one image for each combination of them.
    #[schemars(example = json!({"python": ["3.11", "3.12"]}))]
    matrix: Option<BTreeMap<String, Axis>>,
    image: Option<Image>,
    /// Values that templates use by name. Each is a default, or a table that says more about it.
    #[schemars(
        example = json!({"version": "1.2"}),
        extend("propertyNames" = {"pattern": pattern::VARIABLE}))]
    vars: Option<BTreeMap<String, Variable>>,
    /// Documents that templates look things up in, as `data.NAME`.
    data: Option<BTreeMap<String, Data>>,
    /// Where the values of secrets come from. Steps get those that they name, as environment variables.
    #[schemars(extend("propertyNames" = {"pattern": pattern::VARIABLE}))]
    secrets: Option<BTreeMap<String, Secret>>,
    source: Option<Base>,
    machine: Option<Machine>,
    cloud_init: Option<CloudInit>,
    ssh: Option<Ssh>,
    /// What is done, in order, before sealing.
    step: Option<Vec<Step>>,
    seal: Option<Seal>,
    /// What the image must pass, in order, in a fresh boot of a clone of it. Written like steps.
    test: Option<Vec<Step>>,
    output: Option<Output>,
    signing: Option<Signing>,
    target: Option<Targets>,
}

/// The tables of a bundle.
#[derive(JsonSchema)]
#[schemars(
    title = "imgbuild bundle",
    deny_unknown_fields,
    rename_all = "kebab-case"
)]
#[expect(
    dead_code,
    reason = "the tables are decoded one by one; this is their schema"
)]
struct Bundle {
    bundle: Option<About>,
    /// The parameters that a recipe gives with `with`, declared like the variables of a recipe.
    #[schemars(extend("propertyNames" = {"pattern": pattern::VARIABLE}))]
    params: Option<BTreeMap<String, Variable>>,
    /// Documents that the bundle's templates look things up in, as `data.NAME`.
    data: Option<BTreeMap<String, Data>>,
    /// What is done where the bundle is used.
    step: Option<Vec<Step>>,
}

/// The values that one variable has in turn.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "for its schema")]
struct Axis(#[schemars(length(min = 1))] Vec<Value>);

/// `if`.
#[derive(JsonSchema)]
#[schemars(inline, untagged)]
#[expect(dead_code, reason = "for its schema")]
pub(super) enum Condition {
    Expression(String),
    Fixed(bool),
}

/// An entry of `[vars]`.
#[derive(JsonSchema)]
#[schemars(inline, untagged)]
#[expect(dead_code, reason = "for its schema")]
enum Variable {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Value>),
    Declared(Declaration),
}

/// The schema of a recipe.
pub fn recipe() -> Value {
    let mut schema = generate::<Recipe>();
    // A recipe that extends another one need not repeat what that one has.
    if let Some(image) = schema
        .pointer_mut("/$defs/Image")
        .and_then(Value::as_object_mut)
    {
        image.remove("required");
    }
    if let Some(root) = schema.as_object_mut() {
        root.insert("if".into(), json!({"required": ["extends"]}));
        let needed = json!({
            "required": ["image", "source"],
            "properties": {"image": {"required": ["name"]}},
        });
        root.insert("else".into(), needed);
        let for_machines = super::FOR_MACHINES.iter();
        let none = for_machines.map(|name| (name.to_string(), Value::Bool(false)));
        let imported = json!({
            "if": {
                "required": ["source"],
                "properties": {"source": {
                    "required": ["import"],
                    "properties": {"import": {"const": true}},
                }},
            },
            "then": {"properties": none.collect::<Map<_, _>>()},
        });
        root.insert("allOf".into(), json!([imported]));
    }
    schema
}

/// The schema of a bundle.
pub fn bundle() -> Value {
    generate::<Bundle>()
}

fn generate<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12()
        .for_deserialize()
        .with_transform(without_null)
        .with_transform(unwrapped);
    settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// TOML has no null: what may be missing is missing.
fn without_null(schema: &mut Schema) {
    transform_subschemas(&mut without_null, schema);
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    if schema.get("default") == Some(&Value::Null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type") != Some(&json!("null")));
        if let [Value::Object(only)] = choices.as_mut_slice() {
            let only = std::mem::take(only);
            schema.remove("anyOf");
            // What is said about the key goes before what is said about its type.
            for (name, value) in only {
                schema.entry(name).or_insert(value);
            }
        }
    }
}

/// The lines of a comment end where the source's lines do, which is nothing to a reader.
fn unwrapped(schema: &mut Schema) {
    transform_subschemas(&mut unwrapped, schema);
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}

/// One of fixed words, or a template that becomes one.
pub(super) fn or_template(schema: &mut Schema) {
    let words = std::mem::take(schema.ensure_object());
    let mut about = Map::new();
    let mut choices = Map::new();
    for (name, value) in words {
        match name.as_str() {
            "description" | "title" => about.insert(name, value),
            _ => choices.insert(name, value),
        };
    }
    about.insert(
        "anyOf".into(),
        json!([choices, {"type": "string", "pattern": pattern::TEMPLATE}]),
    );
    *schema.ensure_object() = about;
}

/// A list of what sealing knows.
pub(super) fn seal_items(schema: &mut Schema) {
    let items = Item::ALL
        .iter()
        .map(|item| json!({"const": item.name(), "description": item.description()}));
    let mut items: Vec<Value> = items.collect();
    items.push(json!({"type": "string", "pattern": pattern::TEMPLATE}));
    schema.insert("items".into(), json!({"anyOf": items}));
}

pub(super) fn one_origin(schema: &mut Schema) {
    exactly_one(schema, &["env", "file", "command"]);
}

pub(super) fn one_document(schema: &mut Schema) {
    exactly_one(schema, &["json", "text"]);
}

pub(super) fn one_content(schema: &mut Schema) {
    exactly_one(schema, &["content", "from"]);
}

pub(super) fn one_digest(schema: &mut Schema) {
    exactly_one(schema, &["sha256", "integrity"]);
    schema.insert(
        "dependentSchemas".into(),
        json!({
            "strip": {"anyOf": [
                {"required": ["unpack"]},
                {"properties": {"strip": {"const": 0}}},
            ]},
            "mode": {"properties": {"unpack": {"const": false}}},
        }),
    );
}

pub(super) fn one_action(schema: &mut Schema) {
    exactly_one(schema, ACTIONS);
    schema.insert("dependentRequired".into(), json!({"with": ["use"]}));
}

pub(super) fn one_source(schema: &mut Schema) {
    exactly_one(
        schema,
        &[
            "ubuntu", "debian", "nixos", "url", "file", "recipe", "image", "template",
        ],
    );
    let together = json!({
        "signature": ["checksums", "key"],
        "key": ["signature"],
    });
    schema.insert("dependentRequired".into(), together);
    let digest = json!({"anyOf": [{"required": ["sha256"]}, {"required": ["checksums"]}]});
    let not_beside = |keys: &[&str]| {
        let keys = keys.iter().map(|key| json!({"required": [key]}));
        json!({"not": {"anyOf": keys.collect::<Vec<_>>()}})
    };
    schema.insert(
        "dependentSchemas".into(),
        json!({
            "url": digest,
            "sha256": not_beside(&["checksums", "ubuntu", "debian", "nixos", "recipe", "image", "template"]),
            "checksums": not_beside(&["ubuntu", "debian", "nixos", "recipe", "image", "template"]),
            "mirrors": not_beside(&["file", "nixos", "recipe", "image", "template"]),
        }),
    );
}

/// What a variable's declaration needs to be one.
pub(super) fn declared(schema: &mut Schema) {
    let needed = json!([{"required": ["default"]}, {"required": ["type", "required"]}]);
    schema.insert("anyOf".into(), needed);
}

fn exactly_one(schema: &mut Schema, keys: &[&str]) {
    let choices = keys.iter().map(|key| json!({"required": [key]}));
    schema.insert("oneOf".into(), choices.collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_tables_that_the_reader_knows() {
        let keys = |schema: &Value| -> Vec<String> {
            let properties = schema["properties"].as_object().unwrap();
            properties.keys().cloned().collect()
        };
        let sorted = |tables: &[&str]| {
            let mut tables: Vec<String> = tables.iter().map(|&table| table.into()).collect();
            tables.sort();
            tables
        };
        assert_eq!(keys(&recipe()), sorted(super::super::TABLES));
        assert_eq!(keys(&bundle()), sorted(super::super::bundle::TABLES));
    }

    #[test]
    fn nothing_can_be_null() {
        for schema in [recipe(), bundle()] {
            assert!(!schema.to_string().contains("null"), "{schema:#}");
        }
    }
}
