//! Decoding one table with serde, and going on after a fault so that all of them are reported at once.

use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::Fault;
use crate::text::suggest;

/// More faults than this in one table help nobody.
const MOST: usize = 20;

/// Decodes `value`. serde stops at the first fault, so the key at fault is taken out and decoding is tried again, until
/// nothing more is found. `None` if there was any fault.
pub fn decode<T: DeserializeOwned>(
    mut value: Spanned<DeValue<'_>>,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let mut removed: Vec<String> = vec![];
    for _ in 0..MOST {
        let error = match T::deserialize(value.clone().into_deserializer()) {
            Ok(decoded) => return removed.is_empty().then_some(decoded),
            Err(error) => error,
        };
        // A key that was taken out because of a fault of its own is not missing.
        if !removed
            .iter()
            .any(|key| missing(error.message()) == Some(key))
        {
            faults.push(fault(&error));
        }
        match error
            .span()
            .filter(|span| !span.is_empty())
            .and_then(|span| remove_innermost(&mut value, &span))
        {
            Some(key) => removed.push(key),
            None => return None,
        }
    }
    None
}

fn missing(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// Takes the most deeply nested entry out whose key or value covers `span`, and returns its key.
fn remove_innermost(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<String> {
    match value.get_mut() {
        DeValue::Table(table) => {
            let (key, at_key) = table.iter().find_map(|(key, value)| {
                let at_key = covers(&key.span(), span);
                (at_key || holds(value, span)).then(|| (key.clone(), at_key))
            })?;
            let deeper = match at_key {
                true => None,
                false => table
                    .get_mut(&key)
                    .and_then(|value| remove_innermost(value, span)),
            };
            deeper.or_else(|| {
                table.remove(&key);
                Some(key.into_inner().into_owned())
            })
        }
        DeValue::Array(array) => array
            .iter_mut()
            .find(|element| holds(element, span))
            .and_then(|element| remove_innermost(element, span)),
        _ => None,
    }
}

fn covers(outer: &Range<usize>, span: &Range<usize>) -> bool {
    outer.start <= span.start && span.end <= outer.end
}

/// Whether `span` is in a value. The place of a table with a header of its own is that header, without what is below it.
fn holds(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    let below = |table: &DeTable<'_>| {
        let mut entries = table.iter();
        entries.any(|(key, value)| covers(&key.span(), span) || holds(value, span))
    };
    covers(&value.span(), span) || value.get_ref().as_table().is_some_and(below)
}

/// What the TOML library says, in our words where it knows more than it says.
pub fn fault(error: &toml::de::Error) -> Fault {
    let span = error.span().unwrap_or(0..0);
    let message = error.message();
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let mut quoted = rest.split('`').step_by(2);
        let name = quoted.next().unwrap_or_default();
        return Fault::new(span, format!("unknown key `{name}`")).hint(suggest(name, quoted));
    }
    if let Some(name) = missing(message) {
        return Fault::new(span, format!("the key `{name}` is missing"));
    }
    Fault::new(span, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    #[allow(dead_code)]
    struct Sample {
        name: String,
        count: u32,
        inner: Option<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        flag: bool,
    }

    fn faults(text: &str) -> Vec<(String, String)> {
        let table = toml::de::DeTable::parse(text).unwrap();
        let value = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
        let mut faults = vec![];
        let decoded = decode::<Sample>(value, &mut faults);
        assert_eq!(decoded.is_none(), !faults.is_empty());
        faults
            .into_iter()
            .map(|fault| (text[fault.span].to_owned(), fault.message))
            .collect()
    }

    #[test]
    fn all_faults_of_a_table_are_found() {
        let found = faults("name = 3\ncuont = 1\ncount = \"x\"\ninner = { flag = 1, flug = 2 }");
        let places: Vec<&str> = found.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(found.len(), 5, "{found:?}");
        for place in ["3", "cuont", "\"x\"", "1", "flug"] {
            assert!(places.contains(&place), "{place} not in {found:?}");
        }
    }

    #[test]
    fn faults_below_a_header_are_found_as_well() {
        let found = faults("name = \"x\"\ncount = 1\n[inner]\nflug = 2\nflag = 1\n");
        let places: Vec<&str> = found.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places.len(), 2, "{found:?}");
        assert!(places.contains(&"flug") && places.contains(&"1"));
    }

    #[test]
    fn a_missing_key_is_told_once_and_only_if_it_is_missing() {
        let found = faults("count = 1");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, "the key `name` is missing");
        assert_eq!(faults("name = 1\ncount = 1").len(), 1);
    }

    #[test]
    fn a_near_miss_is_suggested_and_a_far_one_lists_what_there_is() {
        assert_eq!(
            suggest("memroy", ["cpus", "memory"]),
            "did you mean `memory`?"
        );
        assert_eq!(
            suggest("zzz", ["cpus", "memory"]),
            "known here: cpus, memory"
        );
    }
}
