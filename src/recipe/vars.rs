//! `[vars]` of a recipe and `[params]` of a bundle: what they may be, and what they are.

use std::collections::BTreeMap;
use std::ops::Range;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::de::DeValue;

use super::decode;
use super::document::{Table, Value};
use super::schema;
use super::spanned::Spanned;
use crate::error::Fault;
use crate::text::suggest;

/// The values of a recipe's variables by name.
pub type Vars = BTreeMap<String, toml::Value>;

/// Values that replace defaults of `[vars]`; a later one of these wins.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// From `--var-file`; a name that the recipe does not have is a fault.
    pub files: BTreeMap<String, toml::Value>,
    /// From `IMGBUILD_VAR_x`; names that a recipe does not have are ignored, since the environment serves many recipes.
    pub env: BTreeMap<String, String>,
    /// From `--var x=…`; a name that the recipe does not have is a fault.
    pub cli: BTreeMap<String, String>,
}

impl Overrides {
    /// The overrides of this process's environment, and those given on the command line.
    pub fn new(files: BTreeMap<String, toml::Value>, cli: BTreeMap<String, String>) -> Self {
        // What is not text is no value of ours.
        let env = std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.to_str()?.strip_prefix("IMGBUILD_VAR_")?.to_owned();
                Some((name, value.into_string().ok()?))
            })
            .collect();
        Overrides { files, env, cli }
    }
}

/// The type of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VarType {
    String,
    Integer,
    Boolean,
    List,
    Table,
}

impl VarType {
    fn of(value: &toml::Value) -> Option<Self> {
        match value {
            toml::Value::String(_) => Some(VarType::String),
            toml::Value::Integer(_) => Some(VarType::Integer),
            toml::Value::Boolean(_) => Some(VarType::Boolean),
            toml::Value::Array(_) => Some(VarType::List),
            toml::Value::Table(_) => Some(VarType::Table),
            toml::Value::Float(_) | toml::Value::Datetime(_) => None,
        }
    }

    /// The recipe's word for it.
    pub fn name(self) -> &'static str {
        match self {
            VarType::String => "string",
            VarType::Integer => "integer",
            VarType::Boolean => "boolean",
            VarType::List => "list",
            VarType::Table => "table",
        }
    }
}

/// A variable in its long form: with a `default`, or a `type` and `required = true`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(transform = schema::declared)]
pub struct Declaration {
    /// The variable's type; the default's if not given.
    #[serde(rename = "type")]
    #[schemars(example = &"integer")]
    pub kind: Option<VarType>,
    /// The value if nobody gives another one.
    #[schemars(with = "Option<serde_json::Value>", example = 3)]
    pub default: Option<toml::Value>,
    /// What it is for.
    #[schemars(example = &"How many workers the service starts")]
    pub description: String,
    /// The only values that it may have.
    #[schemars(with = "Vec<serde_json::Value>", example = [1, 2, 3])]
    pub allowed: Vec<toml::Value>,
    /// A regular expression that a string must match somewhere.
    #[schemars(example = &"^[0-9]+$")]
    pub pattern: Option<Spanned<String>>,
    /// Whether somebody has to give a value. Not beside `default`.
    #[schemars(example = true)]
    pub required: bool,
}

/// A variable as it is declared, and where.
#[derive(Debug, Clone)]
pub struct Variable {
    pub declaration: Declaration,
    pub kind: VarType,
    /// Its name's place.
    pub span: Range<usize>,
}

/// The variables of a recipe or the parameters of a bundle.
pub type Variables = BTreeMap<String, Variable>;

/// Reads declarations; what is wrong with them becomes faults, and is left out.
pub fn declared(table: Option<Value<'_>>, faults: &mut Vec<Fault>) -> Variables {
    let Some(value) = table else {
        return Variables::new();
    };
    let span = value.span();
    let DeValue::Table(table) = value.into_inner() else {
        faults.push(Fault::new(span, "this must be a table of variables"));
        return Variables::new();
    };
    let mut variables = Variables::new();
    for (key, value) in table {
        let span = key.span();
        let name = key.into_inner().into_owned();
        if let Some(variable) = variable(&name, span, value, faults) {
            variables.insert(name, variable);
        }
    }
    variables
}

fn variable(
    name: &str,
    span: Range<usize>,
    value: Value<'_>,
    faults: &mut Vec<Fault>,
) -> Option<Variable> {
    if !is_name(name) || name == "data" {
        let fault = Fault::new(span, format!("`{name}` cannot be a variable's name"));
        faults.push(fault.hint(match name {
            "data" => "templates find the documents of [data] under that name",
            _ => "letters, digits and `_`, a letter first",
        }));
        return None;
    }
    let place = value.span();
    let declaration = match value.get_ref() {
        DeValue::Table(_) => decode::decode::<Declaration>(value, faults)?,
        _ => Declaration {
            default: Some(plain(value, faults)?),
            ..Declaration::default()
        },
    };
    let default = declaration.default.as_ref();
    let kind = match (declaration.kind, default.map(VarType::of)) {
        (Some(kind), _) => kind,
        (None, Some(Some(kind))) => kind,
        (None, Some(None)) => {
            faults.push(Fault::new(
                place,
                "a variable is a string, an integer, a boolean, a list or a table",
            ));
            return None;
        }
        (None, None) => {
            let fault = Fault::new(span, format!("the variable `{name}` has no type"));
            faults.push(fault.hint("give it a `default`, or a `type` and `required = true`"));
            return None;
        }
    };
    let variable = Variable {
        declaration,
        kind,
        span,
    };
    consistent(name, &variable, faults).then_some(variable)
}

/// Names as templates, and environments, can have them.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn consistent(name: &str, variable: &Variable, faults: &mut Vec<Fault>) -> bool {
    let declaration = &variable.declaration;
    let before = faults.len();
    let mut fault = |message: String| faults.push(Fault::new(variable.span.clone(), message));
    match (&declaration.default, declaration.required) {
        (Some(_), true) => fault(format!(
            "`{name}` has a default, so nobody is required to give a value"
        )),
        (None, false) => fault(format!(
            "`{name}` needs a `default`, or `required = true` if somebody has to give a value"
        )),
        _ => {}
    }
    if declaration.pattern.is_some() && variable.kind != VarType::String {
        fault(format!(
            "only a string can have a pattern, and `{name}` is not one"
        ));
    }
    let wrong = |value: &&toml::Value| VarType::of(value) != Some(variable.kind);
    if let Some(value) = declaration.allowed.iter().find(wrong) {
        let kind = variable.kind.name();
        fault(format!("`{name}` is of type {kind}, and {value} is not"));
    }
    if let Some(pattern) = &declaration.pattern
        && let Err(error) = regex_lite::Regex::new(pattern.get_ref())
    {
        let message = format!("this is no regular expression: {error}");
        faults.push(Fault::new(pattern.span(), message));
    }
    if faults.len() == before
        && let Some(default) = &declaration.default
        && let Err(message) = fits(name, variable, default)
    {
        faults.push(Fault::new(variable.span.clone(), message));
    }
    faults.len() == before
}

/// Whether a variable may have this value.
fn fits(name: &str, variable: &Variable, value: &toml::Value) -> Result<(), String> {
    let declaration = &variable.declaration;
    if VarType::of(value) != Some(variable.kind) {
        let kind = variable.kind.name();
        return Err(format!("`{name}` is of type {kind}, and {value} is not"));
    }
    if !declaration.allowed.is_empty() && !declaration.allowed.contains(value) {
        let allowed: Vec<String> = declaration.allowed.iter().map(|v| v.to_string()).collect();
        let allowed = allowed.join(", ");
        return Err(format!("`{name}` cannot be {value}; allowed: {allowed}"));
    }
    if let (Some(pattern), Some(text)) = (&declaration.pattern, value.as_str()) {
        let matches = regex_lite::Regex::new(pattern.get_ref()).is_ok_and(|re| re.is_match(text));
        if !matches {
            let pattern = pattern.get_ref();
            return Err(format!(
                "`{name}` cannot be {value}: it must match {pattern}"
            ));
        }
    }
    Ok(())
}

/// The value that `given` is for this variable. A string may stand for a value of another type, written as in TOML:
/// command lines, environments and templates have only strings.
fn value_for(name: &str, variable: &Variable, given: toml::Value) -> Result<toml::Value, String> {
    let value = match (&given, variable.kind) {
        (toml::Value::String(text), kind) if kind != VarType::String => parsed(text)
            .filter(|value| VarType::of(value) == Some(kind))
            .ok_or_else(|| format!("`{name}` is of type {}, and `{text}` is not", kind.name()))?,
        _ => given,
    };
    fits(name, variable, &value).map(|()| value)
}

fn parsed(text: &str) -> Option<toml::Value> {
    toml::Value::deserialize(toml::de::ValueDeserializer::parse(text).ok()?).ok()
}

/// A value as data.
pub fn plain(value: Value<'_>, faults: &mut Vec<Fault>) -> Option<toml::Value> {
    toml::Value::deserialize(value.into_deserializer())
        .map_err(|error| faults.push(decode::fault(&error)))
        .ok()
}

/// What the variables of a recipe are in one build: `fixed` are those of its matrix, which nobody can override.
pub fn resolve(
    variables: &Variables,
    overrides: &Overrides,
    fixed: &Vars,
    at: &Range<usize>,
    faults: &mut Vec<Fault>,
) -> Vars {
    let mut values = Vars::new();
    let text = |text: &String| toml::Value::String(text.clone());
    let files = overrides.files.iter();
    let cli = overrides
        .cli
        .iter()
        .map(|(name, value)| (name, text(value)));
    let explicit: BTreeMap<&String, toml::Value> = files
        .map(|(name, value)| (name, value.clone()))
        .chain(cli)
        .collect();
    for name in explicit.keys() {
        if fixed.contains_key(*name) {
            let message = format!("`{name}` is set by the matrix");
            faults.push(Fault::new(at.clone(), message).hint("choose builds with --only"));
        } else if !variables.contains_key(*name) {
            let message = format!("the recipe has no variable `{name}` to be set");
            let hint = suggest(name, variables.keys().map(String::as_str));
            faults.push(Fault::new(at.clone(), message).hint(hint));
        }
    }
    for (name, variable) in variables {
        let from_env = || overrides.env.get(name).map(text);
        let from_file = overrides.files.get(name).cloned();
        let from_cli = overrides.cli.get(name).map(text);
        let given = from_cli.or_else(from_env).or(from_file);
        let given = fixed.get(name).cloned().or(given);
        let default = variable.declaration.default.clone();
        match given.map(|given| value_for(name, variable, given)) {
            Some(Ok(value)) => drop(values.insert(name.clone(), value)),
            Some(Err(message)) => {
                faults.push(Fault::new(variable.span.clone(), message));
                // For the faults that are not about this.
                values.extend(default.map(|value| (name.clone(), value)));
            }
            None => match default {
                Some(value) => drop(values.insert(name.clone(), value)),
                None => faults.push(missing(name, variable)),
            },
        }
    }
    for (name, value) in fixed {
        values.entry(name.clone()).or_insert_with(|| value.clone());
    }
    values
}

fn missing(name: &str, variable: &Variable) -> Fault {
    let fault = Fault::new(variable.span.clone(), format!("`{name}` needs a value"));
    let env = format!("IMGBUILD_VAR_{name}");
    fault.hint(format!("give one with --var {name}=…, --var-file or {env}"))
}

/// What the parameters of a bundle are where it is used: `with` is what the recipe says there.
pub fn arguments(
    bundle: &str,
    parameters: &Variables,
    with: Table<'_>,
    at: &Range<usize>,
    faults: &mut Vec<Fault>,
) -> Vars {
    let mut values = Vars::new();
    let mut given = vec![];
    for (key, value) in with {
        let (span, name) = (key.span(), key.into_inner().into_owned());
        let value_span = value.span();
        let Some(parameter) = parameters.get(&name) else {
            let fault = Fault::new(span, format!("the bundle `{bundle}` has no `{name}`"));
            faults.push(fault.hint(suggest(&name, parameters.keys().map(String::as_str))));
            continue;
        };
        given.push(name.clone());
        let Some(value) = plain(value, faults) else {
            continue;
        };
        match value_for(&name, parameter, value) {
            Ok(value) => drop(values.insert(name, value)),
            Err(message) => faults.push(Fault::new(value_span, message)),
        }
    }
    for (name, parameter) in parameters {
        if given.contains(name) {
            continue;
        }
        match &parameter.declaration.default {
            Some(default) => drop(values.insert(name.clone(), default.clone())),
            None => {
                let message = format!("the bundle `{bundle}` needs `{name}`");
                let description = &parameter.declaration.description;
                faults.push(Fault::new(at.clone(), message).hint(format!(
                    "add it to `with`: {}",
                    match description.is_empty() {
                        true => parameter.kind.name(),
                        false => description,
                    }
                )));
            }
        }
    }
    values
}
