//! Parameters: how they come, and whether they are as the table of calls says.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::property;
use crate::reply::Failure;

/// One parameter of a call.
pub struct Param {
    /// `scsi[30]` stands for `scsi0` to `scsi30`.
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
}

/// What a parameter's value may be.
#[derive(Clone, Copy)]
pub enum Kind {
    Flag,
    /// From, to.
    Integer(i64, i64),
    Number,
    /// At most so many characters.
    Text(usize),
    /// Several texts.
    List,
    OneOf(&'static [&'static str]),
    /// Says what is wrong with it.
    Format(fn(&str) -> Result<(), String>),
    /// `a=b,c=d`.
    Properties(&'static property::Properties),
}

/// A parameter that may be left out.
pub const fn may(name: &'static str, kind: Kind) -> Param {
    Param {
        name,
        kind,
        required: false,
    }
}

/// A parameter that must be there.
pub const fn must(name: &'static str, kind: Kind) -> Param {
    Param {
        name,
        kind,
        required: true,
    }
}

/// The parameters of one call, those in its path included.
#[derive(Clone, Debug, Default)]
pub struct Params(BTreeMap<String, Vec<String>>);

impl Params {
    /// Of a query or a form. Proxmox splits at `=` and takes what is between the first and the second one.
    pub fn add_form(&mut self, text: &str) {
        for pair in text.split(['&', ';']).filter(|pair| !pair.is_empty()) {
            let mut parts = pair.split('=').map(decoded);
            let name = parts.next().unwrap_or_default();
            let value = parts.next().unwrap_or_default();
            self.0.entry(name).or_default().push(value);
        }
    }

    /// Of a body in JSON.
    pub fn add_json(&mut self, body: &[u8]) -> Result<(), String> {
        let malformed = |error: &dyn std::fmt::Display| {
            format!(
                "malformed JSON string, neither tag, array, object, number, string or atom, at character offset 0 ({error})"
            )
        };
        let value: Value = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
        let Value::Object(object) = value else {
            return Err(malformed(&"not an object"));
        };
        for (name, value) in object {
            let values = match value {
                Value::Array(items) => items.iter().map(plain).collect(),
                Value::Null => continue,
                value => vec![plain(&value)],
            };
            self.0.insert(name, values);
        }
        Ok(())
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.into(), vec![value.into()]);
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.last().map(String::as_str)
    }

    /// One that the table of calls requires, so it is there.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    pub fn list(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    pub fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// The id of the VM that the path or the body names.
    pub fn vmid(&self) -> u32 {
        self.text("vmid").parse().unwrap_or_default()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// All that is wrong, by parameter.
    pub fn verify(&self, table: &[&[Param]]) -> Result<(), Failure> {
        let mut errors = BTreeMap::new();
        let all = || table.iter().copied().flatten();
        for param in all().filter(|param| param.required) {
            if !self.0.contains_key(param.name) {
                let missing = "property is missing and it is not optional";
                errors.insert(param.name.to_owned(), missing.to_owned());
            }
        }
        for (name, values) in &self.0 {
            let wrong = match all().find(|param| param.names(name)) {
                None => Err("property is not defined in schema and the schema does not allow additional properties".into()),
                Some(param) => param.kind.check(name, values),
            };
            if let Err(wrong) = wrong {
                errors.insert(name.clone(), wrong);
            }
        }
        match errors.is_empty() {
            true => Ok(()),
            false => Err(Failure::parameters(errors)),
        }
    }
}

impl Param {
    /// Whether this is the parameter's name.
    pub fn names(&self, name: &str) -> bool {
        let Some((stem, last)) = self.name.split_once('[') else {
            return self.name == name;
        };
        let last: u32 = last.trim_end_matches(']').parse().unwrap_or(0);
        name.strip_prefix(stem).is_some_and(|number| {
            number.parse::<u32>().is_ok_and(|n| n <= last)
                && (number == "0" || !number.starts_with('0'))
        })
    }
}

impl Kind {
    /// Says what is wrong with the values of a parameter.
    pub fn check(self, name: &str, values: &[String]) -> Result<(), String> {
        let value = match (self, values) {
            (Kind::List, _) => return Ok(()),
            (_, [value]) => value,
            _ => return Err("type check ('string') failed - got ARRAY".into()),
        };
        match self {
            Kind::Flag if value == "0" || value == "1" => Ok(()),
            Kind::Flag => Err(format!("type check ('boolean') failed - got '{value}'")),
            Kind::Integer(from, to) => match value.parse::<i64>() {
                Err(_) => Err(format!("type check ('integer') failed - got '{value}'")),
                Ok(number) if number < from => {
                    Err(format!("value must have a minimum value of {from}"))
                }
                Ok(number) if number > to => {
                    Err(format!("value must have a maximum value of {to}"))
                }
                Ok(_) => Ok(()),
            },
            Kind::Number if value.parse::<f64>().is_ok() => Ok(()),
            Kind::Number => Err(format!("type check ('number') failed - got '{value}'")),
            Kind::Text(most) if value.chars().count() > most => {
                Err(format!("value may only be {most} characters long"))
            }
            Kind::OneOf(names) if !names.contains(&value.as_str()) => Err(format!(
                "value '{value}' does not have a value in the enumeration '{}'",
                names.join(", ")
            )),
            Kind::Format(check) => check(value),
            Kind::Properties(properties) => properties.check(name, value),
            Kind::Text(_) | Kind::OneOf(_) | Kind::List => Ok(()),
        }
    }
}

/// A value of JSON as the text that it would be in a form.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        other => other.to_string(),
    }
}

fn decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced)
        .decode_utf8_lossy()
        .into_owned()
}

/// A DNS name, as a VM's name must be.
pub fn dns_name(value: &str) -> Result<(), String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match value.split('.').all(label) {
        true => Ok(()),
        false => Err("invalid format - value does not look like a valid DNS name\n".into()),
    }
}

/// Tags, separated by `;`. (A comma or a space separates as well, and becomes one.)
pub fn tags(value: &str) -> Result<(), String> {
    let word = |tag: &str| {
        let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        tag.bytes()
            .enumerate()
            .all(|(n, byte)| first(byte) || n > 0 && b"-+.".contains(&byte))
    };
    match value.split([';', ',', ' ']).all(word) {
        true => Ok(()),
        false => Err("invalid format - invalid characters in tag\n".into()),
    }
}
