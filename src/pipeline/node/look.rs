//! What is found out about a sealed template, and said of it where it is not.

use std::io::Write;

use futures_util::future::try_join;
use sha2::{Digest, Sha256};

use super::Node;
use super::phases::Sealed;
use crate::backend::proxmox::machine::inspect::Inside;
use crate::disk::Origin;
use crate::error::{Context, Result};
use crate::pipeline::bench::Made;
use crate::pipeline::inventory::inventory;
use crate::pipeline::judged;
use crate::pipeline::place::Sealing;
use crate::provenance::sbom::Inventory;
use crate::provenance::statement::Reading;
use crate::record::{Replica, TemplateFile};
use crate::seal;
use crate::text::hex;

/// What is on a sealed disk.
#[derive(Clone)]
pub struct Found {
    pub by: Reading,
    pub audit: seal::Report,
    pub inventory: Inventory,
    /// Of the disk's content, as a guest sees it.
    sha256: String,
    /// Its bytes.
    size: u64,
}

impl<'b> Node<'b> {
    /// Has a look at the sealed disk: in a helper guest, where the system on it has no say in that, unless it was done in its own
    /// guest already.
    pub(super) async fn look(&self, sealed: &Sealed<'b>, sealing: &Sealing) -> Result<Found> {
        if let Some(found) = &sealed.found {
            return Ok(found.clone());
        }
        let helper = self.helper(sealed.template.vmid).await?;
        let reader = self.bench.run.unless_interrupted(helper.reader()).await?;
        let size = reader.size();
        let reading = reader.read(self.bench.run, self.examine(sealing));
        let ((audit, inventory), sha256) = reading.await?;
        let removing = helper.remove();
        self.bench.run.phase("remove helper", removing).await?;
        Ok(Found {
            by: Reading::Helper,
            audit,
            inventory,
            sha256,
            size,
        })
    }

    /// Has the sealed guest look at its own disk, which does not change any more afterwards.
    pub(super) async fn look_inside(&self, mut inside: Inside, sealing: &Sealing) -> Result<Found> {
        let run = self.bench.run;
        run.phase("freeze", inside.freeze()).await?;
        let size = inside.size();
        let reading = inside.read(run, self.examine(sealing));
        let ((audit, inventory), sha256) = reading.await?;
        Ok(Found {
            by: Reading::Guest,
            audit,
            inventory,
            sha256,
            size,
        })
    }

    /// What is read of a disk.
    fn examine(
        &self,
        sealing: &Sealing,
    ) -> impl AsyncFnOnce(&Origin) -> Result<(seal::Report, Inventory)> {
        let (run, plan) = (self.bench.run, self.bench.plan);
        async move |disk: &Origin| {
            let audit = async {
                let report = seal::audit(disk, &sealing.plan, &sealing.evidence).await?;
                judged(report, &run.events)
            };
            let list = async { Ok(inventory(disk, plan).await) };
            try_join(run.phase("audit", audit), run.phase("sbom", list)).await
        }
    }

    /// Copies the template to the other nodes that want it.
    pub(super) async fn replicate(&self, sealed: &Sealed<'b>) -> Result<()> {
        for server in self.others {
            let phase = format!("copy to {}", server.target.node);
            let copying = sealed
                .template
                .copy_to(server, &self.bench.plan.proxmox.hardware);
            let copy = self.bench.run.phase(&phase, copying).await?;
            self.replicas.borrow_mut().push(copy);
        }
        Ok(())
    }

    /// What is said of the template where it is not.
    pub(super) fn described(&self, sealed: &Sealed<'b>, found: &Found) -> TemplateFile {
        let (target, plan) = (&self.server.target, self.bench.plan);
        let storage = plan.proxmox.hardware.storage.as_ref();
        let storage = storage.or(target.images.as_ref());
        let replicas = self.replicas.borrow();
        let replicas = replicas.iter().map(|copy| Replica {
            node: copy.node().to_owned(),
            vmid: copy.vmid,
        });
        TemplateFile {
            schema: TemplateFile::SCHEMA,
            target: target.name.clone(),
            endpoint: target.endpoint.to_string(),
            node: target.node.clone(),
            storage: storage.cloned().unwrap_or_default(),
            vmid: sealed.template.vmid,
            name: format!("{}-{}", plan.name, self.bench.version.number),
            build: self.bench.run.id.clone(),
            disk: found.sha256.clone(),
            size: found.size,
            replicas: replicas.collect(),
        }
    }

    /// Writes the file that stands for the template, under another name than it will have.
    pub(super) fn write(&self, template: &TemplateFile) -> Result<Made> {
        let resource = self.bench.run.guard(self.bench.unfinished_image())?;
        let path = self.bench.unfinished_path();
        let doing = || format!("writing {}", path.display());
        let content = crate::provenance::json(template)?;
        let mut file = std::fs::File::create(&path).doing(doing)?;
        file.write_all(&content).doing(doing)?;
        file.sync_all().doing(doing)?;
        Ok(Made {
            resource,
            sha256: hex(&Sha256::digest(&content)),
            size: content.len() as u64,
        })
    }
}
