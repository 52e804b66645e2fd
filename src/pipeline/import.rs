//! An image that is taken as it is: from its source to its final name without a machine, and without a look inside.

use std::collections::BTreeMap;

use super::inventory::inventory;
use super::workbench::Workbench;
use super::{Artifact, attest, definition};
use crate::backend::qemu::image;
use crate::error::Result;
use crate::record;
use crate::source::BaseImage;

pub(super) async fn image(bench: &Workbench<'_>, base: &BaseImage) -> Result<Artifact> {
    let (plan, run) = (bench.plan, bench.run);
    run.events
        .note("imported as it is: not sealed, audited or tested");
    let image = run.guard(bench.unfinished_image())?;
    let from = (base.path.as_path(), base.format);
    run.phase("convert", image::flatten(from, &image, bench.target, run))
        .await?;
    base.still_there()?;
    let digest = record::digest(bench.unfinished_path(), &run.events);
    let digest = run.phase("digest", digest);
    let disk = bench.unfinished_disk();
    let list = inventory(&disk, plan);
    let list = run.phase("sbom", async { Ok(list.await) });
    let (sha256, inventory) = futures_util::future::try_join(digest, list).await?;
    let definition = definition::of(bench, base, &[]);
    let results = record::Results {
        version: &bench.version,
        started: bench.started,
        base,
        accel: bench.accel,
        versions: BTreeMap::new(),
        audit: None,
        sha256: &sha256,
        tools: run.phase("tools", record::Tools::ask(plan)).await?,
    };
    let sign = attest::attest(bench, definition, results, &inventory);
    let beside = run.phase("sign", sign).await?;
    run.phase("publish", async { bench.publish(image, sha256, beside) })
        .await
}
