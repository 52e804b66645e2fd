//! `imgbuild bundle`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::{Context, Error, Faults, Kind, Result, Sources};
use crate::recipe::bundle::{self, About, Place};
use crate::recipe::vars::Variables;
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
    /// The folder of recipes whose `bundles` folder has bundles of your own
    #[arg(long, global = true, value_name = "FOLDER", default_value = ".")]
    recipes: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the bundles that recipes can use
    List,
    /// Show what a bundle is for, its parameters and its text
    Show { name: String },
}

/// What is told of a bundle.
struct Told {
    about: About,
    parameters: Variables,
}

pub fn run(arguments: &Arguments, screen: Screen) -> Result<()> {
    match &arguments.action {
        Action::List => list(&arguments.recipes, screen),
        Action::Show { name } => show(name, &arguments.recipes, screen),
    }
}

fn list(folder: &Path, screen: Screen) -> Result<()> {
    let mut text = String::new();
    let mut values = vec![];
    for (name, place) in bundle::all(folder) {
        let told = read(&name, &place)?;
        let own = matches!(place, Place::File(_));
        let mark = if own { " (your own)" } else { "" };
        text.push_str(&format!("{name:<18} {}{mark}\n", told.about.description));
        values.push(json!({"name": name, "description": told.about.description, "own": own}));
    }
    screen.result(&text, &json!({"event": "result", "bundles": values}));
    Ok(())
}

fn show(name: &str, folder: &Path, screen: Screen) -> Result<()> {
    let shown = folder.join("recipe").display().to_string();
    let Some((called, place)) = bundle::find(name, folder, &shown) else {
        return Err(Error::new(format!("looking for the bundle `{name}`"))
            .kind(Kind::Usage)
            .cause("there is none")
            .hint(bundle::suggestion(name, folder)));
    };
    let told = read(&called, &place)?;
    let source = place.text().doing(|| format!("reading {called}"))?;
    let mut text = format!("{name}: {}\n", told.about.description);
    if !told.about.untested.is_empty() {
        text.push_str(&format!("not tested: {}\n", told.about.untested));
    }
    text.push_str("\nparameters:\n");
    let mut parameters = vec![];
    for (name, parameter) in &told.parameters {
        let declaration = &parameter.declaration;
        let kind = parameter.kind.name();
        let default = match &declaration.default {
            Some(default) => format!("{kind}, {default} if not given"),
            None => format!("{kind}, required"),
        };
        text.push_str(&format!("  {name} ({default})\n"));
        if !declaration.description.is_empty() {
            text.push_str(&format!("      {}\n", declaration.description));
        }
        parameters.push(json!({
            "name": name, "type": kind, "default": declaration.default,
            "description": declaration.description, "required": declaration.required,
        }));
    }
    if parameters.is_empty() {
        text.push_str("  none\n");
    }
    text.push_str(&format!("\n{source}"));
    let value = json!({
        "event": "result", "name": name, "description": told.about.description,
        "untested": told.about.untested, "parameters": parameters, "text": source,
    });
    screen.result(&text, &value);
    Ok(())
}

fn read(called: &str, place: &Place) -> Result<Told> {
    let (mut sources, mut faults) = (Sources::default(), vec![]);
    let texts = bundle::Texts::new();
    let bundle = bundle::read(called, place, &texts, &mut sources, &mut faults);
    let told = bundle.map(|bundle| Told {
        about: bundle.about,
        parameters: bundle.parameters,
    });
    // Without a fault there is a bundle.
    told.filter(|_| faults.is_empty()).ok_or_else(|| {
        Error::invalid(Faults {
            sources,
            list: faults,
        })
    })
}
