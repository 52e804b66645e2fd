//! `extends`: a recipe that says only how it differs from another one.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeValue};

use super::document::{self, Table, Texts, Value, list, text_of};
use crate::error::{Fault, Sources};
use crate::text::suggest;

/// A chain of recipes longer than this is a mistake.
const LONGEST: usize = 16;

/// Reads a recipe with everything that it extends, as one document. `None` after a fault.
pub fn read<'t>(
    name: &str,
    text: String,
    folder: &Path,
    texts: &'t Texts,
    sources: &mut Sources,
    faults: &mut Vec<Fault>,
) -> Option<Table<'t>> {
    let mut document = document::parse(name, text, Some(folder), texts, sources, faults)?;
    let mut folder = folder.to_owned();
    let mut shown = name.to_owned();
    let mut seen: Vec<PathBuf> = vec![canonical(Path::new(name))];
    let mut children = vec![];
    while let Some(extends) = document.remove("extends") {
        let place = Place {
            folder: &folder,
            shown: &shown,
            seen: &seen,
        };
        let (path, name, parent) = parent(&extends, place, texts, sources, faults)?;
        shown = name;
        folder = path.parent().map(Path::to_owned).unwrap_or_default();
        seen.push(canonical(&path));
        children.push(std::mem::replace(&mut document, parent));
    }
    while let Some(child) = children.pop() {
        merge(&mut document, child);
    }
    place(&mut document, faults);
    Some(document)
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Where a recipe that extends another one is.
#[derive(Clone, Copy)]
struct Place<'p> {
    folder: &'p Path,
    /// What errors call it.
    shown: &'p str,
    /// The recipes that led here.
    seen: &'p [PathBuf],
}

fn parent<'t>(
    extends: &Value<'_>,
    place: Place<'_>,
    texts: &'t Texts,
    sources: &mut Sources,
    faults: &mut Vec<Fault>,
) -> Option<(PathBuf, String, Table<'t>)> {
    let span = extends.span();
    let Some(written) = extends.get_ref().as_str() else {
        faults.push(Fault::new(span, "`extends` is the path of another recipe"));
        return None;
    };
    let path = place.folder.join(written);
    if place.seen.contains(&canonical(&path)) || place.seen.len() > LONGEST {
        let fault = Fault::new(span, format!("`{written}` extends this recipe in turn"));
        faults.push(fault.hint("a recipe cannot extend itself"));
        return None;
    }
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            faults.push(Fault::new(
                span,
                format!("cannot read `{written}`: {error}"),
            ));
            return None;
        }
    };
    let folder = path.parent();
    let name = super::beside(place.shown, written);
    let table = document::parse(&name, text, folder, texts, sources, faults)?;
    Some((path, name, table))
}

/// Tables whose entries say one thing each in one of several ways: an entry of the child's takes the place of the
/// parent's, and is not mixed with it.
const WHOLE_ENTRIES: &[&str] = &["secrets", "data"];

/// Puts the child's values over the parent's: tables merge, steps and tests append, everything else is replaced.
fn merge<'t>(parent: &mut Table<'t>, child: Table<'t>) {
    for (key, value) in child {
        let name = key.get_ref().to_string();
        let Some(old) = parent.get_mut(&key) else {
            parent.insert(key, value);
            continue;
        };
        let span = value.span();
        match (name.as_str(), old.get_mut(), value.into_inner()) {
            ("step" | "test", DeValue::Array(old), DeValue::Array(new)) => {
                *old = list(
                    std::mem::replace(old, DeArray::new())
                        .into_iter()
                        .chain(new),
                );
            }
            ("vars", DeValue::Table(old), DeValue::Table(new)) => merge_vars(old, new),
            // Exactly one key of [source] says where the image comes from.
            ("source", old, new) => *old = new,
            (_, DeValue::Table(old), DeValue::Table(new)) => {
                let whole = WHOLE_ENTRIES.contains(&name.as_str());
                merge_tables(old, new, whole);
            }
            (_, old, new) => *old = new,
        }
        // Errors point at what was said last.
        if let Some(merged) = parent.remove(&key) {
            parent.insert(key, Spanned::new(span, merged.into_inner()));
        }
    }
}

fn merge_tables<'t>(parent: &mut Table<'t>, child: Table<'t>, whole: bool) {
    for (key, value) in child {
        let deeper = match parent.get_mut(&key) {
            Some(old) if !whole => match (old.get_mut(), value.get_ref()) {
                (DeValue::Table(old), DeValue::Table(_)) => Some(old),
                _ => None,
            },
            _ => None,
        };
        match (deeper, value) {
            (Some(old), value) => {
                if let DeValue::Table(new) = value.into_inner() {
                    merge_tables(old, new, false);
                }
            }
            (None, value) => {
                // The key is replaced too, for its span.
                parent.remove(&key);
                parent.insert(key, value);
            }
        }
    }
}

/// A plain value for a variable that the parent declares in full is another default for it.
fn merge_vars<'t>(parent: &mut Table<'t>, child: Table<'t>) {
    for (key, value) in child {
        let declaration = parent.get_mut(&key).and_then(|old| match old.get_mut() {
            DeValue::Table(declaration) if !value.get_ref().is_table() => Some(declaration),
            _ => None,
        });
        match declaration {
            Some(declaration) => {
                declaration.remove("required");
                let name = Spanned::new(key.span(), "default".into());
                declaration.remove("default");
                declaration.insert(name, value);
            }
            None => {
                parent.remove(&key);
                parent.insert(key, value);
            }
        }
    }
}

/// Moves steps that say `before` or `after` to where they want to be.
fn place(document: &mut Table<'_>, faults: &mut Vec<Fault>) {
    for kind in ["step", "test"] {
        let Some(DeValue::Array(steps)) = document.get_mut(kind).map(Spanned::get_mut) else {
            continue;
        };
        let all = std::mem::replace(steps, DeArray::new())
            .into_iter()
            .collect();
        *steps = list(placed(all, faults));
    }
}

fn placed<'t>(steps: Vec<Value<'t>>, faults: &mut Vec<Fault>) -> Vec<Value<'t>> {
    let wants = |step: &Value<'_>| {
        text_of(step, "before")
            .map(|name| (name.to_owned(), 0))
            .or_else(|| text_of(step, "after").map(|name| (name.to_owned(), 1)))
    };
    let (moving, mut rest): (Vec<Value<'_>>, Vec<Value<'_>>) =
        steps.into_iter().partition(|step| wants(step).is_some());
    // Those that wait for another one that moves wait until that has its place.
    let mut waiting = moving;
    loop {
        let before = waiting.len();
        let mut later = vec![];
        // The last one of several that go after the same step would come first.
        let mut moved_after: Vec<(String, usize)> = vec![];
        for step in waiting {
            let Some((name, offset)) = wants(&step) else {
                continue;
            };
            let at = rest
                .iter()
                .position(|other| text_of(other, "name") == Some(&name));
            let Some(at) = at else {
                later.push(step);
                continue;
            };
            let already = moved_after.iter_mut().find(|(other, _)| *other == name);
            let skip = match (offset, already) {
                (0, _) => 0,
                (_, Some((_, count))) => {
                    *count += 1;
                    *count - 1
                }
                (_, None) => {
                    moved_after.push((name, 1));
                    0
                }
            };
            rest.insert(at + offset + skip, step);
        }
        waiting = later;
        if waiting.is_empty() || waiting.len() == before {
            break;
        }
    }
    let names: Vec<&str> = rest
        .iter()
        .filter_map(|step| text_of(step, "name"))
        .collect();
    for step in &waiting {
        if let Some((name, _)) = wants(step) {
            let fault = Fault::new(step.span(), format!("no step is named `{name}`"));
            faults.push(fault.hint(suggest(&name, names.iter().copied())));
        }
    }
    rest
}
