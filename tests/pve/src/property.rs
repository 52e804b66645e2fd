//! Property strings: `key=value,key=value`, where one key may be left out (pve-common's JSONSchema.pm).

use std::collections::BTreeMap;

use crate::params::Kind;

/// One property of such a string.
pub struct Property {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    /// Its value may stand without a key.
    pub plain: bool,
}

/// A property.
pub const fn has(name: &'static str, kind: Kind) -> Property {
    Property {
        name,
        kind,
        required: false,
        plain: false,
    }
}

/// The one whose key may be left out.
pub const fn plain(name: &'static str, kind: Kind) -> Property {
    Property {
        plain: true,
        ..has(name, kind)
    }
}

/// The one whose key may be left out, but not the value.
pub const fn first(name: &'static str, kind: Kind) -> Property {
    Property {
        required: true,
        ..plain(name, kind)
    }
}

/// What can be in one kind of string.
pub struct Properties {
    /// Lists that make up the whole one.
    pub all: &'static [&'static [Property]],
    /// Names that are a value of the first property and a key for the second: `virtio=MAC` of network cards.
    pub models: &'static [&'static str],
}

/// Those of one list.
pub const fn of(all: &'static [&'static [Property]]) -> Properties {
    Properties { all, models: &[] }
}

impl Properties {
    /// Says what is wrong with the value of the option `name`.
    pub fn check(&self, name: &str, value: &str) -> Result<(), String> {
        let malformed = |why: String| format!("invalid format - {why}\n");
        let values = self.split(value).map_err(malformed)?;
        let mut wrong = vec![];
        for property in self.each() {
            match values.get(property.name) {
                Some(value) => {
                    let value = plain_flag(property.kind, value);
                    if let Err(why) = property.kind.check(property.name, &[value]) {
                        wrong.push((property.name, why));
                    }
                }
                None if property.required => {
                    let why = "property is missing and it is not optional";
                    wrong.push((property.name, why.into()));
                }
                None => {}
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let lines: String = wrong
            .iter()
            .map(|(property, why)| format!("{name}.{property}: {why}\n"))
            .collect();
        Err(format!("invalid format - format error\n{lines}"))
    }

    fn each(&self) -> impl Iterator<Item = &Property> {
        self.all.iter().copied().flatten()
    }

    fn split(&self, value: &str) -> Result<BTreeMap<&str, String>, String> {
        let mut values = BTreeMap::new();
        let mut put = |name, value: &str| match values.insert(name, value.to_owned()) {
            None => Ok(()),
            Some(_) => Err(format!(
                "duplicate key in comma-separated list property: {name}"
            )),
        };
        for part in value.split(',').filter(|part| !part.trim().is_empty()) {
            match part.split_once('=') {
                Some((model, address)) if self.models.contains(&model) => {
                    put("model", model)?;
                    put("macaddr", address)?;
                }
                Some(("", _) | (_, "")) => {
                    return Err("missing key in comma-separated list property".into());
                }
                Some((key, value)) => {
                    // The same under an older name.
                    let key = if key == "volume" { "file" } else { key };
                    match self.each().find(|property| property.name == key) {
                        Some(property) => put(property.name, value)?,
                        None => {
                            return Err(format!(
                                "invalid key in comma-separated list property: {key}"
                            ));
                        }
                    }
                }
                None => match self.each().find(|property| property.plain) {
                    Some(property) => put(property.name, part)?,
                    None => {
                        let why = "value without key, but schema does not define a default key";
                        return Err(why.into());
                    }
                },
            }
        }
        Ok(values)
    }
}

/// In these strings flags can be words as well.
fn plain_flag(kind: Kind, value: &str) -> String {
    let word = match (kind, value) {
        (Kind::Flag, "on" | "yes" | "true") => "1",
        (Kind::Flag, "off" | "no" | "false") => "0",
        _ => value,
    };
    word.to_owned()
}
