//! The command line: one file for each command.

mod bundle;
mod cache;
mod console;
mod doctor;
mod fmt;
mod gc;
mod history;
mod image;
mod init;
mod key;
mod plan;
mod provenance;
mod recipes;
mod registry;
mod run;
mod schema;
mod secrets;
mod status;
mod stdin;
mod target;
mod template;
mod validate;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::error::{Error, Kind, Result};
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
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or invalid recipe, 3 a [[test]] failed, 4 plan: a run would do work, 5 conflict with \
another build or something needs it, 6 a digest or signature does not hold or a version was revoked, 130 SIGINT, 143 SIGTERM."
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
    format: Output,
    /// Log what is run (-v), and everything (-vv)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What output looks like. An option has one meaning for all commands, so the formats of keys are among these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Progress bars on a terminal, timestamped lines elsewhere
    #[default]
    Human,
    /// One JSON object a line, on stdout
    Json,
    /// Of `key show`: the public key as OpenSSH has it
    #[value(hide = true)]
    Openssh,
    /// Of `key show`: the public key as OpenSSL has it
    #[value(hide = true)]
    Pem,
}

impl Global {
    /// For whom output is.
    pub fn format(&self) -> Format {
        match self.format {
            Output::Json => Format::Json,
            Output::Human | Output::Openssh | Output::Pem => Format::Human,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the images of one or more recipes
    Run(run::Arguments),
    /// Print what a build would do, resolved, and do none of it
    Plan(plan::Arguments),
    /// List and show bundles
    Bundle(bundle::Arguments),
    /// Evaluate expressions with a recipe's variables and data
    Console(console::Arguments),
    /// Write a recipe to start from
    Init(init::Arguments),
    /// Check recipes and report everything that is wrong with them
    Validate(validate::Arguments),
    /// Format recipes in place
    Fmt(fmt::Arguments),
    /// Print the JSON Schema of recipes, for editors
    Schema(schema::Arguments),
    /// Work with the cache: base images, fetched files, documents; with base images on a target
    Image(image::Arguments),
    /// Work with layers: what builds take over from earlier ones
    Cache(cache::Arguments),
    /// Show what an image was made from, and check whether that can be believed
    Provenance(provenance::Arguments),
    /// Work with the keys that sign and those that are trusted
    Key(key::Arguments),
    /// Work with versions of images, and the channels that point to them
    Template(template::Arguments),
    /// Tell what imgbuild has on a target
    Status(status::Arguments),
    /// Tell what was done to versions and channels
    History(history::Arguments),
    /// Repair the registry of versions
    Registry(registry::Arguments),
    /// Remove what builds that died have left behind
    Gc(gc::Arguments),
    /// Tell what is missing on this machine, or on a target, and how to get it
    Doctor(doctor::Arguments),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the manual page, or write all pages into a folder
    Man {
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
    },
}

impl Cli {
    /// Does what the command line says. The error that is returned is the one that decides the exit code.
    pub async fn run(self, interrupt: &Interrupt) -> Result<()> {
        let screen = Screen {
            format: self.global.format(),
        };
        self.refuse_key_format()?;
        match self.command {
            Command::Run(arguments) => run::run(arguments, &self.global, screen, interrupt).await,
            Command::Plan(arguments) => {
                plan::run(&arguments, &self.global, screen, interrupt).await
            }
            Command::Bundle(arguments) => bundle::run(&arguments, screen),
            Command::Console(arguments) => {
                console::run(&arguments, &self.global, screen, interrupt).await
            }
            Command::Validate(arguments) => {
                validate::run(&arguments, &self.global, screen, interrupt).await
            }
            Command::Init(arguments) => init::run(arguments, screen, interrupt).await,
            Command::Fmt(arguments) => fmt::run(&arguments, screen),
            Command::Schema(arguments) => {
                schema::run(&arguments, screen);
                Ok(())
            }
            Command::Image(arguments) => {
                image::run(arguments, &self.global, screen, interrupt).await
            }
            Command::Cache(arguments) => cache::run(&arguments, screen),
            Command::Provenance(arguments) => {
                provenance::run(arguments, &self.global, screen, interrupt).await
            }
            Command::Key(arguments) => {
                interrupt
                    .or(key::run(arguments, &self.global, screen))
                    .await
            }
            Command::Template(arguments) => template::run(&arguments, screen, interrupt).await,
            Command::Status(arguments) => status::run(&arguments, screen, interrupt).await,
            Command::History(arguments) => history::run(&arguments, screen),
            Command::Registry(arguments) => registry::run(&arguments, screen),
            Command::Gc(arguments) => gc::run(&arguments, screen, interrupt).await,
            Command::Doctor(arguments) => {
                doctor::run(&arguments, &self.global, screen, interrupt).await
            }
            Command::Completions { shell } => completions(shell),
            Command::Man { folder } => man(folder),
        }
    }
}

impl Cli {
    fn refuse_key_format(&self) -> Result<()> {
        let is_of_keys = matches!(self.global.format, Output::Openssh | Output::Pem);
        let shows_key = matches!(
            &self.command,
            Command::Key(key::Arguments {
                action: key::Action::Show
            })
        );
        match is_of_keys && !shows_key {
            true => Err(Error::new("choosing the format of output")
                .kind(Kind::Usage)
                .cause("`openssh` and `pem` are formats of `imgbuild key show`")
                .hint("use `human` or `json`")),
            false => Ok(()),
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
