//! `imgbuild validate`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::recipes::{Online, Selection};
use super::{Global, several};
use crate::error::Result;
use crate::run::Interrupt;
use crate::store::Dirs;
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Recipes to check
    #[arg(required = true)]
    recipes: Vec<PathBuf>,
    #[command(flatten)]
    selection: Selection,
}

/// Checks every recipe, also after one is found wrong.
pub async fn run(
    arguments: &Arguments,
    global: &Global,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    let dirs = Dirs::from_env()?;
    let online = Online::new("validate", &dirs, &arguments.selection, global);
    let mut errors = vec![];
    for path in &arguments.recipes {
        let loaded = interrupt.or(arguments.selection.load(path, &online)).await;
        match loaded {
            Ok(recipes) => {
                let names: Vec<&str> = recipes
                    .iter()
                    .map(|recipe| recipe.image.name.get_ref().as_str())
                    .collect();
                let images = match names.len() {
                    1 => String::new(),
                    n => format!(", {n} images: {}", names.join(", ")),
                };
                screen.result(
                    &format!("{}: valid{images}\n", path.display()),
                    &json!({"event": "result", "file": path, "valid": true, "images": names}),
                );
            }
            Err(error) if interrupt.is_set() => return Err(error),
            Err(error) => {
                screen.error(None, &error);
                errors.push(error);
            }
        }
    }
    match errors.len() {
        0 => Ok(()),
        n => Err(several(
            &format!("{n} of {} recipes", arguments.recipes.len()),
            &errors,
        )
        .told()),
    }
}
