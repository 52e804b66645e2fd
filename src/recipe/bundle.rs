//! Bundles: steps and data with parameters, shipped inside the binary or kept beside the recipe.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use toml::de::DeTable;

use super::decode;
pub use super::document::Texts;
use super::document::{self, Table, Value, take_tables};
use super::vars::{self, Variables};
use crate::error::{Fault, Sources};
use crate::text::suggest;

/// The folder beside a recipe that has the user's own bundles.
const FOLDER: &str = "bundles";

/// What a bundle says of itself.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct About {
    /// What it does.
    #[schemars(example = &"Puts a text where everybody sees it who logs in")]
    pub description: String,
    /// What its tests did not reach: a vendor's server that a stand-in took the place of, for instance.
    #[serde(default)]
    #[schemars(example = &"the download from the vendor's server")]
    pub untested: String,
}

/// A bundle that was read.
#[derive(Debug)]
pub struct Bundle<'t> {
    pub about: About,
    pub parameters: Variables,
    /// `[data]`, as it is written.
    pub data: Option<Value<'t>>,
    /// `[[step]]`, as it is written.
    pub steps: Vec<Value<'t>>,
}

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        /// The bundles inside the binary: name and text.
        pub const SHIPPED: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("../../bundles/", $name, ".toml")))),*
        ];
    };
}

shipped!(
    "agentapi",
    "ai-agents",
    "apt-mirror",
    "ca-certificates",
    "code-server",
    "coder-agent",
    "docker",
    "git-clone",
    "git-config",
    "go",
    "go-release",
    "nodejs",
    "npm-package",
    "npm-program",
    "npm-registry",
    "qemu-guest-agent",
    "route-bypass",
    "users",
    "vscode-server",
    "vscode-web",
);

/// Where the text of a bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Shipped(&'static str),
    File(PathBuf),
}

impl Place {
    /// The text of the bundle.
    pub fn text(&self) -> std::io::Result<String> {
        match self {
            Place::Shipped(text) => Ok((*text).to_owned()),
            Place::File(path) => std::fs::read_to_string(path),
        }
    }
}

/// Looks for a bundle: the user's own beside the recipe first, then the shipped ones. Returns what errors call it, too;
/// `shown` is what they call the recipe.
pub fn find(name: &str, folder: &Path, shown: &str) -> Option<(String, Place)> {
    // A name is a name, not a path to somewhere else.
    let plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let file = format!("{FOLDER}/{name}.toml");
    let own = folder.join(&file);
    if plain && own.is_file() {
        return Some((super::beside(shown, &file), Place::File(own)));
    }
    let shipped = SHIPPED.iter().find(|(shipped, _)| *shipped == name);
    shipped.map(|(name, text)| (format!("bundle {name}"), Place::Shipped(text)))
}

/// The bundles that there are: the user's own and the shipped ones, by name.
pub fn all(folder: &Path) -> Vec<(String, Place)> {
    let own = std::fs::read_dir(folder.join(FOLDER))
        .into_iter()
        .flatten()
        .flatten();
    let own = own.filter_map(|entry| {
        let path = entry.path();
        let name = path.file_stem()?.to_str()?.to_owned();
        (path.extension()? == "toml").then_some((name, Place::File(path)))
    });
    let mut all: Vec<(String, Place)> = own.collect();
    for (name, text) in SHIPPED {
        if !all.iter().any(|(own, _)| own == name) {
            all.push(((*name).to_owned(), Place::Shipped(text)));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// "did you mean", for a bundle that there is not.
pub fn suggestion(name: &str, folder: &Path) -> String {
    let all = all(folder);
    suggest(name, all.iter().map(|(name, _)| name.as_str()))
}

/// Reads a bundle's text; what is wrong with it becomes faults.
pub fn read<'t>(
    called: &str,
    place: &Place,
    texts: &'t Texts,
    sources: &mut Sources,
    faults: &mut Vec<Fault>,
) -> Option<Bundle<'t>> {
    let text = match place.text() {
        Ok(text) => text,
        Err(error) => {
            faults.push(Fault::new(0..0, format!("cannot read {called}: {error}")));
            return None;
        }
    };
    let folder = match place {
        Place::Shipped(_) => None,
        Place::File(path) => path.parent(),
    };
    let mut table = document::parse(called, text, folder, texts, sources, faults)?;
    known(&table, faults);
    let about = table.remove("bundle");
    let about = about.and_then(|about| decode::decode::<About>(about, faults));
    let parameters = vars::declared(table.remove("params"), faults);
    let data = table.remove("data");
    let steps = take_tables(&mut table, "step", faults)?;
    Some(Bundle {
        about: about.unwrap_or_default(),
        parameters,
        data,
        steps,
    })
}

/// The tables of a bundle.
pub(super) const TABLES: &[&str] = &["bundle", "params", "data", "step"];

fn known(table: &Table<'_>, faults: &mut Vec<Fault>) {
    let keys = DeTable::keys(table);
    for key in keys.filter(|key| !TABLES.contains(&key.get_ref().as_ref())) {
        let name = key.get_ref();
        let fault = Fault::new(key.span(), format!("unknown table or key `{name}`"));
        faults.push(fault.hint(suggest(name, TABLES.iter().copied())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_bundle_can_be_read_and_says_what_it_and_its_parameters_are_for() {
        for (name, text) in SHIPPED {
            let (mut sources, mut faults) = (Sources::default(), vec![]);
            let texts = Texts::new();
            let place = Place::Shipped(text);
            let bundle = read(name, &place, &texts, &mut sources, &mut faults);
            assert_eq!(faults, [], "{name}");
            let bundle = bundle.unwrap();
            assert!(!bundle.about.description.is_empty(), "{name}");
            for (parameter, variable) in &bundle.parameters {
                let description = &variable.declaration.description;
                assert!(!description.is_empty(), "{name}: {parameter}");
            }
            assert!(!bundle.steps.is_empty(), "{name}");
        }
    }

    #[test]
    fn every_file_of_the_bundles_folder_is_shipped() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/bundles")).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let mut names: Vec<String> = files
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        let shipped: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, shipped);
    }
}
