//! `imgbuild console`.

use std::io::BufRead;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Global;
use super::recipes::{Online, Selection};
use super::stdin::on_stdin;
use crate::error::{Context, Error, Kind, Result};
use crate::recipe::Recipe;
use crate::run::Interrupt;
use crate::store::Dirs;
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    /// An expression, such as 'version ~ "-x"'; without one, each line of stdin is one
    expression: Option<String>,
    /// The recipe whose variables and data can be used
    #[arg(long, value_name = "FILE")]
    recipe: PathBuf,
    #[command(flatten)]
    selection: Selection,
}

/// Evaluates expressions as a recipe's templates would.
pub async fn run(
    arguments: &Arguments,
    global: &Global,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    let dirs = Dirs::from_env()?;
    let online = Online::new("console", &dirs, &arguments.selection, global);
    let load = arguments.selection.load(&arguments.recipe, &online);
    let recipes = interrupt.or(load).await?;
    let Some(recipe) = recipes.first() else {
        return Err(Error::new("choosing an image")
            .kind(Kind::Usage)
            .cause("none is left after --only and --except"));
    };
    if let Some(expression) = &arguments.expression {
        return evaluate(recipe, expression, screen);
    }
    interrupt.or(converse(recipe, screen)).await
}

/// Evaluates each line of stdin. One that is wrong does not end the conversation, but makes it fail.
async fn converse(recipe: &Recipe, screen: Screen) -> Result<()> {
    let mut failed = Ok(());
    let next = || on_stdin(|stdin| stdin.lines().next().transpose());
    while let Some(line) = next().await.doing(|| "reading an expression")? {
        if line.trim().is_empty() {
            continue;
        }
        if let Err(error) = evaluate(recipe, &line, screen) {
            screen.error(None, &error);
            failed = Err(error.told());
        }
    }
    failed
}

fn evaluate(recipe: &Recipe, expression: &str, screen: Screen) -> Result<()> {
    let value = recipe.scope.evaluate(expression).map_err(|wrong| {
        Error::new(format!("evaluating `{expression}`"))
            .kind(Kind::Usage)
            .cause(wrong.message)
            .hint(wrong.hint)
    })?;
    let text = value.to_string();
    screen.result(
        &format!("{text}\n"),
        &json!({"event": "result", "expression": expression, "value": text}),
    );
    Ok(())
}
