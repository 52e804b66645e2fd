//! The command line: one file for each command.

mod doctor;
mod gc;
mod image;
mod run;
mod secrets;
mod validate;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::error::{Error, Kind, Result};
use crate::recipe::Overrides;
use crate::run::Interrupt;
use crate::ui::{Format, Screen};

/// Turns an upstream cloud image into a sealed, tested VM template, from one recipe.
#[derive(Debug, Parser)]
#[command(
    name = "imgbuild",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or invalid recipe, 3 a [[test]] failed, 5 conflict with \
another build, 6 a digest or signature does not hold, 130 SIGINT, 143 SIGTERM."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// For whom output is
    #[arg(long, global = true, value_enum, default_value_t)]
    pub format: Format,
    /// Log what is run (-v), and everything (-vv)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the images of one or more recipes
    Run(run::Arguments),
    /// Check recipes and report everything that is wrong with them
    Validate(validate::Arguments),
    /// Work with the cache of base images
    Image(image::Arguments),
    /// Remove what builds that died have left behind
    Gc(gc::Arguments),
    /// Tell what is missing on this machine and how to get it
    Doctor,
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, or write all pages into a folder
    Man {
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
}

/// Values for a recipe's variables.
#[derive(Debug, Clone, Args)]
struct Vars {
    /// Set a variable of the recipe; wins over IMGBUILD_VAR_NAME
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = name_value)]
    vars: Vec<(String, String)>,
}

impl Vars {
    fn overrides(&self) -> Overrides {
        Overrides::new(self.vars.iter().cloned().collect::<BTreeMap<_, _>>())
    }
}

fn name_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Cli {
    /// Does what the command line says. The error that is returned is the one that decides the exit code.
    pub async fn run(self, interrupt: &Interrupt) -> Result<()> {
        let screen = Screen {
            format: self.global.format,
        };
        match self.command {
            Command::Run(arguments) => run::run(arguments, &self.global, screen, interrupt).await,
            Command::Validate(arguments) => validate::run(&arguments, screen),
            Command::Image(arguments) => {
                image::run(arguments, &self.global, screen, interrupt).await
            }
            Command::Gc(arguments) => gc::run(&arguments, screen).await,
            Command::Doctor => doctor::run(screen).await,
            Command::Completions { shell } => completions(shell),
            Command::Man { folder } => man(folder),
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    clap_complete::generate(
        shell,
        &mut Cli::command(),
        "imgbuild",
        &mut std::io::stdout(),
    );
    Ok(())
}

fn man(folder: Option<PathBuf>) -> Result<()> {
    let failed = |error: std::io::Error| Error::new("writing the manual").cause(error);
    match folder {
        Some(folder) => clap_mangen::generate_to(Cli::command(), folder).map_err(failed),
        None => clap_mangen::Man::new(Cli::command())
            .render(&mut std::io::stdout())
            .map_err(failed),
    }
}

/// An error about several things that have been told already, of the gravest kind among them.
fn several(what: &str, errors: &[Error]) -> Error {
    let gravest = |kind: &Kind| kind.exit_code();
    let kind = errors.iter().map(Error::get_kind).max_by_key(gravest);
    Error::new(what).kind(kind.unwrap_or(Kind::Operation))
}
