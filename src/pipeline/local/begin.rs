//! How a build comes by a guest to work in: from the deepest layer that comes up, else from the base image.

use std::time::{Duration, Instant};

use super::choice::Way;
use super::stack::Stack;
use super::workbench::{Boot, Workbench};
use crate::backend::Backing;
use crate::backend::qemu::{Machine, Saved};
use crate::error::{Context, Error, Kind, Result};
use crate::pipeline::SshGuest;
use crate::pipeline::bench::Role;
use crate::pipeline::place::Begun;
use crate::run::Run;
use crate::seed::{Announce, Identity};
use crate::source::Format;
use crate::ssh::Login;
use crate::store::layers::files;

/// How long each may take of a guest that was restored: the login, and waking it. Emulated ones beside others have needed 10 s.
const RESTORED: Duration = Duration::from_secs(60);

/// Begins with the best of all ways.
pub(super) async fn begin<'b>(
    bench: &Workbench<'b>,
    stack: &mut Stack<'b>,
    base: &Backing,
    login: &mut Option<Login>,
) -> Result<Begun<'b, Machine>> {
    stack.drop_unwanted();
    while let Some(way) = stack.best_way()? {
        let resumed = bench.boot(async || resume(bench, stack, &way, base.size, login).await);
        let error = match resumed.await {
            Ok(begun) => {
                stack.drop_dead();
                return Ok(begun);
            }
            Err(error) => error,
        };
        if matches!(error.get_kind(), Kind::Interrupted | Kind::Terminated) {
            return Err(error);
        }
        *login = None;
        stack.give_up(&way, &error);
    }
    let booted = bench.boot(async || from_base(bench, stack, base, login).await);
    let begun = booted.await?;
    stack.drop_dead();
    Ok(begun)
}

async fn from_base<'b>(
    bench: &Workbench<'b>,
    stack: &mut Stack<'b>,
    base: &Backing,
    login: &mut Option<Login>,
) -> Result<Begun<'b, Machine>> {
    let began = Instant::now();
    // Layers are for any recipe with this base, so the guest is not called after one.
    let identity = Identity::generate(&format!("imgbuild-{}", bench.bench.run.id), "imgbuild")?;
    let seed = bench.bench.seed(Role::Build, &identity, Announce::Not)?;
    let draft = stack.new_draft()?;
    let write = |name: &str, content: &[u8]| {
        let path = draft.file(name);
        std::fs::write(&path, content).doing(|| format!("writing {}", path.display()))
    };
    write(files::SEED, &seed)?;
    write(files::IDENTITY, &identity.write()?)?;
    let boot = Boot {
        role: Role::Build,
        backing: base,
        disk: &draft.file(files::DISK),
        seed: &seed,
        variables: None,
        memory: None,
    };
    let mut machine = bench.start(boot).await?;
    let mut guest = bench.enter(&mut machine, &identity, None, login).await?;
    let settled = machine.during(guest.settle());
    bench.bench.run.phase("cloud-init", settled).await?;
    let keep = stack.keep(0, began.elapsed(), &mut machine, &mut guest);
    bench.bench.run.unless_interrupted(keep).await?;
    Ok(Begun {
        machine,
        guest,
        identity,
        steps: 0,
    })
}

/// Goes on from a layer. What was made of it is gone again when that fails.
async fn resume<'b>(
    bench: &Workbench<'b>,
    stack: &mut Stack<'b>,
    way: &Way,
    size: u64,
    login: &mut Option<Login>,
) -> Result<Begun<'b, Machine>> {
    stack.take(way)?;
    let (Some(root), Some(last)) = (way.chain.first(), way.chain.last()) else {
        return Err(Error::new("using a layer").cause("there is none"));
    };
    let read = |path: std::path::PathBuf| {
        std::fs::read(&path).doing(|| format!("reading {}", path.display()))
    };
    let identity = Identity::read(&read(root.file(files::IDENTITY))?)?;
    let seed = read(root.file(files::SEED))?;
    let backing = Backing {
        path: last.file(files::DISK),
        format: Format::Qcow2,
        size,
    };
    let memory = last.manifest.memory.as_ref().filter(|_| way.memory);
    let memory = memory.map(|memory| {
        let saved = Saved {
            sha256: memory.sha256.clone(),
            size: memory.size,
        };
        (last.file(files::MEMORY), saved)
    });
    let variables = last.file(files::VARIABLES);
    let draft = stack.new_draft()?;
    let boot = Boot {
        role: Role::Build,
        backing: &backing,
        disk: &draft.file(files::DISK),
        seed: &seed,
        variables: variables.exists().then_some(variables.as_path()),
        memory: memory.as_ref().map(|(path, saved)| (path.as_path(), saved)),
    };
    let name = &last.manifest.name;
    let memory = if way.memory {
        ", from saved memory"
    } else {
        ""
    };
    let again = match way.again {
        0 => String::new(),
        n => format!("; {n} short steps after it are done again, which is quicker than a boot"),
    };
    let text = format!("going on after `{name}`{memory}{again}");
    bench.bench.run.events.note(text);
    let began = Instant::now();
    let mut machine = bench.start(boot).await?;
    match wake(bench, way, &identity, &mut machine, login).await {
        Ok(mut guest) => {
            guest.recorded = last.manifest.recorded.clone();
            if !way.memory {
                let renew = stack.renew(way, began.elapsed(), &mut machine, &mut guest);
                if let Err(error) = bench.bench.run.unless_interrupted(renew).await {
                    give_up(machine, bench.bench.run).await;
                    return Err(error);
                }
            }
            Ok(Begun {
                machine,
                guest,
                identity,
                steps: way.steps,
            })
        }
        Err(error) => {
            give_up(machine, bench.bench.run).await;
            Err(error)
        }
    }
}

/// Ends a machine that is of no use. What remains of it is in the journal, and told when the build ends.
async fn give_up(machine: Machine, run: &Run) {
    let _ = run.unless_interrupted(machine.destroy(run)).await;
}

async fn wake<'b>(
    bench: &Workbench<'b>,
    way: &Way,
    identity: &Identity,
    machine: &mut Machine,
    login: &mut Option<Login>,
) -> Result<SshGuest<'b>> {
    let patience = way.memory.then_some(RESTORED);
    let mut guest = bench.enter(machine, identity, patience, login).await?;
    match way.memory {
        true => {
            let woken = async {
                let woken = tokio::time::timeout(RESTORED, guest.wake()).await;
                woken.unwrap_or_else(|_| {
                    Err(Error::new("waking a restored guest").cause("it does not react"))
                })
            };
            bench.bench.run.phase("wake", machine.during(woken)).await?;
        }
        false => {
            let settled = machine.during(guest.settle());
            bench.bench.run.phase("cloud-init", settled).await?;
        }
    }
    Ok(guest)
}
