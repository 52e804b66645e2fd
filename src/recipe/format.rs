//! One way to write a recipe: spaces, blank lines and line breaks. Order and comments stay.

use toml_edit::{Array, Decor, DocumentMut, InlineTable, Item, RawString, Table, Value};

use super::decode;
use crate::error::{Error, Fault, Faults, Result, Source, Sources};

/// An array that makes a longer line than this is written with one element a line.
const WIDTH: usize = 100;

const INDENT: &str = "    ";

/// Formats the text of a recipe, which errors call `name`.
pub fn format(name: &str, text: &str) -> Result<String> {
    // What is read must be what recipes are read by.
    if let Err(error) = toml::de::DeTable::parse(text) {
        return Err(invalid(name, text, decode::fault(&error)));
    }
    let parsed: Result<DocumentMut, _> = text.parse();
    let mut document = parsed.map_err(|error| {
        let fault = Fault::new(error.span().unwrap_or(0..0), error.message());
        invalid(name, text, fault)
    })?;
    let trailing = lines_before(document.trailing().as_str(), Blank::Keep);
    document.set_trailing(trailing.trim_end_matches('\n').to_owned() + "\n");
    format_table(&mut document, &mut Blank::Drop);
    let formatted = document.to_string();
    Ok(formatted.trim_matches('\n').to_owned() + "\n")
}

fn invalid(name: &str, text: &str, fault: Fault) -> Error {
    let mut sources = Sources::default();
    sources.add(Source {
        name: name.into(),
        text: text.into(),
        folder: None,
    });
    Error::invalid(Faults {
        sources,
        list: vec![fault],
    })
}

/// What becomes of the blank lines at the beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blank {
    /// There is one if there was one.
    Keep,
    Drop,
}

fn raw(text: Option<&RawString>) -> Option<&str> {
    text.and_then(RawString::as_str)
}

/// Comments on lines of their own, each at the line's beginning, with at most one blank line between them.
fn lines_before(text: Option<&str>, blank: Blank) -> String {
    let mut result = String::new();
    let text = text.unwrap_or_default();
    // What follows the last newline is the indentation.
    let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let own = text[lines.len()..].trim();
    let lines = match text.contains('\n') {
        true => lines
            .split('\n')
            .chain((!own.is_empty()).then_some(own))
            .collect(),
        false => own
            .split('\n')
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>(),
    };
    for line in lines.into_iter().map(str::trim) {
        let starts = result.is_empty() && blank == Blank::Drop;
        if line.is_empty() && (starts || result == "\n" || result.ends_with("\n\n")) {
            continue;
        }
        result.push_str(line);
        result.push('\n');
    }
    result
}

/// A comment behind something, or nothing.
fn comment_behind(text: Option<&str>) -> String {
    match text.unwrap_or_default().trim() {
        "" => String::new(),
        comment => format!(" {comment}"),
    }
}

/// `first` says what becomes of the blank lines before the next key.
fn format_table(table: &mut Table, first: &mut Blank) {
    for (mut key, item) in table.iter_mut() {
        key.dotted_decor_mut().clear();
        match item {
            Item::Value(value) => {
                let before = lines_before(raw(key.leaf_decor().prefix()), *first);
                *first = Blank::Keep;
                *key.leaf_decor_mut() = Decor::new(before, " ");
                let behind = comment_behind(raw(value.decor().suffix()));
                format_value(value, key.get().len(), "\n");
                *value.decor_mut() = Decor::new(" ", behind);
            }
            Item::Table(table) if table.is_dotted() => format_table(table, first),
            Item::Table(table) => {
                key.leaf_decor_mut().clear();
                format_header(table);
                format_table(table, &mut Blank::Drop);
            }
            Item::ArrayOfTables(tables) => {
                key.leaf_decor_mut().clear();
                for table in tables.iter_mut() {
                    format_header(table);
                    format_table(table, &mut Blank::Drop);
                }
            }
            Item::None => {}
        }
    }
}

/// A blank line before a table, unless comments that belong to what is before it come first.
fn format_header(table: &mut Table) {
    let before = lines_before(raw(table.decor().prefix()), Blank::Keep);
    let before = match before.starts_with('\n') || before.contains("\n\n") {
        true => before,
        false => format!("\n{before}"),
    };
    let behind = comment_behind(raw(table.decor().suffix()));
    *table.decor_mut() = Decor::new(before, behind);
}

/// Formats what is inside of a value. `column` is how far from the line's beginning it is, `newline` what begins a line.
fn format_value(value: &mut Value, column: usize, newline: &str) {
    match value {
        Value::Array(array) => format_array(array, column, newline),
        Value::InlineTable(table) => format_inline(table),
        _ => {}
    }
}

fn format_inline(table: &mut InlineTable) {
    // A table that was given several lines has a form of its own, and may have comments in it.
    if has_lines(table) {
        return;
    }
    table.set_trailing_comma(false);
    let empty = table.is_empty();
    table.set_trailing(if empty { "" } else { " " });
    spaced(table);
}

/// ` a = 1`, also below dotted keys.
fn spaced(table: &mut InlineTable) {
    for (mut key, value) in table.iter_mut() {
        key.dotted_decor_mut().clear();
        match value {
            Value::InlineTable(inner) if inner.is_dotted() => spaced(inner),
            value => {
                *key.leaf_decor_mut() = Decor::new(" ", " ");
                format_value(value, 0, "\n");
                *value.decor_mut() = Decor::new(" ", "");
            }
        }
    }
}

/// Whether anything between the values has a line break.
fn has_lines(table: &InlineTable) -> bool {
    let breaks = |decor: &Decor| {
        [decor.prefix(), decor.suffix()]
            .into_iter()
            .any(|text| raw(text).is_some_and(|t| t.contains('\n')))
    };
    raw(Some(table.trailing())).is_some_and(|text| text.contains('\n'))
        || table.get_values().into_iter().any(|(keys, value)| {
            keys.iter()
                .any(|key| breaks(key.leaf_decor()) || breaks(key.dotted_decor()))
                || breaks(value.decor())
                || inner_lines(value)
        })
}

fn inner_lines(value: &Value) -> bool {
    let breaks = |text: Option<&RawString>| raw(text).is_some_and(|text| text.contains('\n'));
    match value {
        Value::InlineTable(table) => has_lines(table),
        Value::Array(array) => {
            breaks(Some(array.trailing()))
                || array.iter().any(|value| {
                    let decor = value.decor();
                    breaks(decor.prefix()) || breaks(decor.suffix()) || inner_lines(value)
                })
        }
        _ => false,
    }
}

/// The comments between two elements: one on the line of the first, the others on lines of their own.
#[derive(Default)]
struct Gap {
    behind: Option<String>,
    own: Vec<String>,
}

impl Gap {
    fn add(&mut self, text: Option<&str>) {
        for (index, line) in text.unwrap_or_default().split('\n').enumerate() {
            let line = line.trim();
            match index {
                _ if line.is_empty() => {}
                0 if self.behind.is_none() && self.own.is_empty() => {
                    self.behind = Some(line.to_owned());
                }
                _ => self.own.push(line.to_owned()),
            }
        }
    }

    fn text(&self, newline: &str) -> String {
        let behind = self.behind.iter().map(|comment| format!(" {comment}"));
        let own = self.own.iter().map(|comment| format!("{newline}{comment}"));
        behind.chain(own).collect()
    }
}

/// The comments before each element, and after the last.
fn gaps(array: &Array) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = vec![Gap::default()];
    for value in array.iter() {
        if let Some(gap) = gaps.last_mut() {
            gap.add(raw(value.decor().prefix()));
        }
        let mut after = Gap::default();
        after.add(raw(value.decor().suffix()));
        gaps.push(after);
    }
    if let Some(gap) = gaps.last_mut() {
        gap.add(raw(Some(array.trailing())));
    }
    gaps
}

fn format_array(array: &mut Array, column: usize, newline: &str) {
    let gaps = gaps(array);
    // What is around it is the caller's, and does not count here.
    array.decor_mut().clear();
    let inner = format!("{newline}{INDENT}");
    for value in array.iter_mut() {
        format_value(value, INDENT.len(), &inner);
    }
    let commented = gaps
        .iter()
        .any(|gap| gap.behind.is_some() || !gap.own.is_empty());
    if !commented {
        for (index, value) in array.iter_mut().enumerate() {
            let before = if index == 0 { "" } else { " " };
            *value.decor_mut() = Decor::new(before, "");
        }
        array.set_trailing_comma(false);
        array.set_trailing("");
        let line = array.to_string();
        let width = newline.len() + column + " = ".len() + line.trim().chars().count();
        // An element of several lines, such as a text, has none of its lines moved.
        if array.is_empty() || (width <= WIDTH && !line.trim().contains('\n')) {
            return;
        }
    }
    for (value, gap) in array.iter_mut().zip(&gaps) {
        *value.decor_mut() = Decor::new(gap.text(&inner) + &inner, "");
    }
    array.set_trailing_comma(!array.is_empty());
    let last = gaps.last().map_or_else(String::new, |gap| gap.text(&inner));
    array.set_trailing(last + newline);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(text: &str) -> String {
        let once = format("x.toml", text).unwrap();
        assert_eq!(format("x.toml", &once).unwrap(), once, "not stable");
        once
    }

    #[test]
    fn spaces_and_blank_lines_have_their_places() {
        let text = "\n\n# about\n  [ image ]   # what\n  name=\"x\"  \n\n\n# one\n\n\n# two\n description   =   'y' # why \n[source]\ndebian = '12'\n\n\n\n[[step]]\nrun='true'\n[[step]]\nreboot=true";
        let expected = "# about\n[image] # what\nname = \"x\"\n\n# one\n\n# two\ndescription = 'y' # why\n\n[source]\ndebian = '12'\n\n[[step]]\nrun = 'true'\n\n[[step]]\nreboot = true\n";
        assert_eq!(formatted(text), expected);
    }

    #[test]
    fn comments_stay_with_what_they_are_about() {
        let text = "# top\n\n# first\na = 1\n# end of the first\n\n# second\n[b]\n# in b\nc.d = 1\n\n# last\n";
        assert_eq!(formatted(text), text);
    }

    #[test]
    fn short_arrays_are_on_one_line_and_long_ones_on_many() {
        assert_eq!(formatted("a=[1,2 ,\n 3,]"), "a = [1, 2, 3]\n");
        assert_eq!(
            formatted("a=[ ]\nb=[ [1,2] , { } ]"),
            "a = []\nb = [[1, 2], {}]\n"
        );
        let word = "x".repeat(40);
        let long = format!("a = ['{word}', '{word}', '{word}']");
        let expected = format!("a = [\n    '{word}',\n    '{word}',\n    '{word}',\n]\n");
        assert_eq!(formatted(&long), expected);
    }

    #[test]
    fn comments_in_arrays_are_kept() {
        let text = "a = [ # zero\n1 # one\n, # one too\n# two\n2, 3 # three\n# end\n]";
        let expected = "a = [ # zero\n    1, # one\n    # one too\n    # two\n    2,\n    3, # three\n    # end\n]\n";
        assert_eq!(formatted(text), expected);
        assert_eq!(formatted("a = [ # none\n]"), "a = [ # none\n]\n");
    }

    #[test]
    fn inline_tables_are_spaced_unless_they_have_lines_of_their_own() {
        assert_eq!(
            formatted("a={b=1,c.d  ={e=[1,2]},}"),
            "a = { b = 1, c.d = { e = [1, 2] } }\n"
        );
        let own = "a = {\n  b = 1, # one\n}\n";
        assert_eq!(formatted(own), own);
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_place() {
        let error = format("x.toml", "a = \n").unwrap_err();
        assert_eq!(error.get_kind().exit_code(), 2);
        assert_eq!(error.get_faults().unwrap().list.len(), 1);
    }
}
