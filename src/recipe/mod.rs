//! TOML → [`Recipe`]: as written, with spans. Everything that is wrong is reported at once.

mod check;
mod decode;
mod files;
mod template;
mod types;
mod value;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::error::{Context, Error, Fault, Faults, Kind, Result, Source};
pub use files::{Entry, EntryKind, Files, Tree};
pub use template::Overrides;
pub use types::*;
pub use value::{Size, Timeout};

/// A recipe, read and valid, with the files that it names.
#[derive(Debug)]
pub struct Recipe {
    /// Where the text came from.
    pub source: Source,
    /// The folder that relative paths in the recipe start from.
    pub folder: PathBuf,
    pub image: Image,
    pub secrets: BTreeMap<String, Spanned<Secret>>,
    pub base: Base,
    pub machine: Machine,
    pub cloud_init: CloudInit,
    pub ssh: Ssh,
    pub steps: Vec<Spanned<Step>>,
    pub seal: Seal,
    pub tests: Vec<Spanned<Step>>,
    pub output: Output,
    pub files: Files,
}

/// Reads and checks a recipe.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Recipe> {
    let text = std::fs::read_to_string(path)
        .doing(|| format!("reading the recipe {}", path.display()))
        .map_err(|error| error.kind(Kind::Usage))?;
    let folder = std::path::absolute(path)
        .doing(|| format!("resolving {}", path.display()))?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    parse(&path.display().to_string(), &text, &folder, overrides)
}

/// Checks the text of a recipe; `folder` is where its relative paths start.
pub fn parse(name: &str, text: &str, folder: &Path, overrides: &Overrides) -> Result<Recipe> {
    let source = Source {
        name: name.into(),
        text: Arc::from(text),
    };
    let mut faults = vec![];
    let recipe = read(&source, folder, overrides, &mut faults);
    match recipe {
        Some(recipe) if faults.is_empty() => Ok(recipe),
        // Without a fault there is a recipe.
        _ => {
            faults.sort_by_key(|fault| fault.span.start);
            faults.dedup();
            Err(Error::invalid(Faults {
                source,
                list: faults,
            }))
        }
    }
}

fn read(
    source: &Source,
    folder: &Path,
    overrides: &Overrides,
    faults: &mut Vec<Fault>,
) -> Option<Recipe> {
    let (document, errors) = DeTable::parse_recoverable(&source.text);
    faults.extend(errors.iter().map(decode::fault));
    if !faults.is_empty() {
        return None;
    }
    let mut tables = Tables::new(document.into_inner());
    tables.refuse_unknown(faults);

    let vars = tables.take("vars");
    template::render(&mut tables.0, vars, overrides, faults);

    let image = tables.required::<Image>("image", "[image] with `name = \"…\"`", faults);
    let base = tables.required::<Base>("source", "[source]", faults);
    let machine = tables.optional("machine", faults);
    let cloud_init = tables.optional::<CloudInit>("cloud-init", faults);
    let ssh = tables.optional("ssh", faults);
    let seal = tables.optional("seal", faults);
    let output = tables.optional("output", faults);
    let secrets = tables.optional::<BTreeMap<_, _>>("secrets", faults);
    let steps = tables.list::<Step>("step", faults);
    let tests = tables.list::<Step>("test", faults);

    // What could be decoded is checked, whatever is wrong elsewhere: a user wants to see all faults at once.
    check::each(&image, check::image, faults);
    check::each(&base, check::base, faults);
    check::each(&machine, check::machine, faults);
    check::each(&ssh, check::ssh, faults);
    check::each(&seal, check::seal, faults);
    check::each(&output, check::output, faults);
    check::each(&secrets, check::secrets, faults);
    for steps in [&steps, &tests].into_iter().flatten() {
        check::steps(source, secrets.as_ref(), steps, faults);
    }
    let all_steps = [&steps, &tests].into_iter().flatten().flatten();
    let files = files::load(folder, all_steps, cloud_init.as_ref(), faults);
    Some(Recipe {
        source: source.clone(),
        folder: folder.to_owned(),
        image: image?,
        base: base?,
        machine: machine?,
        cloud_init: cloud_init?,
        ssh: ssh?,
        seal: seal?,
        output: output?,
        secrets: secrets?,
        steps: steps?,
        tests: tests?,
        files,
    })
}

/// The tables of a document, each decoded by itself so that a fault in one does not hide those in another.
struct Tables<'t>(DeTable<'t>);

const TABLES: &[&str] = &[
    "image",
    "vars",
    "secrets",
    "source",
    "machine",
    "cloud-init",
    "ssh",
    "step",
    "seal",
    "test",
    "output",
];

impl<'t> Tables<'t> {
    fn new(document: DeTable<'t>) -> Self {
        Tables(document)
    }

    fn refuse_unknown(&self, faults: &mut Vec<Fault>) {
        for key in self.0.keys() {
            let name = key.get_ref();
            if !TABLES.contains(&name.as_ref()) {
                let fault = Fault::new(key.span(), format!("unknown table or key `{name}`"));
                faults.push(fault.hint(decode::suggest(name, TABLES.iter().copied())));
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<Spanned<DeValue<'t>>> {
        self.0.remove(name)
    }

    fn required<T: serde::de::DeserializeOwned>(
        &mut self,
        name: &str,
        what: &str,
        faults: &mut Vec<Fault>,
    ) -> Option<T> {
        let Some(value) = self.take(name) else {
            faults.push(Fault::new(0..0, format!("the recipe has no {what}")));
            return None;
        };
        decode::decode(value, faults)
    }

    fn optional<T: serde::de::DeserializeOwned>(
        &mut self,
        name: &str,
        faults: &mut Vec<Fault>,
    ) -> Option<T> {
        let empty = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
        let value = self.take(name).unwrap_or_else(empty);
        decode::decode(value, faults)
    }

    fn list<T: serde::de::DeserializeOwned>(
        &mut self,
        name: &str,
        faults: &mut Vec<Fault>,
    ) -> Option<Vec<Spanned<T>>> {
        let Some(value) = self.take(name) else {
            return Some(vec![]);
        };
        let span = value.span();
        let DeValue::Array(elements) = value.into_inner() else {
            faults.push(
                Fault::new(span, format!("`{name}` must be a list of tables"))
                    .hint(format!("write [[{name}]]")),
            );
            return None;
        };
        let decoded: Vec<Option<_>> = elements
            .into_iter()
            .map(|element| {
                let span = element.span();
                Some(Spanned::new(span, decode::decode(element, faults)?))
            })
            .collect();
        decoded.into_iter().collect()
    }
}

/// The line of a byte offset, counted from 1.
pub fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or(text);
    1 + before.matches('\n').count()
}
