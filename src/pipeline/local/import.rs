//! An image that is taken as it is: from its source to its final name without a machine, and without a look inside.

use std::collections::BTreeMap;

use super::made;
use super::workbench::Workbench;
use crate::backend::qemu::image;
use crate::error::Result;
use crate::pipeline::inventory::inventory;
use crate::pipeline::{Artifact, attest, definition};
use crate::record;
use crate::source::BaseImage;

pub(super) async fn image(bench: &Workbench<'_>, base: &BaseImage) -> Result<Artifact> {
    let (plan, run) = (bench.bench.plan, bench.bench.run);
    run.events
        .note("imported as it is: not sealed, audited or tested");
    let image = run.guard(bench.bench.unfinished_image())?;
    let from = (base.path.as_path(), base.format);
    run.phase("convert", image::flatten(from, &image, bench.target, run))
        .await?;
    base.still_there()?;
    let path = bench.bench.unfinished_path();
    let digest = run.phase("digest", record::digest(path.clone(), &run.events));
    let disk = bench.unfinished_disk();
    let list = inventory(&disk, plan);
    let list = run.phase("sbom", async { Ok(list.await) });
    let (sha256, inventory) = futures_util::future::try_join(digest, list).await?;
    let made = made(image, &path, sha256)?;
    let tools = run.phase("tools", bench.tools()).await?;
    let basis = base.basis();
    let definition = definition::of(bench.bench, &basis, &tools, &[]);
    let results = record::Results {
        version: &bench.bench.version,
        started: bench.bench.started,
        base: &basis,
        versions: BTreeMap::new(),
        audit: None,
        sha256: &made.sha256,
        size: made.size,
        tools: &tools,
    };
    let sign = attest::attest(bench.bench, definition, results, &inventory, None);
    let beside = run.phase("sign", sign).await?;
    let publish = async { bench.bench.publish(&made, beside) };
    run.phase("publish", publish).await
}
