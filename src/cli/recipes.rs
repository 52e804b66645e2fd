//! Which recipes a command is about, and what they are made with.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Global;
use crate::error::{Context as _, Error, Kind, Result};
use crate::plan::{Facts, Plan};
use crate::recipe::{self, Overrides, Recipe, Web};
use crate::run::Events;
use crate::source::{self, Http};
use crate::store::Dirs;
use crate::ui;

/// Values for a recipe's variables, which of its images are meant, and whether the network may be asked.
#[derive(Debug, Clone, Args)]
pub struct Selection {
    /// Use only what was fetched or seen before; a miss is an error
    #[arg(long)]
    offline: bool,
    /// Set a variable of the recipe; wins over IMGBUILD_VAR_NAME
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = name_value)]
    vars: Vec<(String, String)>,
    /// Set variables from a TOML file; a later one wins, and so does --var
    #[arg(long = "var-file", value_name = "FILE")]
    var_files: Vec<PathBuf>,
    /// Only images whose name is this; `*` stands for anything
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// All images but those whose name is this; `*` stands for anything
    #[arg(long, value_name = "PATTERN")]
    except: Vec<String>,
}

fn name_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Selection {
    fn overrides(&self) -> Result<Overrides> {
        let mut files = BTreeMap::new();
        for path in &self.var_files {
            let doing = || format!("reading the variables in {}", path.display());
            let usage = |error: Error| error.kind(Kind::Usage);
            let text = std::fs::read_to_string(path).doing(doing).map_err(usage)?;
            let table: toml::Table = text.parse().doing(doing).map_err(usage)?;
            files.extend(table);
        }
        Ok(Overrides::new(files, self.vars.iter().cloned().collect()))
    }

    fn wants(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        (self.only.is_empty() || any(&self.only)) && !any(&self.except)
    }

    /// Reads a recipe, with only those of its images that are wanted.
    pub async fn load(&self, path: &Path, online: &Online<'_>) -> Result<Vec<Recipe>> {
        let overrides = self.overrides()?;
        let mut recipes = recipe::load(path, &overrides, online).await?;
        recipes.retain(|recipe| self.wants(recipe.image.name.get_ref()));
        Ok(recipes)
    }

    /// Reads the recipe that another one is built on. It need not know all the variables that were set.
    async fn load_parent(&self, path: &Path, online: &Online<'_>) -> Result<Recipe> {
        let mut overrides = self.overrides()?;
        // A variable that only the child knows is no fault of the parent's: what is given on the command line counts
        // here as what is given in the environment does.
        for (name, value) in std::mem::take(&mut overrides.cli) {
            overrides.env.insert(name, value);
        }
        for (name, value) in std::mem::take(&mut overrides.files) {
            let text = match value {
                toml::Value::String(text) => text,
                other => other.to_string(),
            };
            overrides.env.entry(name).or_insert(text);
        }
        let mut recipes = recipe::load(path, &overrides, online).await?;
        match recipes.len() {
            1 => Ok(recipes.remove(0)),
            n => Err(Error::new(format!("building on {}", path.display()))
                .kind(Kind::Usage)
                .cause(format!("it has a matrix, and makes {n} images"))
                .hint("build on a recipe that makes one")),
        }
    }
}

/// Whether `name` is what a pattern with `*` stands for.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(name) = name.strip_prefix(start) else {
        return false;
    };
    let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
    ends.into_iter().any(|at| matches(rest, &name[at..]))
}

/// The network as recipes see it. Nothing is prepared before the first request: most recipes make none.
pub struct Online<'o> {
    pub dirs: &'o Dirs,
    events: Events,
    offline: bool,
    http: OnceCell<Http>,
}

impl<'o> Online<'o> {
    /// The network for a command called `name`, as the user wants it.
    pub fn new(name: &str, dirs: &'o Dirs, selection: &Selection, global: &Global) -> Self {
        let observer = ui::observer(global.format(), global.verbose > 0);
        Online {
            dirs,
            events: Events::new(name, vec![observer]),
            offline: selection.offline,
            http: OnceCell::new(),
        }
    }

    /// What resolving and fetching need.
    pub fn context(&self) -> Result<source::Context<'_>> {
        let http = match self.http.get() {
            Some(http) => http,
            None => {
                let http = Http::new()?;
                self.http.get_or_init(|| http)
            }
        };
        Ok(source::Context {
            dirs: self.dirs,
            events: &self.events,
            http,
            offline: self.offline,
        })
    }
}

impl Web for Online<'_> {
    async fn get(&self, url: &str) -> Result<Vec<u8>> {
        source::document(url, &self.context()?).await
    }
}

/// A build, and the one that must come before it.
#[derive(Debug)]
pub struct Node {
    /// Where its recipe is.
    path: PathBuf,
    pub plan: Plan,
    /// The position of the build that makes this one's base image.
    pub after: Option<usize>,
}

/// What is to be built, each after what it is built on.
#[derive(Debug, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
    /// The target that all of it is built on; none for this machine.
    target: Option<String>,
}

impl Graph {
    /// For builds on this target, or on this machine.
    pub fn on(target: Option<&str>) -> Self {
        Graph {
            nodes: vec![],
            target: target.map(str::to_owned),
        }
    }

    /// Adds the builds of a recipe, and those that they are built on.
    pub async fn add(
        &mut self,
        path: &Path,
        selection: &Selection,
        online: &Online<'_>,
    ) -> Result<()> {
        for recipe in selection.load(path, online).await? {
            let chain = vec![canonical(path)];
            self.add_recipe(&recipe, chain, selection, online).await?;
        }
        Ok(())
    }

    async fn add_recipe(
        &mut self,
        recipe: &Recipe,
        chain: Vec<PathBuf>,
        selection: &Selection,
        online: &Online<'_>,
    ) -> Result<usize> {
        let path = chain.last().cloned().unwrap_or_default();
        let after = match &recipe.base.recipe {
            None => None,
            Some(written) => {
                let base = canonical(&recipe::resolved(&recipe.sources, written));
                if chain.contains(&base) {
                    let names: Vec<String> = chain
                        .iter()
                        .chain([&base])
                        .map(|p| p.display().to_string())
                        .collect();
                    return Err(Error::new(format!("building on {}", written.get_ref()))
                        .kind(Kind::Usage)
                        .cause("these recipes are built on each other in a circle")
                        .detail("the circle", names.join("\n")));
                }
                let parent = selection.load_parent(&base, online).await?;
                let chain = chain.into_iter().chain([base]).collect();
                Some(Box::pin(self.add_recipe(&parent, chain, selection, online)).await?)
            }
        };
        let parent = after.map(|at| self.nodes[at].plan.output.path.clone());
        let plan = Plan::new(
            recipe,
            &Facts::gather(recipe, parent, self.target.as_deref())?,
        );
        // Two recipes on one base, or a base that is named too: it is built once.
        let same = |node: &Node| node.path == path && node.plan.output.path == plan.output.path;
        if let Some(at) = self.nodes.iter().position(same) {
            return Ok(at);
        }
        self.nodes.push(Node { path, plan, after });
        Ok(self.nodes.len() - 1)
    }
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name) in [
            ("a", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c*", "abcd"),
            ("*", ""),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("a*d", "abc"), ("b*", "abc")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
