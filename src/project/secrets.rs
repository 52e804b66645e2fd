//! Secrets that stand in `imgbuild.toml` in clear: faults, which must not be shown with them.

use crate::error::Fault;
use crate::recipe::document::Table;

/// The words of keys whose value may be a secret, whatever else is wrong with the line.
const WORDS: [&str; 3] = ["token", "password", "secret"];

/// The keys that say where a secret is instead.
const ORIGINS: [&str; 3] = ["env", "file", "command"];

/// A text as it may be shown, byte for byte as long. By lines, since it may be no TOML at all.
pub fn masked(text: &str) -> String {
    text.split_inclusive('\n').map(masked_line).collect()
}

fn masked_line(line: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|word| line.contains(word));
    let is_told_elsewhere = line.contains('{') && has(&ORIGINS);
    let in_address = line.contains("://") && line.contains('@');
    match line.split_once('=') {
        Some((key, value)) if in_address || (has(&WORDS) && !is_told_elsewhere) => {
            format!("{key}={}", stars(value))
        }
        _ => line.to_owned(),
    }
}

/// As many bytes, in which only white space is left.
fn stars(text: &str) -> String {
    let star = |c: char| match c.is_whitespace() {
        true => c.to_string(),
        false => "*".repeat(c.len_utf8()),
    };
    text.chars().map(star).collect()
}

/// Reports secrets that are written down, and masks them in the text that is shown, on however many lines they are.
pub fn refuse_literals(document: &Table<'_>, shown: &mut String, faults: &mut Vec<Fault>) {
    let targets = document
        .get("targets")
        .and_then(|targets| targets.get_ref().as_table());
    let targets = targets.into_iter().flat_map(|targets| targets.values());
    for target in targets.filter_map(|target| target.get_ref().as_table()) {
        for name in ["token", "password"] {
            let Some(value) = target.get(name).filter(|value| value.get_ref().is_str()) else {
                continue;
            };
            let span = value.span();
            if let Some(text) = shown.get(span.clone()).map(stars) {
                shown.replace_range(span.clone(), &text);
            }
            let message = format!("`{name}` stands here in clear");
            faults.push(Fault::new(span, message).hint(format!(
                "keep it elsewhere, and write {name} = {{ env = \"NAME\" }}, {{ file = \"PATH\" }} or {{ command = \"…\" }}"
            )));
        }
    }
}
