//! The machines of one build on a node, from their seeds to a guest that can be worked in.

use std::net::IpAddr;
use std::time::Duration;

use super::Node;
use crate::backend::proxmox::machine::inspect::Inspector;
use crate::backend::proxmox::machine::{Door, Lease, Machine, Origin, Start, static_addresses};
use crate::error::Result;
use crate::pipeline::SshGuest;
use crate::pipeline::bench::Role;
use crate::plan::Plan;
use crate::seed::Identity;
use crate::ssh::Login;

/// How long everything but booting and the recipe's own steps may take together: the node copies disks.
const AROUND: Duration = Duration::from_secs(6 * 60 * 60);

/// How many machines a build may have to boot.
const BOOTS: u32 = 8;

/// What a machine needs before it is made.
struct Papers<'p> {
    plan: &'p Plan,
    identity: Identity,
    seed: Vec<u8>,
    lease: Lease,
    description: String,
}

impl Papers<'_> {
    fn start<'s>(&'s self, origin: Origin<'s>) -> Start<'s> {
        // A clone has the size of its source, which has that of the plan.
        let disk = self.plan.disk.as_ref().map(|(size, _)| *size);
        Start {
            spec: &self.plan.machine,
            hardware: &self.plan.proxmox.hardware,
            disk: disk.filter(|_| matches!(origin, Origin::Image(_))),
            origin,
            seed: &self.seed,
            lease: self.lease.clone(),
            description: &self.description,
        }
    }

    fn door(&self) -> Door<'_> {
        Door {
            user: &self.plan.user,
            client_key: &self.identity.client_key,
            host_key: self.identity.host_key.public_key(),
            port: self.plan.machine.ssh_port,
            whereabouts: self.plan.proxmox.whereabouts(),
            id: &self.identity.instance_id,
            known: known(self.plan),
        }
    }
}

/// The addresses that machines have by the recipe.
pub(super) fn known(plan: &Plan) -> Vec<IpAddr> {
    static_addresses(plan.seed.network_config.as_deref().unwrap_or_default())
}

impl<'b> Node<'b> {
    fn papers(&self, role: Role) -> Result<Papers<'b>> {
        let (bench, plan, run) = (self.bench, self.bench.plan, self.bench.run);
        let id = format!("imgbuild-{}", run.id);
        let identity = match role {
            // Layers are for any recipe with this base, so the guest is not called after one.
            Role::Build => Identity::generate(&id, "imgbuild")?,
            Role::Test => Identity::generate(&format!("{id}-test"), &plan.name)?,
            Role::Helper => Identity::generate(&format!("{id}-helper"), "imgbuild-helper")?,
        };
        let announce = plan.proxmox.whereabouts().announce();
        let lease = self.lease()?;
        let description = format!(
            "The machine in which imgbuild on {} {} {}. It is removed when that is done; after {} nobody needs it any more, \
             and `imgbuild gc --target` removes it.",
            rustix::system::uname().nodename().to_string_lossy(),
            role.doing(),
            plan.name,
            lease.until.strftime("%F %R UTC")
        );
        Ok(Papers {
            plan,
            seed: bench.seed(role, &identity, announce)?,
            identity,
            lease,
            description,
        })
    }

    /// One for each machine, since a seed is named after it: they end a second after each other.
    fn lease(&self) -> Result<Lease> {
        let plan = self.bench.plan;
        let at = self.machines.get();
        self.machines.set(at + 1);
        let steps = plan.all_steps();
        let steps: Duration = steps.map(|step| step.timeout * (step.retries + 1)).sum();
        let total = AROUND + steps + plan.boot_timeout * BOOTS;
        Lease::new(&self.bench.run.id, total + Duration::from_secs(at.into()))
    }

    /// Makes a machine and waits until its guest can be worked in.
    pub(super) async fn boot(
        &self,
        role: Role,
        origin: Origin<'_>,
        login: &mut Option<Login>,
    ) -> Result<(Machine<'b>, SshGuest<'b>, Identity)> {
        let (bench, run) = (self.bench, self.bench.run);
        let papers = self.papers(role)?;
        let machine = Machine::start(self.server, papers.start(origin), run).await?;
        let door = papers.door();
        let (session, address) = machine.enter(&door, bench.plan.boot_timeout).await?;
        let with = door.login(address);
        *login = Some(with.clone());
        let mut guest = bench.guest(session, with);
        run.phase("cloud-init", guest.settle()).await?;
        Ok((machine, guest, papers.identity))
    }

    /// A helper guest that has the disk of a template.
    pub(super) async fn helper(&self, template: u32) -> Result<Inspector<'b>> {
        let (run, patience) = (self.bench.run, self.bench.plan.boot_timeout);
        let papers = self.papers(Role::Helper)?;
        let start = papers.start(Origin::Template(template));
        let door = (&papers.door(), patience);
        Inspector::start(self.server, (template, &self.image), start, door, run).await
    }
}
