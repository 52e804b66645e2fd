//! `imgbuild run`.

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::sync::{Semaphore, watch};

use super::recipes::{Graph, Node, Online, Selection};
use super::{Global, gc, several, target};
use crate::backend::proxmox::Cluster;
use crate::error::{Error, Kind, Result};
use crate::pipeline::{self, Caching, Failure};
use crate::plan::{Action, Plan};
use crate::provenance::Files;
use crate::recipe;
use crate::run::events::Observer;
use crate::run::{Interrupt, Resource, Run, terminal};
use crate::signing::Signing;
use crate::source;
use crate::ssh::Login;
use crate::store::{Dirs, Registry};
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
    /// Do not stop at breakpoints; without a terminal they are refused
    #[arg(long)]
    skip_breakpoints: bool,
    /// Do all steps again, beginning with the source
    #[arg(long, conflicts_with_all = ["from", "no_cache"])]
    force: bool,
    /// Do this step and those after it again
    #[arg(long, value_name = "STEP", conflicts_with = "no_cache")]
    from: Option<String>,
    /// Neither use nor make layers
    #[arg(long)]
    no_cache: bool,
    /// Build on this target of imgbuild.toml instead of this machine
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    #[command(flatten)]
    selection: Selection,
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
    online: &'s Online<'s>,
    screen: Screen,
    observer: Arc<dyn Observer>,
    interrupt: &'s Interrupt,
    signing: Signing,
    /// Where it is built; on this machine if nowhere else.
    cluster: Option<Cluster>,
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
    let dirs = Dirs::from_env()?;
    let observer = ui::observer(global.format(), global.verbose > 0);
    let online = Online::new("run", &dirs, &arguments.selection, global);
    let graph = interrupt.or(graph(&arguments, &online, screen)).await?;
    let cluster = match &arguments.target {
        Some(name) => Some(Cluster::new(interrupt.or(target::connect(name)).await?)),
        None => None,
    };
    refuse_shared_outputs(&graph.nodes)?;
    refuse_breakpoints(&graph.nodes, &arguments)?;
    refuse_unknown_step(&graph.nodes, &arguments)?;
    // What a dead build left may hold ports, memory and disk that this one wants.
    gc::reap_first(&dirs, screen, interrupt).await?;
    // What a build that died has published, or was about to, is settled before its output is locked again. What is wrong
    // with the registry is told by the builds.
    drop(Registry::open_existing(&dirs));
    let shared = Shared {
        online: &online,
        screen,
        observer,
        interrupt,
        signing: Signing::from_env(&dirs),
        arguments: &arguments,
        cluster,
    };
    let mut errors = build_all(&graph.nodes, &shared).await;
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0).told()),
        n => Err(several(&format!("{n} of {} builds", graph.nodes.len()), &errors).told()),
    }
}

/// Reads all recipes before anything is built, so that a fault in the last is not found after an hour.
async fn graph(arguments: &Arguments, online: &Online<'_>, screen: Screen) -> Result<Graph> {
    let mut graph = Graph::on(arguments.target.as_deref());
    let mut errors = vec![];
    for path in &arguments.recipes {
        if let Err(error) = graph.add(path, &arguments.selection, online).await {
            screen.error(None, &error);
            errors.push(error);
        }
    }
    match errors.len() {
        0 if graph.nodes.is_empty() => Err(Error::new("choosing what to build")
            .kind(Kind::Usage)
            .cause("no image is left after --only and --except")),
        0 => Ok(graph),
        n => Err(several(
            &format!("{n} of {} recipes", arguments.recipes.len()),
            &errors,
        )
        .told()),
    }
}

/// Builds everything, each after what it is built on, so many at the same time as the user wants. Returns what failed.
async fn build_all(nodes: &[Node], shared: &Shared<'_>) -> Vec<Error> {
    let slots = Semaphore::new(shared.arguments.parallel.get());
    // `None` until a build has ended, then whether it ended well.
    let ended: Vec<watch::Sender<Option<bool>>> =
        nodes.iter().map(|_| watch::Sender::new(None)).collect();
    let builds = nodes.iter().enumerate().map(|(at, node)| {
        let (ended, slots) = (&ended, &slots);
        async move {
            let base_is_good = match node.after {
                None => true,
                Some(base) => {
                    let mut base = ended[base].subscribe();
                    // The sender lives as long as this does.
                    base.wait_for(Option::is_some)
                        .await
                        .is_ok_and(|ended| *ended == Some(true))
                }
            };
            let result = match base_is_good {
                true => {
                    // Nobody closes it.
                    let _slot = slots.acquire().await;
                    build(&node.plan, shared).await
                }
                false => {
                    let error = Error::new(format!("building {}", node.plan.name))
                        .cause("the image that it is built on could not be built");
                    shared.screen.error(Some(&node.plan.name), &error);
                    Err(error)
                }
            };
            ended[at].send_replace(Some(result.is_ok()));
            result
        }
    });
    let results = futures_util::future::join_all(builds).await;
    results.into_iter().filter_map(Result::err).collect()
}

/// Two images cannot have one name; the second would silently replace the first, or what stands beside it.
fn refuse_shared_outputs(nodes: &[Node]) -> Result<()> {
    for (index, node) in nodes.iter().enumerate() {
        let path = Files::of(&node.plan.output.path).statement;
        if let Some(other) = nodes[..index]
            .iter()
            .find(|other| Files::of(&other.plan.output.path).statement == path)
        {
            let image = &node.plan.output.path;
            return Err(Error::new(format!("writing {}", image.display()))
                .kind(Kind::Usage)
                .cause(format!(
                    "both {} and {} do",
                    other.plan.recipe.name(),
                    node.plan.recipe.name()
                ))
                .hint("give one of them another `[image] name` or `[output] path`"));
        }
    }
    Ok(())
}

/// A build that waits for somebody to press Enter where nobody is would wait for ever.
fn refuse_breakpoints(nodes: &[Node], arguments: &Arguments) -> Result<()> {
    if arguments.skip_breakpoints || (std::io::stdin().is_terminal() && !ui::is_ci()) {
        return Ok(());
    }
    for plan in nodes.iter().map(|node| &node.plan) {
        let mut steps = plan.all_steps();
        if let Some(step) = steps.find(|step| step.action == Action::Breakpoint) {
            return Err(Error::new(format!("stopping at step `{}`", step.name))
                .kind(Kind::Usage)
                .cause("there is no terminal with somebody at it")
                .hint("remove the breakpoint, or add --skip-breakpoints")
                .faults(plan.fault(&step.span, "this waits for somebody to press Enter")));
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
    let run = Run::start(&plan.name, shared.online.dirs, shared.interrupt, observer);
    let run = run.inspect_err(tell)?;
    if let Some(cluster) = &shared.cluster {
        cluster.server().mask_login(&run.events);
    }
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
    let failed = run.events.without_secrets(failure.error);
    // The cause first: cleaning up may take its time.
    tell(&failed);
    run.events.log_only(&failed.to_string());
    let keep = match failure.login {
        // There is nothing to look at in one that is gone.
        Some(login) if run.has_machine() && wants_to_keep(&plan.name, shared).await => Some(login),
        _ => None,
    };
    let kept_or_cleaned = match keep {
        Some(login) => match keep_machine(&run, &login, shared.screen) {
            Ok(()) => Ok(()),
            Err(error) => {
                tell(&error);
                clean_up(&run).await
            }
        },
        None => clean_up(&run).await,
    };
    // Why the build failed decides the exit code, not what became of its remains.
    if let Err(remains) = kept_or_cleaned {
        tell(&remains);
    }
    Err(failed)
}

async fn attempt(
    plan: &Plan,
    shared: &Shared<'_>,
    run: &Run,
) -> Result<pipeline::Artifact, Failure> {
    let secrets = super::secrets::fetch(plan, &run.events);
    let secrets = shared.interrupt.or(secrets).await;
    let secrets = secrets.map_err(|error| Failure { error, login: None })?;
    let cx = shared.online.context();
    let cx = cx.map_err(|error| Failure { error, login: None })?;
    let cx = source::Context {
        events: &run.events,
        ..cx
    };
    let caching = caching(plan, shared.arguments);
    let options = pipeline::Options {
        caching: &caching,
        signing: &shared.signing,
        source: &cx,
        secrets: &secrets,
        breakpoints: !shared.arguments.skip_breakpoints,
        keep_machines: shared.arguments.on_error != OnError::Cleanup,
        cluster: shared.cluster.as_ref(),
    };
    pipeline::build(plan, &options, run).await
}

/// What is done with layers; a step that is not in this plan is in another one.
fn caching(plan: &Plan, arguments: &Arguments) -> Caching {
    let step = arguments.from.as_ref().and_then(|name| {
        let mut steps = plan.steps.iter();
        steps.position(|step| step.name == *name)
    });
    match (arguments.no_cache, arguments.force, step) {
        (true, ..) => Caching::Off,
        (_, true, _) => Caching::Renew,
        (.., Some(steps)) => Caching::From(steps),
        _ => Caching::Use,
    }
}

/// A step to begin from must be somewhere.
fn refuse_unknown_step(nodes: &[Node], arguments: &Arguments) -> Result<()> {
    let Some(name) = &arguments.from else {
        return Ok(());
    };
    let names = || {
        let steps = nodes.iter().flat_map(|node| &node.plan.steps);
        steps.map(|step| step.name.as_str())
    };
    if names().any(|known| known == name) {
        return Ok(());
    }
    Err(Error::new(format!("beginning from step `{name}`"))
        .kind(Kind::Usage)
        .cause("no recipe has a step of this name")
        .hint(recipe::suggest(name, names())))
}

pub(super) async fn clean_up(run: &Run) -> Result<()> {
    let remaining = run.tear_down().await;
    if remaining.is_empty() {
        return Ok(());
    }
    let list = remaining
        .iter()
        .map(|(what, why)| format!("{what}: {}", why.with_hint()));
    let error = Error::new("cleaning up")
        .cause("some of what this build has made remains")
        .detail("what remains, and why", list.collect::<Vec<_>>().join("\n"))
        .hint("`imgbuild gc` tries again");
    Err(run.events.without_secrets(error))
}

async fn wants_to_keep(name: &str, shared: &Shared<'_>) -> bool {
    if shared.interrupt.is_set() {
        return false;
    }
    match shared.arguments.on_error {
        OnError::Cleanup => false,
        OnError::Keep => true,
        OnError::Ask => {
            // A terminal that went away does not want to keep anything.
            let ask = || {
                let mut stderr = std::io::stderr();
                let _ = write!(stderr, "{name}: keep the machine to look at it? [y/N] ");
            };
            let answer = async { Ok(terminal::answer(ask).await) };
            // Ctrl-C is an answer, too.
            let answer = shared.interrupt.or(answer).await;
            answer.is_ok_and(|answer| answer.trim().eq_ignore_ascii_case("y"))
        }
    }
}

fn keep_machine(run: &Run, login: &Login, screen: Screen) -> Result<()> {
    // They are of no use without the machine, and go with it.
    for path in login.files(&run.folder) {
        run.guard(Resource::File { path })?;
    }
    let command = login.write(&run.folder)?;
    run.keep()?;
    screen.note(&format!(
        "the machine is kept; log in with\n  {command}\nand remove it with\n  imgbuild gc --kept"
    ));
    Ok(())
}
