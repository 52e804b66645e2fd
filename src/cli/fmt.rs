//! `imgbuild fmt`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::several;
use crate::error::{Context, Error, Kind, Result};
use crate::recipe;
use crate::store::write_atomically;
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Recipes and bundles to format
    #[arg(required = true)]
    recipes: Vec<PathBuf>,
    /// Change nothing; name the files that are not formatted, and exit with 1 if there are any
    #[arg(long)]
    check: bool,
}

/// Formats every file, also after one that cannot be.
pub fn run(arguments: &Arguments, screen: Screen) -> Result<()> {
    let mut errors = vec![];
    let mut different = 0;
    for path in &arguments.recipes {
        match one(path, arguments.check) {
            Ok(changed) => {
                let text = match (changed, arguments.check) {
                    (false, _) => String::new(),
                    (true, true) => format!("{}: not formatted\n", path.display()),
                    (true, false) => format!("{}: formatted\n", path.display()),
                };
                different += usize::from(changed);
                let value = json!({"event": "result", "file": path, "changed": changed});
                screen.result(&text, &value);
            }
            Err(error) => {
                screen.error(None, &error);
                errors.push(error);
            }
        }
    }
    let count = arguments.recipes.len();
    if !errors.is_empty() {
        return Err(several(&format!("{} of {count} recipes", errors.len()), &errors).told());
    }
    match arguments.check && different > 0 {
        true => Err(Error::new("checking the format")
            .cause(format!("{different} of {count} files are not formatted"))
            .hint("imgbuild fmt without --check formats them")),
        false => Ok(()),
    }
}

/// Whether the file is not as it should be, which it is afterwards unless this is a check only.
fn one(path: &Path, check: bool) -> Result<bool> {
    let usage = |error: Error| error.kind(Kind::Usage);
    let doing = || format!("reading the recipe {}", path.display());
    let text = std::fs::read_to_string(path).doing(doing).map_err(usage)?;
    let formatted = recipe::format(&path.display().to_string(), &text)?;
    let changed = formatted != text;
    if changed && !check {
        let doing = || format!("writing {}", path.display());
        // A symlink stays one, and the file keeps its mode.
        let target = path.canonicalize().doing(doing)?;
        let mode = target.metadata().doing(doing)?.permissions();
        write_atomically(&target, formatted.as_bytes())?;
        std::fs::set_permissions(&target, mode).doing(doing)?;
    }
    Ok(changed)
}
