//! TOML → [`Recipe`]: as written, with spans. Everything that is wrong is reported at once.

pub mod bundle;
mod check;
mod data;
pub(crate) mod decode;
pub(crate) mod document;
mod extends;
mod files;
mod format;
mod matrix;
pub mod schema;
mod spanned;
mod steps;
mod template;
mod types;
mod value;
pub mod vars;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::error::{Context, Error, Fault, Faults, Kind, Result, Sources};
pub use crate::text::suggest;
pub use data::{Document, NoWeb, Web};
use document::{Table, Texts, Value};
pub use files::{Content, Entry, EntryKind, Tree};
pub use format::format;
pub use spanned::Spanned;
pub use steps::Loaded;
pub use template::Scope;
pub use types::*;
pub use value::{Size, Timeout};
pub use vars::{Overrides, Vars};

/// A recipe, read and valid, with the files that it names.
#[derive(Debug)]
pub struct Recipe {
    /// Its text, and those of the recipes and bundles that it is made from.
    pub sources: Sources,
    /// The folder of the recipe itself.
    pub folder: PathBuf,
    /// What its variables are.
    pub vars: Vars,
    /// What its templates see.
    pub scope: Scope,
    /// The documents that it and its bundles looked things up in.
    pub documents: Vec<Document>,
    pub image: Image,
    pub secrets: BTreeMap<String, Spanned<Secret>>,
    pub base: Base,
    pub machine: Machine,
    pub cloud_init: CloudInit,
    pub ssh: Ssh,
    pub steps: Vec<Loaded>,
    pub seal: Seal,
    pub tests: Vec<Loaded>,
    pub output: Output,
    pub signing: Signing,
    pub target: Targets,
    /// The files that `[cloud-init]` names.
    pub texts: files::Texts,
    /// The names of steps and tests whose condition is false.
    pub left_out: Vec<String>,
}

/// Reads and checks a recipe: one for each image of its matrix, or just one.
pub async fn load(path: &Path, overrides: &Overrides, web: &impl Web) -> Result<Vec<Recipe>> {
    let text = std::fs::read_to_string(path)
        .doing(|| format!("reading the recipe {}", path.display()))
        .map_err(|error| error.kind(Kind::Usage))?;
    let folder = std::path::absolute(path)
        .doing(|| format!("resolving {}", path.display()))?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    let name = path.display().to_string();
    parse(&name, &text, &folder, overrides, web).await
}

/// Checks the text of a recipe; `folder` is where its relative paths start.
pub async fn parse(
    name: &str,
    text: &str,
    folder: &Path,
    overrides: &Overrides,
    web: &impl Web,
) -> Result<Vec<Recipe>> {
    let mut sources = Sources::default();
    let mut faults = vec![];
    let texts = Texts::new();
    let document = extends::read(name, text.into(), folder, &texts, &mut sources, &mut faults);
    let recipes = match document {
        None => None,
        Some(document) => {
            let place = (folder, &texts);
            read(document, place, overrides, web, &mut sources, &mut faults).await
        }
    };
    match recipes {
        Some(recipes) if faults.is_empty() => Ok(recipes),
        // Without a fault there is a recipe.
        _ => {
            faults.sort_by_key(|fault| fault.span.start);
            faults.dedup();
            Err(Error::invalid(Faults {
                sources,
                list: faults,
            }))
        }
    }
}

async fn read(
    mut document: Table<'_>,
    place: (&Path, &Texts),
    overrides: &Overrides,
    web: &impl Web,
    sources: &mut Sources,
    faults: &mut Vec<Fault>,
) -> Option<Vec<Recipe>> {
    refuse_unknown(&document, faults);
    let at = document.get("vars").map_or(0..0, toml::Spanned::span);
    let before = faults.len();
    let variables = vars::declared(document.remove("vars"), faults);
    let builds = matrix::combinations(document.remove("matrix"), faults);
    if faults.len() > before {
        // Every template that uses what could not be read would be a fault too.
        return None;
    }
    let mut recipes = vec![];
    // What is wrong with one image is mostly wrong with all, so the first that has faults ends this.
    for fixed in builds {
        let before = faults.len();
        let values = vars::resolve(&variables, overrides, &fixed, &at, faults);
        if variables.keys().any(|name| !values.contains_key(name)) {
            return None;
        }
        let document = document.clone();
        // What another image of the matrix has read is none of this one's texts.
        let mut own = sources.clone();
        let recipe = one(document, values, place, web, &mut own, faults).await;
        if faults.len() > before || recipe.is_none() {
            *sources = own;
            return None;
        }
        recipes.extend(recipe.map(|recipe| Recipe {
            sources: own,
            ..recipe
        }));
    }
    distinct(&recipes, faults);
    Some(recipes)
}

/// Reads the recipe of one image.
async fn one(
    document: Table<'_>,
    vars: Vars,
    (folder, texts): (&Path, &Texts),
    web: &impl Web,
    sources: &mut Sources,
    faults: &mut Vec<Fault>,
) -> Option<Recipe> {
    let mut tables = Tables(document);
    let for_machines = tables.places(FOR_MACHINES);
    let scope = Scope::new(&vars, BTreeMap::new());
    let before = faults.len();
    let data = tables.take("data");
    let (data, documents) = data::resolve(data, "", &scope, web, sources, faults).await;
    if faults.len() > before {
        return None;
    }
    let scope = Scope::new(&vars, data);
    let steps = document::take_tables(&mut tables.0, "step", faults);
    let tests = document::take_tables(&mut tables.0, "test", faults);
    for (_, value) in tables.0.iter_mut() {
        scope.render(value, sources, faults);
    }

    let image = tables.required::<Image>("image", "[image] with `name = \"…\"`", faults);
    let base = tables.required::<Base>("source", "[source]", faults);
    let machine = tables.optional::<Machine>("machine", faults);
    let cloud_init = tables.optional::<CloudInit>("cloud-init", faults);
    let ssh = tables.optional("ssh", faults);
    let seal = tables.optional("seal", faults);
    let output = tables.optional("output", faults);
    let signing = tables.optional("signing", faults);
    let target = tables.optional::<Targets>("target", faults);
    let secrets = tables.optional::<BTreeMap<_, _>>("secrets", faults);

    let mut reader = steps::Reader::new(web, folder, texts, sources, faults);
    let steps = match steps {
        Some(steps) => reader.steps(steps, &scope).await,
        None => None,
    };
    let tests = match tests {
        Some(tests) => reader.steps(tests, &scope).await,
        None => None,
    };
    let (looked_up, left_out) = (reader.documents, reader.left_out);

    // What could be decoded is checked, whatever is wrong elsewhere: a user wants to see all faults at once.
    check::each(&image, check::image, faults);
    check::each(&base, check::base, faults);
    if base.as_ref().is_some_and(|base| base.import) {
        check::imported(&for_machines, faults);
    }
    check::each(&machine, check::machine, faults);
    check::each(&ssh, check::ssh, faults);
    check::each(&seal, check::seal, faults);
    check::each(&output, check::output, faults);
    check::each(&signing, check::signing, faults);
    check::each(&secrets, check::secrets, faults);
    if let Some(target) = &target {
        let beside = check::target::Beside {
            image: image.as_ref(),
            machine: machine.as_ref(),
        };
        check::target::proxmox(&target.proxmox, &beside, faults);
    }
    for steps in [&steps, &tests].into_iter().flatten() {
        check::step::list(sources, secrets.as_ref(), steps, faults);
    }
    for test in tests.iter().flatten() {
        check::step::test(test, faults);
    }
    let texts = files::texts(cloud_init.as_ref(), sources, faults);
    Some(Recipe {
        sources: Sources::default(),
        folder: folder.to_owned(),
        vars,
        scope,
        documents: documents.into_iter().chain(looked_up).collect(),
        image: image?,
        base: base?,
        machine: machine?,
        cloud_init: cloud_init?,
        ssh: ssh?,
        seal: seal?,
        output: output?,
        signing: signing?,
        target: target?,
        secrets: secrets?,
        steps: steps?,
        tests: tests?,
        texts,
        left_out,
    })
}

/// The images of a matrix need names of their own.
fn distinct(recipes: &[Recipe], faults: &mut Vec<Fault>) {
    for (index, recipe) in recipes.iter().enumerate() {
        let name = &recipe.image.name;
        let same = |other: &&Recipe| other.image.name.get_ref() == name.get_ref();
        if recipes[..index].iter().any(|other| same(&other)) {
            let message = format!(
                "several images of the matrix are called `{}`",
                name.get_ref()
            );
            faults.push(Fault::new(name.span(), message).hint(
                "put the matrix's variables into it, such as name = \"x-{{ version | slug }}\"",
            ));
            return;
        }
    }
}

/// What errors call a file beside one that they call `name`.
fn beside(name: &str, file: &str) -> String {
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    folder.join(file).display().to_string()
}

/// A path as the text that it stands in means it: relative to that text's folder. Paths in the bundles of the binary
/// come from the recipe, and start at its folder.
pub fn resolved(sources: &Sources, path: &Spanned<String>) -> PathBuf {
    let source = sources.locate(&path.span()).map(|(source, _)| source);
    let folder = source.and_then(|source| source.folder.as_deref());
    let first = || {
        sources
            .iter()
            .next()
            .and_then(|first| first.folder.as_deref())
    };
    match folder.or_else(first) {
        Some(folder) => folder.join(path.get_ref()),
        None => PathBuf::from(path.get_ref()),
    }
}

/// The tables of a document, each decoded by itself so that a fault in one does not hide those in another.
struct Tables<'t>(Table<'t>);

const TABLES: &[&str] = &[
    "extends",
    "matrix",
    "image",
    "vars",
    "data",
    "secrets",
    "source",
    "machine",
    "cloud-init",
    "ssh",
    "step",
    "seal",
    "test",
    "output",
    "signing",
    "target",
];

/// Those that mean nothing where no machine is booted.
const FOR_MACHINES: &[&str] = &[
    "secrets",
    "machine",
    "cloud-init",
    "ssh",
    "step",
    "seal",
    "test",
];

fn refuse_unknown(document: &Table<'_>, faults: &mut Vec<Fault>) {
    for key in document.keys() {
        let name = key.get_ref();
        if !TABLES.contains(&name.as_ref()) {
            let fault = Fault::new(key.span(), format!("unknown table or key `{name}`"));
            faults.push(fault.hint(suggest(name, TABLES.iter().copied())));
        }
    }
}

impl<'t> Tables<'t> {
    fn take(&mut self, name: &str) -> Option<Value<'t>> {
        self.0.remove(name)
    }

    /// Where those of these tables are that the recipe has.
    fn places(&self, names: &[&str]) -> Vec<(String, Range<usize>)> {
        let keys = self.0.keys();
        let wanted = keys.filter(|key| names.contains(&key.get_ref().as_ref()));
        wanted
            .map(|key| (key.get_ref().to_string(), key.span()))
            .collect()
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
        let empty = || toml::Spanned::new(0..0, DeValue::Table(DeTable::new()));
        let value = self.take(name).unwrap_or_else(empty);
        decode::decode(value, faults)
    }
}

/// The line of a byte offset, counted from 1.
pub fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.get(..span.start).unwrap_or(text);
    1 + before.matches('\n').count()
}
