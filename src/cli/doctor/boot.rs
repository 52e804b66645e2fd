//! `imgbuild doctor --target NAME --boot RECIPE`: a machine on the target as a build of the recipe would have it, up to a
//! command in its guest, and away with it.

use std::path::Path;
use std::time::Duration;

use super::super::Global;
use super::super::recipes::{Online, Selection};
use super::super::run::clean_up;
use crate::backend::proxmox::machine::{Door, Lease, Machine, Origin, Start, static_addresses};
use crate::backend::proxmox::{self, Proxmox};
use crate::error::{Error, Kind, Result};
use crate::finding::Finding;
use crate::plan::{Facts, Plan};
use crate::run::{Interrupt, Run};
use crate::seed::{self, Identity, Stages};
use crate::source;
use crate::ssh;
use crate::store::Dirs;
use crate::ui::{self, Screen, duration};

/// How long everything but booting may take together: the node copies a disk, and removes it.
const AROUND: Duration = Duration::from_secs(3 * 60 * 60);

/// What is run in the guest.
const COMMAND: &str = "uname -sr";

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Boots what a recipe makes a build of, by its plan, and adds what is found to `findings`, also if it ends badly.
pub async fn boot(
    server: &Proxmox,
    (plan, selection): (&Plan, &Selection),
    global: &Global,
    screen: Screen,
    interrupt: &Interrupt,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let dirs = Dirs::from_env()?;
    let online = Online::new("doctor", &dirs, selection, global);
    super::super::gc::reap_first(&dirs, screen, interrupt).await?;
    let observer = ui::observer(global.format(), global.verbose > 0);
    let run = Run::start(&plan.name, &dirs, interrupt, observer)?;
    server.mask_login(&run.events);
    let check = Check {
        server,
        plan,
        online: &online,
        run: &run,
    };
    let checked = check.all(findings).await;
    if let Err(error) = &checked {
        run.events.log_only(&error.to_string());
    }
    let cleaned = clean_up(&run).await;
    match (checked, cleaned) {
        (Err(error), Err(remains)) => {
            // Why it went wrong decides the exit code, not what became of its remains.
            screen.error(Some(&plan.name), &remains);
            Err(error)
        }
        (checked, cleaned) => checked.and(cleaned),
    }
}

/// The one build of a recipe that is meant.
pub async fn plan(
    path: &Path,
    selection: &Selection,
    global: &Global,
    target: &str,
) -> Result<Plan> {
    let doing = || Error::new(format!("booting {}", path.display())).kind(Kind::Usage);
    let dirs = Dirs::from_env()?;
    let online = Online::new("doctor", &dirs, selection, global);
    let mut recipes = selection.load(path, &online).await?;
    let recipe = match recipes.len() {
        1 => recipes.remove(0),
        n => {
            return Err(doing()
                .cause(format!("it makes {n} images"))
                .hint("choose one with --only NAME"));
        }
    };
    if recipe.base.is_built_or_there() {
        return Err(doing()
            .cause("it is built on a template, which a build finds for itself")
            .hint("boot a recipe whose image comes to the target"));
    }
    let facts = Facts {
        target: Some(target.to_owned()),
        ..Facts::default()
    };
    let plan = Plan::new(&recipe, &facts);
    match plan.import {
        true => Err(doing().cause("its image is taken as it is, without a machine")),
        false => Ok(plan),
    }
}

/// One check.
struct Check<'c> {
    server: &'c Proxmox,
    plan: &'c Plan,
    online: &'c Online<'c>,
    run: &'c Run,
}

impl Check<'_> {
    async fn all(&self, findings: &mut Vec<Finding>) -> Result<()> {
        let plan = self.plan;
        let image = self.timed("base image", findings, self.import()).await?;
        let identity = Identity::generate(&format!("imgbuild-{}", self.run.id), &plan.name)?;
        let starting = self.start(&image, &identity);
        let machine = self.timed("machine", findings, starting).await?;
        let door = Door {
            user: &plan.user,
            client_key: &identity.client_key,
            host_key: identity.host_key.public_key(),
            port: plan.machine.ssh_port,
            whereabouts: plan.proxmox.whereabouts(),
            known: static_addresses(plan.seed.network_config.as_deref().unwrap_or_default()),
            id: &identity.instance_id,
        };
        let entering = async {
            let (session, address) = machine.enter(&door, plan.boot_timeout).await?;
            Ok((session, format!("SSH answers at {address}")))
        };
        let mut session = self.timed("boot", findings, entering).await?;
        let command = async {
            let told = self.run.phase("command", command(&mut session)).await?;
            Ok(((), told))
        };
        self.timed("command", findings, command).await?;
        let removing = async {
            machine.remove().await?;
            Ok(((), "the machine, its disk and its seed are gone".to_owned()))
        };
        self.timed("removal", findings, removing).await
    }

    async fn start(
        &self,
        image: &proxmox::StoredImage,
        identity: &Identity,
    ) -> Result<(Machine<'_>, String)> {
        let plan = self.plan;
        let lease = Lease::new(&self.run.id, AROUND + plan.boot_timeout)?;
        let description = format!(
            "Made by `imgbuild doctor --boot` on {} to check this node with the recipe {}. It removes this machine itself; \
             after {} nobody needs it any more, and `imgbuild gc --target` removes it.",
            rustix::system::uname().nodename().to_string_lossy(),
            plan.name,
            lease.until.strftime("%F %R UTC")
        );
        let announce = plan.proxmox.whereabouts().announce();
        let start = Start {
            spec: &plan.machine,
            hardware: &plan.proxmox.hardware,
            origin: Origin::Image(image),
            disk: plan.disk.as_ref().map(|(size, _)| *size),
            seed: &seed::build(identity, &plan.user, &plan.seed, Stages::Needed, announce)?,
            lease,
            description: &description,
        };
        let machine = Machine::start(self.server, start, self.run).await?;
        let told = format!("{} is made and started", machine.vmid);
        Ok((machine, told))
    }

    /// Adds what one part tells, with how long each of its phases took.
    async fn timed<T>(
        &self,
        what: &str,
        findings: &mut Vec<Finding>,
        part: impl Future<Output = Result<(T, String)>>,
    ) -> Result<T> {
        let before = self.run.timings().len();
        let done = part.await;
        let done = done.map_err(|error| self.run.events.without_secrets(error));
        let phases: Vec<_> = self.run.timings()[before..]
            .iter()
            .map(|timing| format!("{} {}", timing.phase, duration(timing.elapsed)))
            .collect();
        let phases = phases.join(", ");
        let (value, finding) = match done {
            Ok((value, told)) => (Ok(value), Finding::good(what, format!("{told} ({phases})"))),
            Err(error) => {
                let told = format!("{error} ({phases})");
                (Err(error), Finding::missing(what, told))
            }
        };
        findings.push(finding);
        value
    }

    async fn import(&self) -> Result<(proxmox::StoredImage, String)> {
        let cx = source::Context {
            events: &self.run.events,
            ..self.online.context()?
        };
        let resolving = source::resolve(&self.plan.source, &cx);
        let resolved = self.run.phase("resolve", resolving).await?;
        let identified = proxmox::identify(&resolved, &cx, self.run).await?;
        let brought = proxmox::import(self.server, &resolved, identified, &cx, self.run).await?;
        let told = brought.image.volume.clone();
        Ok((brought.image, told))
    }
}

/// Runs the command, and tells what it said.
async fn command(session: &mut ssh::SshSession) -> Result<String> {
    let doing = || Error::new(format!("running `{COMMAND}` in the guest"));
    let run = tokio::time::timeout(PATIENCE, ssh::capture(session, COMMAND)).await;
    let (ended, said) =
        run.map_err(|_| doing().cause(format!("it did not end within {} s", PATIENCE.as_secs())))??;
    match ended.is_success() {
        true => Ok(crate::text::printable(said.trim())),
        false => Err(doing().cause(ended).detail("what it said", said)),
    }
}
