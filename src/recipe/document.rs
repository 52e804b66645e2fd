//! A recipe's text as a tree of values, before anything is known about what they mean.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};
use typed_arena::Arena;

use super::decode;
use crate::error::{Fault, Source, Sources};

/// A table whose spans count through all texts of a recipe, see [`Sources`].
pub type Table<'t> = DeTable<'t>;
/// A value of such a table.
pub type Value<'t> = Spanned<DeValue<'t>>;
/// Keeps the texts that tables are read from.
pub type Texts = Arena<String>;

/// Parses a text and adds it to `sources`. `None` if it is not TOML.
pub fn parse<'t>(
    name: &str,
    text: String,
    folder: Option<&Path>,
    texts: &'t Texts,
    sources: &mut Sources,
    faults: &mut Vec<Fault>,
) -> Option<Table<'t>> {
    let text = texts.alloc(text).as_str();
    let start = sources.add(Source {
        name: name.into(),
        text: Arc::from(text),
        folder: folder.map(Arc::from),
    });
    let (document, errors) = DeTable::parse_recoverable(text);
    faults.extend(errors.iter().map(|error| {
        let fault = decode::fault(error);
        Fault {
            span: moved(&fault.span, start),
            ..fault
        }
    }));
    let document = document.into_inner();
    // The first text starts at 0.
    errors.is_empty().then(|| match start {
        0 => document,
        start => shift_table(document, start),
    })
}

fn moved(span: &Range<usize>, by: usize) -> Range<usize> {
    span.start + by..span.end + by
}

fn shift_table(table: Table<'_>, by: usize) -> Table<'_> {
    table
        .into_iter()
        .map(|(key, value)| {
            let key_span = moved(&key.span(), by);
            (Spanned::new(key_span, key.into_inner()), shift(value, by))
        })
        .collect()
}

fn shift(value: Value<'_>, by: usize) -> Value<'_> {
    let span = moved(&value.span(), by);
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(shift_table(table, by)),
        DeValue::Array(array) => DeValue::Array(list(array.into_iter().map(|v| shift(v, by)))),
        leaf => leaf,
    };
    Spanned::new(span, value)
}

/// An array of these values.
pub fn list<'t>(values: impl IntoIterator<Item = Value<'t>>) -> DeArray<'t> {
    let mut array = DeArray::new();
    for value in values {
        array.push(value);
    }
    array
}

/// Takes a list of tables, such as `[[step]]`. `None` if it is something else; then that is a fault.
pub fn take_tables<'t>(
    table: &mut Table<'t>,
    name: &str,
    faults: &mut Vec<Fault>,
) -> Option<Vec<Value<'t>>> {
    let Some(value) = table.remove(name) else {
        return Some(vec![]);
    };
    let span = value.span();
    if let DeValue::Array(elements) = value.into_inner() {
        return Some(elements.into_iter().collect());
    }
    faults.push(
        Fault::new(span, format!("`{name}` must be a list of tables"))
            .hint(format!("write [[{name}]]")),
    );
    None
}

/// The string under a key of a value that is a table.
pub fn text_of<'v>(value: &'v Value<'_>, key: &str) -> Option<&'v str> {
    value.get_ref().as_table()?.get(key)?.get_ref().as_str()
}
