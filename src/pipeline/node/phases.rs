//! What is done on a node, phase by phase.

use std::time::{Duration, Instant};

use futures_util::future::try_join;

use super::look::Found;
use super::{Node, boot, label};
use crate::backend::proxmox::REPLICA;
use crate::backend::proxmox::machine::inspect::Inside;
use crate::backend::proxmox::machine::{Label, Machine, Origin, Template};
use crate::error::Result;
use crate::pipeline::bench::{Made, Role};
use crate::pipeline::place::{self, Begun, Judged, Place, Sealing};
use crate::pipeline::{Artifact, SshGuest, attest};
use crate::plan::Step;
use crate::record::{TemplateFile, Tools};
use crate::ssh::Login;

/// A machine that is worked in.
pub struct Working<'b> {
    machine: Machine<'b>,
    /// Whether its disk is an overlay on a layer's.
    is_on_layer: bool,
    /// What will read its disk once it is sealed, if that is not a helper's.
    inside: Option<Inside>,
}

impl place::Machine for Working<'_> {
    async fn during<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        work.await
    }
}

impl<'b> Node<'b> {
    /// Has the guest of a machine power off, and takes its seed away.
    async fn power_off(&self, machine: &mut Machine<'b>) -> Result<()> {
        let (run, patience) = (self.bench.run, self.bench.plan.boot_timeout);
        let off = run.phase("power off", machine.power_off(patience));
        if off.await? {
            run.events
                .warn("the guest did not power off when asked and was stopped by force");
        }
        run.phase("remove seed", machine.drop_seed()).await
    }
}

/// A sealed template, which the journal has.
pub struct Sealed<'b> {
    pub template: Template<'b>,
    /// What is on its disk, if the guest itself has looked.
    pub found: Option<Found>,
}

impl<'b> Place<'b> for Node<'b> {
    type Machine = Working<'b>;
    type Sealed = Sealed<'b>;

    async fn begin(&mut self, login: &mut Option<Login>) -> Result<Begun<'b, Working<'b>>> {
        let began = Instant::now();
        let run = self.bench.run;
        let layer = run.phase("look for layers", self.layers.deepest()).await?;
        let origin = match &layer {
            Some(layer) => {
                run.events.note(format!("going on after `{}`", layer.name));
                Origin::Layer(layer.vmid)
            }
            None => Origin::Image(&self.image),
        };
        let (machine, mut guest, identity) = self.boot(Role::Build, origin, login).await?;
        self.boot = began.elapsed();
        let is_on_layer = layer.is_some();
        let mut steps = 0;
        if let Some(layer) = layer {
            guest.recorded = layer.recorded;
            steps = layer.steps;
            self.expires = layer.expires;
        }
        Ok(Begun {
            machine: Working {
                machine,
                is_on_layer,
                inside: None,
            },
            guest,
            identity,
            steps,
        })
    }

    async fn keep(
        &mut self,
        steps: usize,
        took: Duration,
        begun: &mut Begun<'b, Working<'b>>,
        login: &mut Option<Login>,
    ) -> Result<()> {
        self.expires = self
            .layers
            .expiry(steps)
            .into_iter()
            .chain(self.expires)
            .min();
        if !self.layers.is_wanted(steps, took, self.boot) {
            return Ok(());
        }
        let began = Instant::now();
        begun.guest.sync().await?;
        let label = self
            .layers
            .label(steps, &begun.guest.recorded, self.expires)?;
        let Some(label) = label else {
            return Ok(());
        };
        // This machine becomes the layer, and another one goes on.
        *login = None;
        let machine = &mut begun.machine.machine;
        self.power_off(machine).await?;
        let make = machine.make_layer(&label);
        let vmid = self.bench.run.phase("make layer", make).await?;
        let origin = Origin::Layer(vmid);
        let recorded = std::mem::take(&mut begun.guest.recorded);
        let (machine, mut guest, identity) = self.boot(Role::Build, origin, login).await?;
        guest.recorded = recorded;
        begun.machine = Working {
            machine,
            is_on_layer: true,
            inside: None,
        };
        begun.guest = guest;
        begun.identity = identity;
        self.boot = began.elapsed();
        Ok(())
    }

    fn not_as_planned(&mut self, step: &Step) -> Result<()> {
        self.bench.run.events.warn(format!(
            "no more layers are made in this build: step `{}` uploads what was made anew by a `local` step",
            step.name
        ));
        self.layers.stop();
        Ok(())
    }

    async fn before_seal(&self, begun: &mut Begun<'b, Working<'b>>) -> Result<()> {
        if self.bench.plan.proxmox.helper {
            return Ok(());
        }
        let Working {
            machine, inside, ..
        } = &mut begun.machine;
        let preparing = Inside::prepare(&mut begun.guest.session, machine.vmid);
        let prepared = self.bench.run.phase("prepare reading", preparing);
        *inside = Some(prepared.await?);
        Ok(())
    }

    async fn seal_off(&mut self, working: Working<'b>, sealing: &Sealing) -> Result<Sealed<'b>> {
        let (bench, run) = (self.bench, self.bench.run);
        let hardware = &bench.plan.proxmox.hardware;
        let mut machine = working.machine;
        let found = match working.inside {
            None => {
                self.power_off(&mut machine).await?;
                None
            }
            Some(inside) => {
                let found = self.look_inside(inside, sealing).await?;
                // A guest that shuts down would write to the disk again, if it could.
                run.phase("power off", machine.stop()).await?;
                run.phase("remove seed", machine.drop_seed()).await?;
                Some(found)
            }
        };
        if working.is_on_layer {
            // Layers come and go; an image stays.
            run.phase("copy disk", machine.stand_alone(hardware))
                .await?;
        }
        let convert = machine.into_template(hardware, bench.final_path());
        let template = run.phase("make template", convert).await?;
        Ok(Sealed { template, found })
    }

    async fn judge(
        &self,
        sealed: &Sealed<'b>,
        sealing: &Sealing,
        tested: impl Future<Output = Result<()>>,
    ) -> Result<Judged> {
        let look = self.look(sealed, sealing);
        // Two machines that have one address by the recipe cannot be there at the same time.
        let found = match boot::known(self.bench.plan).is_empty() {
            true => try_join(look, tested).await?.0,
            false => {
                let found = look.await?;
                tested.await?;
                found
            }
        };
        self.replicate(sealed).await?;
        let template = self.described(sealed, &found);
        let made = self.write(&template)?;
        Ok(Judged {
            audit: found.audit,
            by: found.by,
            inventory: found.inventory,
            made,
            disk: Some((template.name, template.disk)),
        })
    }

    async fn boot_clone(
        &self,
        sealed: &Sealed<'b>,
        login: &mut Option<Login>,
    ) -> Result<(Working<'b>, SshGuest<'b>)> {
        let origin = Origin::Template(sealed.template.vmid);
        let (machine, guest, _) = self.boot(Role::Test, origin, login).await?;
        let machine = Working {
            machine,
            is_on_layer: true,
            inside: None,
        };
        Ok((machine, guest))
    }

    async fn destroy(&self, working: Working<'b>) -> Result<()> {
        working.machine.remove().await
    }

    async fn tools(&self) -> Result<Tools> {
        let version = self.server.version().await;
        let version = version.map_err(|failure| failure.during("asking for the server's version"));
        Ok(Tools::of_server(version?))
    }

    async fn publish(
        &self,
        sealed: Sealed<'b>,
        made: &Made,
        beside: attest::Beside,
    ) -> Result<Artifact> {
        let template = TemplateFile::read(&self.bench.unfinished_path())?;
        let label = label::label(self.bench, &template, &self.image, &beside);
        let replicas = self.replicas.take();
        let of_replicas = Label {
            tags: label
                .tags
                .iter()
                .cloned()
                .chain([REPLICA.to_owned()])
                .collect(),
            ..label.clone()
        };
        for replica in &replicas {
            replica.label(&of_replicas).await?;
        }
        sealed.template.label(&label).await?;
        let artifact = self.bench.publish(made, beside)?;
        for template in replicas.into_iter().chain([sealed.template]) {
            template.released()?;
        }
        Ok(Artifact {
            template: Some(template),
            ..artifact
        })
    }

    fn expires(&self) -> Option<jiff::Timestamp> {
        self.expires
    }
}
