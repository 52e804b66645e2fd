//! `imgbuild validate`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Vars, several};
use crate::error::Result;
use crate::recipe;
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Recipes to check
    #[arg(required = true)]
    recipes: Vec<PathBuf>,
    #[command(flatten)]
    vars: Vars,
}

/// Checks every recipe, also after one is found wrong.
pub fn run(arguments: &Arguments, screen: Screen) -> Result<()> {
    let overrides = arguments.vars.overrides();
    let mut errors = vec![];
    for path in &arguments.recipes {
        match recipe::load(path, &overrides) {
            Ok(_) => screen.result(
                &format!("{}: valid\n", path.display()),
                &json!({"event": "result", "file": path, "valid": true}),
            ),
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
