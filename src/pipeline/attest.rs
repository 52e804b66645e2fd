//! What is said of an image beside it when it is finished, signed; and in it, as far as that is known before it is sealed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bench::Bench;
use crate::error::{Context, Error, Result};
use crate::provenance::bundle::Bundle;
use crate::provenance::dsse::{Envelope, PAYLOAD_TYPE, pae};
use crate::provenance::sbom::{self, Inventory, cyclonedx, spdx};
use crate::provenance::statement::*;
use crate::provenance::{Files, Release, digests, file_name};
pub use crate::record::Tools;
use crate::record::{self, Record, Results};
use crate::text::span;
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};

/// The files that stand beside an image, with what is in them.
pub(super) type Beside = Vec<(PathBuf, Vec<u8>)>;

/// The script that writes into the guest what it is made of.
pub(super) fn release(bench: &Bench<'_>, definition: &BuildDefinition) -> Result<String> {
    let recipe = bench.plan.texts.first();
    Release {
        name: &bench.plan.name,
        version: &bench.version.number.to_string(),
        label: bench.version.label.as_deref(),
        build_id: &bench.run.id,
        recipe: recipe.map_or("", |(_, sha256)| sha256),
        date: &time(bench.started)?,
        build_definition: definition,
    }
    .script()
}

/// Writes and signs everything that stands beside the image: the record, the lists of packages, the statement. `disk` is the
/// image's name and the sha256 of its disk, where the file is not that itself.
pub(super) async fn attest(
    bench: &Bench<'_>,
    definition: BuildDefinition,
    mut results: Results<'_>,
    inventory: &Inventory,
    disk: Option<(String, String)>,
) -> Result<Beside> {
    let public = bench.public();
    for said in results.versions.values_mut() {
        *said = public.of_guest(said);
    }
    let (plan, run) = (bench.plan, bench.run);
    let files = Files::of(bench.final_path());
    let file = file_name(bench.final_path());
    let subject = sbom::Subject {
        name: &plan.name,
        sha256: disk.as_ref().map_or(results.sha256, |(_, sha256)| sha256),
        created: sbom::created(inventory, source_date_epoch()),
    };
    let cyclonedx = cyclonedx::document(&subject, inventory)?;
    let spdx = spdx::document(&subject, inventory)?;
    for unread in &inventory.unread {
        run.events
            .warn(format!("the list of packages is not complete: {unread}"));
    }

    let image_sha256 = results.sha256.to_owned();
    let version = versions(results.tools);
    let mut byproducts = outcomes(&results, &definition);
    let record_path = record::path(bench.final_path());
    let record = Record::new(plan, run, &definition, results);
    let record = record.to_json()?;
    let unread = inventory.unread.clone();
    byproducts.push(Byproduct {
        annotations: (!unread.is_empty()).then_some(Outcome::Unread(unread)),
        ..document(&files.cyclonedx, &cyclonedx, cyclonedx::MEDIA_TYPE)
    });
    byproducts.push(document(&files.spdx, &spdx, spdx::MEDIA_TYPE));
    byproducts.push(document(&record_path, &record, "application/json"));
    byproducts.push(log(&run.folder.join("log.txt"))?);

    let details = RunDetails {
        builder: Builder {
            id: BUILDER.into(),
            version,
        },
        metadata: Metadata {
            invocation_id: run.id.clone(),
            started_on: time(bench.started)?,
            finished_on: time(Timestamp::now())?,
        },
        byproducts,
    };
    let predicate = Predicate {
        build_definition: definition,
        run_details: details,
    };
    let statement = Statement::new(&file, &image_sha256, disk, predicate).to_json()?;
    let signature = sign(bench, &pae(PAYLOAD_TYPE, &statement)).await?;
    let envelope = Envelope::new(&statement, bench.signer.public(), &signature);
    let bundle = Bundle::new(envelope.clone());
    Ok(vec![
        (record_path, record),
        (files.cyclonedx, cyclonedx),
        (files.spdx, spdx),
        (files.statement, statement),
        (files.bundle, crate::provenance::json(&bundle)?),
        (files.envelope, crate::provenance::json(&envelope)?),
    ])
}

/// How long an image waits for an agent: long enough for somebody to read the warning, and to start it again.
const AWAY: Duration = Duration::from_secs(600);

/// Has a message signed. By now all work was done; it is not thrown away while somebody can still help.
async fn sign(bench: &Bench<'_>, message: &[u8]) -> Result<Vec<u8>> {
    let warn = |why: &Error| {
        let wait = span(AWAY.as_secs_f64());
        let text =
            format!("the image is done but for its signature, and waits {wait} for that: {why}");
        bench.run.events.warn(text);
    };
    let signed = async {
        bench.signer.until_ready(AWAY, warn).await?;
        bench.signer.sign(message).await
    };
    signed.await.map_err(|error| {
        error.hint(
            "nothing was published; `ssh-add` the key and run the build again: steps with a layer are not done again",
        )
    })
}

/// The time that the environment gives to whatever is made, in seconds since 1970 (reproducible-builds.org).
fn source_date_epoch() -> Option<i64> {
    std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()
}

/// A time in RFC 3339, in whole seconds: none of them is still to come.
fn time(time: Timestamp) -> Result<String> {
    let whole = TimestampRound::new()
        .smallest(Unit::Second)
        .mode(RoundMode::Trunc);
    let whole = time.round(whole).doing(|| "reading the clock")?;
    Ok(whole.to_string())
}

fn versions(tools: &Tools) -> BTreeMap<String, String> {
    let own = ("imgbuild".to_owned(), tools.imgbuild.to_owned());
    let others = [
        ("qemu-img", &tools.qemu_img),
        ("qemu-system", &tools.qemu_system),
        ("proxmox-ve", &tools.proxmox_ve),
    ];
    let others = others.into_iter().filter_map(|(name, version)| {
        let version = version.clone()?;
        Some((name.to_owned(), version))
    });
    [own].into_iter().chain(others).collect()
}

/// What the build found out about the image.
fn outcomes(results: &Results<'_>, definition: &BuildDefinition) -> Vec<Byproduct> {
    let outcome = |name: &str, outcome: Outcome| Byproduct {
        name: name.into(),
        digest: BTreeMap::new(),
        media_type: None,
        annotations: Some(outcome),
    };
    let mut all = vec![];
    if let Some((by, report)) = &results.audit {
        let unread = report.unread.iter();
        all.push(outcome(
            "audit",
            Outcome::Audit(Audit {
                by: *by,
                root: report.root.clone().unwrap_or_default(),
                checks: report.checks,
                files: report.files,
                unread: unread
                    .map(|unread| format!("{}: {}", unread.partition, unread.kind))
                    .collect(),
            }),
        ));
        let passed = definition.internal_parameters.tests.iter();
        let passed = passed.map(|test| test.name.clone());
        all.push(outcome("tests", Outcome::Passed(passed.collect())));
        all.push(outcome(
            "versions",
            Outcome::Versions(results.versions.clone()),
        ));
    }
    all
}

fn document(path: &Path, bytes: &[u8], media_type: &str) -> Byproduct {
    Byproduct {
        name: file_name(path),
        digest: digests(bytes),
        media_type: Some(media_type.into()),
        annotations: None,
    }
}

/// The build's log, as far as it goes.
fn log(path: &Path) -> Result<Byproduct> {
    let bytes = std::fs::read(path).doing(|| format!("reading {}", path.display()))?;
    Ok(Byproduct {
        annotations: Some(Outcome::Size(bytes.len() as u64)),
        ..document(path, &bytes, "text/plain")
    })
}
