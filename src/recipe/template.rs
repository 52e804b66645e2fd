//! `[vars]` and the templates in the strings of a recipe.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::decode::{fault, suggest};
use crate::error::Fault;

/// Values that replace defaults of `[vars]`.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// From `IMGBUILD_VAR_x`; names that a recipe does not have are ignored, since the environment serves many recipes.
    pub env: BTreeMap<String, String>,
    /// From `--var x=…`, which wins; a name that the recipe does not have is a fault.
    pub cli: BTreeMap<String, String>,
}

impl Overrides {
    /// The overrides of this process's environment, and those given on the command line.
    pub fn new(cli: BTreeMap<String, String>) -> Self {
        let env = std::env::vars()
            .filter_map(|(name, value)| {
                Some((name.strip_prefix("IMGBUILD_VAR_")?.to_owned(), value))
            })
            .collect();
        Overrides { env, cli }
    }
}

/// Renders every string of `document` in place.
pub fn render(
    document: &mut DeTable<'_>,
    vars: Option<Spanned<DeValue<'_>>>,
    overrides: &Overrides,
    faults: &mut Vec<Fault>,
) {
    let vars = variables(vars, overrides, faults);
    let environment = environment();
    let renderer = Renderer {
        environment: &environment,
        names: vars.keys().cloned().collect(),
        context: minijinja::Value::from_pairs(
            vars.iter()
                .map(|(name, value)| (name.as_str(), convert(value))),
        ),
    };
    for (_, value) in document.iter_mut() {
        renderer.render(value, faults);
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // The usual comment sign `{#` stands in every shell script that asks for a length: ${#name}.
    let syntax = SyntaxConfig::builder()
        .comment_delimiters("{{#", "#}}")
        .keep_trailing_newline(true)
        .build();
    if let Ok(syntax) = syntax {
        environment.set_syntax(syntax);
    }
    environment
}

fn variables(
    vars: Option<Spanned<DeValue<'_>>>,
    overrides: &Overrides,
    faults: &mut Vec<Fault>,
) -> BTreeMap<String, toml::Value> {
    let mut variables = BTreeMap::new();
    let span = vars.as_ref().map_or(0..0, Spanned::span);
    if let Some(vars) = vars {
        match toml::Table::deserialize(vars.into_deserializer()) {
            Ok(table) => variables.extend(table),
            Err(error) => faults.push(fault(&error)),
        }
    }
    let env = overrides
        .env
        .iter()
        .filter(|(name, _)| !overrides.cli.contains_key(*name) && variables.contains_key(*name));
    let given: Vec<_> = env.chain(&overrides.cli).collect();
    for (name, text) in given {
        let Some(default) = variables.get(name) else {
            let known: Vec<&str> = variables.keys().map(String::as_str).collect();
            let message = format!("the recipe has no variable `{name}` to be set by --var");
            faults.push(Fault::new(span.clone(), message).hint(suggest(name, known)));
            continue;
        };
        match like(default, text) {
            Some(value) => {
                variables.insert(name.clone(), value);
            }
            None => {
                let message = format!(
                    "the variable `{name}` is of type {}, and `{text}` is not",
                    default.type_str()
                );
                faults.push(Fault::new(span.clone(), message));
            }
        }
    }
    variables
}

/// `text` as a value of the same type as `default`.
fn like(default: &toml::Value, text: &str) -> Option<toml::Value> {
    if default.is_str() {
        return Some(toml::Value::String(text.to_owned()));
    }
    let value = toml::Value::deserialize(toml::de::ValueDeserializer::parse(text).ok()?).ok()?;
    value.same_type(default).then_some(value)
}

fn convert(value: &toml::Value) -> minijinja::Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(elements) => elements.iter().map(convert).collect(),
        toml::Value::Table(table) => minijinja::Value::from_pairs(
            table
                .iter()
                .map(|(name, value)| (name.as_str(), convert(value))),
        ),
    }
}

struct Renderer<'e> {
    environment: &'e Environment<'static>,
    names: Vec<String>,
    context: minijinja::Value,
}

impl Renderer<'_> {
    fn render(&self, value: &mut Spanned<DeValue<'_>>, faults: &mut Vec<Fault>) {
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) if text.contains("{{") || text.contains("{%") => {
                match self.text(text) {
                    Ok(rendered) => *text = rendered.into(),
                    Err(error) => faults.push(self.fault(span, text, &error)),
                }
            }
            DeValue::Array(elements) => {
                for element in elements.iter_mut() {
                    self.render(element, faults);
                }
            }
            DeValue::Table(table) => {
                for (_, value) in table.iter_mut() {
                    self.render(value, faults);
                }
            }
            _ => {}
        }
    }

    fn text(&self, text: &str) -> Result<String, minijinja::Error> {
        self.environment.render_str(text, &self.context)
    }

    fn fault(&self, span: std::ops::Range<usize>, text: &str, error: &minijinja::Error) -> Fault {
        let unknown = self
            .environment
            .template_from_str(text)
            .map(|template| template.undeclared_variables(false))
            .unwrap_or_default()
            .into_iter()
            .find(|name| !self.names.contains(name));
        if let Some(name) = unknown {
            let hint = suggest(&name, self.names.iter().map(String::as_str));
            return Fault::new(span, format!("unknown variable `{name}`")).hint(hint);
        }
        Fault::new(
            span,
            format!(
                "the template is wrong: {}",
                error.detail().unwrap_or("it cannot be rendered")
            ),
        )
        .hint("text that has braces of its own goes between {% raw %} and {% endraw %}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, cli: &[(&str, &str)]) -> Result<String, Vec<String>> {
        let mut document = DeTable::parse(text).unwrap().into_inner();
        let vars = document.remove("vars");
        let overrides = Overrides {
            env: BTreeMap::from([("ignored".into(), "x".into())]),
            cli: cli
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
        };
        let mut faults = vec![];
        render(&mut document, vars, &overrides, &mut faults);
        if !faults.is_empty() {
            return Err(faults
                .into_iter()
                .map(|fault| format!("{} ({})", fault.message, fault.hint.unwrap_or_default()))
                .collect());
        }
        Ok(document["x"].get_ref().as_str().unwrap().to_owned())
    }

    #[test]
    fn a_variable_is_put_in_and_the_command_line_wins() {
        let text = "x = \"a {{ v }}\\n\"\n[vars]\nv = 'b'";
        assert_eq!(rendered(text, &[]).unwrap(), "a b\n");
        assert_eq!(rendered(text, &[("v", "c")]).unwrap(), "a c\n");
    }

    #[test]
    fn types_are_kept() {
        let text = "x = '{{ n + 1 }}'\n[vars]\nn = 2";
        assert_eq!(rendered(text, &[]).unwrap(), "3");
        assert_eq!(rendered(text, &[("n", "41")]).unwrap(), "42");
        let faults = rendered(text, &[("n", "many")]).unwrap_err();
        assert!(faults[0].contains("of type integer"), "{faults:?}");
    }

    #[test]
    fn an_unknown_name_is_a_fault_with_the_nearest_one() {
        let faults = rendered("x = '{{ verison }}'\n[vars]\nversion = '1'", &[]).unwrap_err();
        assert_eq!(
            faults,
            ["unknown variable `verison` (did you mean `version`?)"]
        );
        rendered("x = ''\n[vars]\nversion = '1'", &[("verison", "2")]).unwrap_err();
    }

    #[test]
    fn shell_text_survives_and_foreign_braces_have_a_way_out() {
        let shell = "x = 'echo ${#name} ${name%.*} $((1+2))'";
        assert_eq!(
            rendered(shell, &[]).unwrap(),
            "echo ${#name} ${name%.*} $((1+2))"
        );
        let faults = rendered("x = \"docker inspect -f '{{.Id}}'\"", &[]).unwrap_err();
        assert!(faults[0].contains("{% raw %}"), "{faults:?}");
        let raw = "x = \"docker inspect -f '{% raw %}{{.Id}}{% endraw %}'\"";
        assert_eq!(rendered(raw, &[]).unwrap(), "docker inspect -f '{{.Id}}'");
    }
}
