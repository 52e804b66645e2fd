//! `imgbuild run`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use ssh_key::LineEnding;

use super::{Global, Vars, gc, several};
use crate::error::{Context, Error, Kind, Result};
use crate::pipeline::{self, Failure};
use crate::plan::{Facts, Plan};
use crate::proc::quote;
use crate::recipe;
use crate::run::events::Observer;
use crate::run::gc::reap;
use crate::run::{Interrupt, Run};
use crate::source::Http;
use crate::ssh::Login;
use crate::store::Dirs;
use crate::ui::{self, Screen};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Recipes to build
    #[arg(required = true)]
    recipes: Vec<PathBuf>,
    /// How many builds run at the same time
    #[arg(long, value_name = "N", default_value = "2")]
    parallel: NonZeroUsize,
    /// What becomes of the machine of a build that fails
    #[arg(long, value_enum, default_value_t)]
    on_error: OnError,
    /// Use only what is cached; a miss is an error
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    vars: Vars,
}

/// What becomes of the machine of a build that fails. An interrupted build is always cleaned up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum OnError {
    /// Remove it
    #[default]
    Cleanup,
    /// Leave it running and print how to log in
    Keep,
    /// Ask on the terminal
    Ask,
}

/// What all builds of one command share.
struct Shared<'s> {
    arguments: &'s Arguments,
    dirs: Dirs,
    http: Http,
    screen: Screen,
    observer: Arc<dyn Observer>,
    interrupt: &'s Interrupt,
}

pub async fn run(
    arguments: Arguments,
    global: &Global,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    if arguments.on_error == OnError::Ask && !std::io::stdin().is_terminal() {
        return Err(Error::new("asking what to do on an error")
            .kind(Kind::Usage)
            .cause("there is no terminal to ask on")
            .hint("use --on-error keep or --on-error cleanup"));
    }
    let plans = plans(&arguments, screen)?;
    let dirs = Dirs::from_env()?;
    // What a dead build left may hold ports, memory and disk that this one wants.
    let reaped = interrupt.or(reap(&dirs, false)).await;
    // One journal that cannot be read must not stop every build of the night.
    if let Err(error) = reaped.and_then(|reaped| gc::tell(&reaped, screen)) {
        if interrupt.is_set() {
            return Err(error);
        }
        screen.error(None, &error);
    }
    refuse_shared_outputs(&plans)?;
    let shared = Shared {
        dirs,
        http: Http::new()?,
        screen,
        observer: ui::observer(global.format, global.verbose > 0),
        interrupt,
        arguments: &arguments,
    };
    let builds = plans.iter().map(|plan| build(plan, &shared));
    let results: Vec<Result<()>> = futures_util::stream::iter(builds)
        .buffer_unordered(arguments.parallel.get())
        .collect()
        .await;
    let mut errors: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0).told()),
        n => Err(several(&format!("{n} of {} builds", plans.len()), &errors).told()),
    }
}

/// Reads all recipes before anything is built, so that a fault in the last is not found after an hour.
fn plans(arguments: &Arguments, screen: Screen) -> Result<Vec<Plan>> {
    let overrides = arguments.vars.overrides();
    let mut plans = vec![];
    let mut errors = vec![];
    for path in &arguments.recipes {
        let recipe = recipe::load(path, &overrides);
        match recipe.and_then(|recipe| Ok(Plan::new(&recipe, &Facts::gather(&recipe)?))) {
            Ok(plan) => plans.push(plan),
            Err(error) => {
                screen.error(None, &error);
                errors.push(error);
            }
        }
    }
    match errors.len() {
        0 => Ok(plans),
        n => Err(several(
            &format!("{n} of {} recipes", arguments.recipes.len()),
            &errors,
        )
        .told()),
    }
}

/// Two images cannot have one name; the second would silently replace the first.
fn refuse_shared_outputs(plans: &[Plan]) -> Result<()> {
    for (index, plan) in plans.iter().enumerate() {
        let path = &plan.output.path;
        if let Some(other) = plans[..index]
            .iter()
            .find(|other| other.output.path == *path)
        {
            return Err(Error::new(format!("writing {}", path.display()))
                .kind(Kind::Usage)
                .cause(format!(
                    "both {} and {} do",
                    other.recipe.name, plan.recipe.name
                ))
                .hint("give one of them another `[image] name` or `[output] path`"));
        }
    }
    Ok(())
}

async fn build(plan: &Plan, shared: &Shared<'_>) -> Result<()> {
    if shared.interrupt.is_set() {
        return Err(shared.interrupt.wait().await);
    }
    let tell = |error: &Error| shared.screen.error(Some(&plan.name), error);
    let observer = shared.observer.clone();
    let run = Run::start(&plan.name, &shared.dirs, shared.interrupt, observer).inspect_err(tell)?;
    let failure = match attempt(plan, shared, &run).await {
        Ok(artifact) => {
            let cleaned = clean_up(&run).await;
            shared
                .screen
                .artifact(&plan.name, &artifact, &run.timings());
            return cleaned.inspect_err(tell);
        }
        Err(failure) => failure,
    };
    // The cause first: cleaning up may take its time.
    tell(&failure.error);
    run.events.log_only(&failure.error.to_string());
    let keep = match failure.login {
        Some(login) if wants_to_keep(shared).await => Some(login),
        _ => None,
    };
    let kept_or_cleaned = match keep {
        Some(login) => keep_machine(&run, &login, shared.screen),
        None => clean_up(&run).await,
    };
    // Why the build failed decides the exit code, not what became of its remains.
    if let Err(remains) = kept_or_cleaned {
        tell(&remains);
    }
    Err(failure.error)
}

async fn attempt(
    plan: &Plan,
    shared: &Shared<'_>,
    run: &Run,
) -> Result<pipeline::Artifact, Failure> {
    let secrets = super::secrets::fetch(plan, &run.events);
    let secrets = shared.interrupt.or(secrets).await;
    let secrets = secrets.map_err(|error| Failure { error, login: None })?;
    let options = pipeline::Options {
        http: &shared.http,
        offline: shared.arguments.offline,
        secrets: &secrets,
        keep_machines: shared.arguments.on_error != OnError::Cleanup,
    };
    pipeline::build(plan, &options, run).await
}

async fn clean_up(run: &Run) -> Result<()> {
    let remaining = run.tear_down().await;
    if remaining.is_empty() {
        return Ok(());
    }
    let list = remaining.iter().map(|(what, why)| format!("{what}: {why}"));
    Err(Error::new("cleaning up")
        .cause("some of what this build has made remains")
        .detail("what remains, and why", list.collect::<Vec<_>>().join("\n"))
        .hint("`imgbuild gc` tries again"))
}

async fn wants_to_keep(shared: &Shared<'_>) -> bool {
    if shared.interrupt.is_set() {
        return false;
    }
    match shared.arguments.on_error {
        OnError::Cleanup => false,
        OnError::Keep => true,
        OnError::Ask => {
            eprint!("keep the machine to look at it? [y/N] ");
            let answer = tokio::task::spawn_blocking(|| {
                let mut answer = String::new();
                // A terminal that went away does not want to keep anything.
                let _ = std::io::stdin().read_line(&mut answer);
                Ok(answer)
            });
            // Ctrl-C is an answer, too.
            let answer = async { answer.await.unwrap_or_else(|_| Ok(String::new())) };
            let answer = shared.interrupt.or(answer).await;
            answer.is_ok_and(|answer| answer.trim().eq_ignore_ascii_case("y"))
        }
    }
}

fn keep_machine(run: &Run, login: &Login, screen: Screen) -> Result<()> {
    let key = run.folder.join("ssh-key");
    let hosts = run.folder.join("known_hosts");
    let doing = || "writing the machine's SSH key";
    let private = login.private_key.to_openssh(LineEnding::LF).doing(doing)?;
    let host = login.host_key.to_openssh().doing(doing)?;
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&key)
        .doing(doing)?;
    std::io::Write::write_all(&mut file, private.as_bytes()).doing(doing)?;
    let port = login.address.port();
    let line = format!("[{}]:{port} {host}\n", login.address.ip());
    std::fs::write(&hosts, line).doing(doing)?;
    run.keep()?;
    let quoted = |path: &PathBuf| quote(&path.to_string_lossy());
    screen.note(&format!(
        "the machine is kept; log in with\n  ssh -i {} -o IdentitiesOnly=yes -o UserKnownHostsFile={} -p {port} {}@{}\n\
         and remove it with\n  imgbuild gc --kept",
        quoted(&key),
        quoted(&hosts),
        login.user,
        login.address.ip(),
    ));
    Ok(())
}
