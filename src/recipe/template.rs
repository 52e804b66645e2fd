//! Templates: what stands between `{{` and `}}` in the strings of a recipe.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, UndefinedBehavior};
use toml::de::DeValue;

use super::document::Value;
use super::vars::Vars;
use crate::error::{Fault, Sources};
use crate::proc::quote;
use crate::text::suggest;

/// The way out for text that has braces of its own.
const RAW: &str = "text that has braces of its own goes between {% raw %} and {% endraw %}";

/// The names that templates can use, and the values behind them.
#[derive(Debug, Clone)]
pub struct Scope {
    context: BTreeMap<String, minijinja::Value>,
    /// The same as environment variables for the guest.
    exports: BTreeMap<String, String>,
}

/// A document of `[data]` as templates and scripts see it.
#[derive(Debug, Clone)]
pub struct Datum {
    pub value: minijinja::Value,
    pub text: String,
}

impl Scope {
    /// Variables at the top level, documents below `data`.
    pub fn new(vars: &Vars, data: BTreeMap<String, Datum>) -> Self {
        let mut exports = BTreeMap::new();
        let mut context = BTreeMap::new();
        for (name, value) in vars {
            context.insert(name.clone(), from_toml(value));
            exports.insert(format!("IMGBUILD_VAR_{name}"), text(value));
        }
        let mut documents = BTreeMap::new();
        for (name, datum) in data {
            exports.insert(format!("IMGBUILD_DATA_{name}"), datum.text);
            documents.insert(name, datum.value);
        }
        context.insert("data".into(), minijinja::Value::from_pairs(documents));
        Scope { context, exports }
    }

    /// Those variables for the guest's environment whose names stand in `script`. A step depends on these and on no
    /// others.
    pub fn exports(&self, script: &[u8]) -> BTreeMap<String, String> {
        let script = String::from_utf8_lossy(script);
        let stands = |name: &str| {
            script.match_indices(name).any(|(at, _)| {
                let next = script[at + name.len()..].chars().next();
                !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
            })
        };
        let exports = self.exports.iter().filter(|(name, _)| stands(name));
        exports.map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// Renders every string of a value in place; what cannot be rendered becomes a fault.
    pub fn render(&self, value: &mut Value<'_>, sources: &Sources, faults: &mut Vec<Fault>) {
        let span = value.span();
        match value.get_mut() {
            DeValue::String(text) if is_template(text) => match self.text(text) {
                Ok(rendered) => *text = rendered.into(),
                Err(wrong) => faults.push(wrong.at(span, sources)),
            },
            DeValue::Array(elements) => {
                for element in elements.iter_mut() {
                    self.render(element, sources, faults);
                }
            }
            DeValue::Table(table) => {
                for (_, value) in table.iter_mut() {
                    self.render(value, sources, faults);
                }
            }
            _ => {}
        }
    }

    /// Renders one text.
    pub fn text(&self, text: &str) -> Result<String, Wrong> {
        environment()
            .render_str(text, &self.context)
            .map_err(|error| {
                let template = environment().template_from_str(text);
                let names = template.map(|template| template.undeclared_variables(true));
                self.wrong(names.unwrap_or_default(), &error)
            })
    }

    /// The value of an expression, such as `version ~ "-x"`.
    pub fn evaluate(&self, expression: &str) -> Result<minijinja::Value, Wrong> {
        let compiled = environment().compile_expression(expression);
        let compiled = compiled.map_err(|error| self.wrong(Default::default(), &error))?;
        // An undefined value is an error when something is done with it, and here it is the whole result.
        match compiled.eval(&self.context) {
            Ok(value) if !value.is_undefined() => Ok(value),
            ended => {
                let names = compiled.undeclared_variables(true);
                let undefined = minijinja::ErrorKind::UndefinedError;
                let error = ended.err().unwrap_or_else(|| undefined.into());
                Err(self.wrong(names, &error))
            }
        }
    }

    fn wrong(&self, names: std::collections::HashSet<String>, error: &minijinja::Error) -> Wrong {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort();
        if let Some(wrong) = names.iter().find_map(|name| self.unknown(name)) {
            return wrong;
        }
        let detail = error.detail().map(str::to_owned);
        Wrong {
            message: format!(
                "the template is wrong: {}",
                detail.unwrap_or_else(|| error.kind().to_string())
            ),
            hint: RAW.into(),
            name: None,
        }
    }

    /// What is wrong with a name such as `data.release.version`, if nothing has it.
    fn unknown(&self, path: &str) -> Option<Wrong> {
        let mut parts = path.split('.');
        let first = parts.next()?;
        let Some(value) = self.context.get(first) else {
            return Some(Wrong {
                message: format!("unknown variable `{first}`"),
                hint: suggest(first, self.context.keys().map(String::as_str)),
                name: Some(first.to_owned()),
            });
        };
        let mut value = value.clone();
        for part in parts {
            let next = value.get_attr(part).ok()?;
            if next.is_undefined() {
                let keys: Vec<String> = value
                    .try_iter()
                    .into_iter()
                    .flatten()
                    .map(|k| k.to_string())
                    .collect();
                return Some(Wrong {
                    message: format!("`{path}` does not exist: nothing is called `{part}` there"),
                    hint: suggest(part, keys.iter().map(String::as_str)),
                    name: Some(part.to_owned()),
                });
            }
            value = next;
        }
        None
    }
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    pub message: String,
    pub hint: String,
    /// The name that nothing has, if that is the reason.
    name: Option<String>,
}

impl Wrong {
    /// A fault at the template's place, or at the name in it where that can be found.
    pub fn at(self, span: Range<usize>, sources: &Sources) -> Fault {
        let place = self.name.as_ref().and_then(|name| {
            let (source, local) = sources.locate(&span)?;
            let text = source.text.get(local)?;
            let opening = text
                .find("{{")
                .into_iter()
                .chain(text.find("{%"))
                .min()
                .unwrap_or(0);
            let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let (at, _) = text.match_indices(name.as_str()).find(|(at, _)| {
                *at >= opening
                    && !text[..*at].ends_with(letter)
                    && !text[at + name.len()..].starts_with(letter)
            })?;
            Some(span.start + at..span.start + at + name.len())
        });
        Fault::new(place.unwrap_or(span), self.message).hint(self.hint)
    }
}

/// Whether a text has anything to render.
pub fn is_template(text: &str) -> bool {
    text.contains("{{") || text.contains("{%")
}

fn environment() -> &'static Environment<'static> {
    static ENVIRONMENT: OnceLock<Environment<'static>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // As TOML, JSON and shells write them, not as Python does.
        environment.set_formatter(|out, state, value| match value.kind() {
            ValueKind::Bool => Ok(out.write_str(&written(value))?),
            _ => minijinja::escape_formatter(out, state, value),
        });
        environment.add_filter("sh", sh);
        environment.add_filter("slug", slug);
        // The usual comment sign `{#` stands in every shell script that asks for a length: ${#name}.
        let syntax = SyntaxConfig::builder()
            .comment_delimiters("{{#", "#}}")
            .keep_trailing_newline(true)
            .build();
        if let Ok(syntax) = syntax {
            environment.set_syntax(syntax);
        }
        environment
    })
}

/// As TOML, JSON and shells write it, and not as Python does.
fn written(value: &minijinja::Value) -> String {
    match value.kind() {
        ValueKind::Bool => value.is_true().to_string(),
        _ => value.to_string(),
    }
}

/// `{{ name | sh }}`: one word of a shell command; of a list, one word for each element.
fn sh(value: &minijinja::Value) -> String {
    match value.kind() {
        ValueKind::Seq => {
            let words = value.try_iter().into_iter().flatten();
            let words: Vec<String> = words.map(|word| quote(&written(&word))).collect();
            words.join(" ")
        }
        _ => quote(&written(value)),
    }
}

/// `{{ python | slug }}`: fit for an image's name, `3.12` as `3-12`.
fn slug(value: &minijinja::Value) -> String {
    let text = value.to_string().to_lowercase();
    let mut slug = String::new();
    for c in text.chars() {
        match c.is_ascii_alphanumeric() {
            true => slug.push(c),
            false if slug.ends_with('-') || slug.is_empty() => {}
            false => slug.push('-'),
        }
    }
    slug.trim_end_matches('-').to_owned()
}

/// As a script sees it: a string as it is, anything else as JSON.
fn text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => serde_json::to_string(other).unwrap_or_default(),
    }
}

fn from_toml(value: &toml::Value) -> minijinja::Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(elements) => elements.iter().map(from_toml).collect(),
        toml::Value::Table(table) => minijinja::Value::from_pairs(
            table
                .iter()
                .map(|(name, value)| (name.as_str(), from_toml(value))),
        ),
    }
}

/// A value of a JSON document.
pub fn from_json(value: &serde_json::Value) -> minijinja::Value {
    use serde_json::Value::{Array, Bool, Null, Number, Object, String};
    match value {
        Null => ().into(),
        Bool(flag) => (*flag).into(),
        Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.to_string().into(),
        },
        String(text) => text.as_str().into(),
        Array(elements) => elements.iter().map(from_json).collect(),
        Object(entries) => minijinja::Value::from_pairs(
            entries
                .iter()
                .map(|(name, value)| (name.as_str(), from_json(value))),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        let vars = toml::toml! {
            version = "1.2 beta"
            count = 2
            users = ["a", "b c"]
        };
        let json = serde_json::json!({"commit": "abc", "assets": [{"url": "u"}], "n": 3});
        let datum = Datum {
            value: from_json(&json),
            text: json.to_string(),
        };
        let data = BTreeMap::from([("release".to_owned(), datum)]);
        Scope::new(&vars.into_iter().collect(), data)
    }

    fn wrong(text: &str) -> (String, String) {
        let wrong = scope().text(text).unwrap_err();
        (wrong.message, wrong.hint)
    }

    #[test]
    fn variables_and_documents_are_put_in() {
        let render = |text: &str| scope().text(text).unwrap();
        assert_eq!(render("a {{ version }}\n"), "a 1.2 beta\n");
        assert_eq!(render("{{ count + 1 }} {{ count > 1 }}"), "3 true");
        assert_eq!(
            render("{{ data.release.assets[0].url }}{{ data.release.n }}"),
            "u3"
        );
    }

    #[test]
    fn values_are_made_fit_for_shells_and_names() {
        let render = |text: &str| scope().text(text).unwrap();
        assert_eq!(render("{{ version | sh }}"), "'1.2 beta'");
        assert_eq!(render("{{ users | sh }}"), "a 'b c'");
        assert_eq!(
            render("{{ [true, count > 2] | sh }} {{ (count > 2) | sh }}"),
            "true false false"
        );
        assert_eq!(render("{{ version | slug }}"), "1-2-beta");
    }

    #[test]
    fn an_unknown_name_is_told_with_the_nearest_one() {
        let told = (
            "unknown variable `verison`".into(),
            "did you mean `version`?".into(),
        );
        assert_eq!(wrong("{{ verison }}"), told);
        let (message, hint) = wrong("{{ data.release.comit }}");
        assert!(
            message.contains("`data.release.comit` does not exist"),
            "{message}"
        );
        assert_eq!(hint, "did you mean `commit`?");
    }

    #[test]
    fn shell_text_survives_and_foreign_braces_have_a_way_out() {
        let shell = "echo ${#name} ${name%.*} $((1+2))";
        assert_eq!(scope().text(shell).unwrap(), shell);
        let (_, hint) = wrong("docker inspect -f '{{.Id}}'");
        assert!(hint.contains("{% raw %}"), "{hint}");
        let raw = "docker inspect -f '{% raw %}{{.Id}}{% endraw %}'";
        assert_eq!(scope().text(raw).unwrap(), "docker inspect -f '{{.Id}}'");
    }

    #[test]
    fn a_script_gets_the_variables_that_it_names_and_no_others() {
        let exports = scope().exports(b"echo $IMGBUILD_VAR_version ${IMGBUILD_DATA_release}");
        let names: Vec<&str> = exports.keys().map(String::as_str).collect();
        assert_eq!(names, ["IMGBUILD_DATA_release", "IMGBUILD_VAR_version"]);
        assert_eq!(exports["IMGBUILD_VAR_version"], "1.2 beta");
        assert!(scope().exports(b"echo $IMGBUILD_VAR_versions").is_empty());
    }

    #[test]
    fn expressions_have_values() {
        assert!(scope().evaluate("count > 1").unwrap().is_true());
        assert_eq!(
            scope().evaluate("nothing").unwrap_err().message,
            "unknown variable `nothing`"
        );
    }
}
