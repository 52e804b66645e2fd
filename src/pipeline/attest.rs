//! What is said of an image: in it before it is sealed, and beside it when it is finished, signed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::public::Public;
use super::workbench::Workbench;
use crate::error::{Context, Error, Result};
use crate::plan::{Action, Role, Step};
use crate::provenance::bundle::Bundle;
use crate::provenance::dsse::{Envelope, PAYLOAD_TYPE, pae};
use crate::provenance::sbom::{self, Inventory, cyclonedx, spdx};
use crate::provenance::statement::*;
use crate::provenance::{Files, Release, digests, file_name, public_url, sha256};
use crate::record::{self, Record, Results, Tools};
use crate::seed::UserData;
use crate::source::{BaseImage, Verified};
use crate::text::span;
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};

/// The files that stand beside an image, with what is in them.
pub(super) type Beside = Vec<(PathBuf, Vec<u8>)>;

/// The script that writes into the guest what it is made of.
pub(super) fn release(bench: &Workbench<'_>, definition: &BuildDefinition) -> Result<String> {
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

/// Writes and signs everything that stands beside the image: the record, the lists of packages, the statement.
pub(super) async fn attest(
    bench: &Workbench<'_>,
    definition: BuildDefinition,
    mut results: Results<'_>,
    inventory: &Inventory,
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
        sha256: results.sha256,
        created: sbom::created(inventory, source_date_epoch()),
    };
    let cyclonedx = cyclonedx::document(&subject, inventory)?;
    let spdx = spdx::document(&subject, inventory)?;
    for unread in &inventory.unread {
        run.events
            .warn(format!("the list of packages is not complete: {unread}"));
    }

    let image_sha256 = results.sha256.to_owned();
    let version = versions(&results.tools);
    let mut byproducts = outcomes(&results, &definition);
    let record_path = record::path(bench.final_path());
    let record = Record::new(plan, run, &definition, results);
    let record = record.to_json(bench.unfinished_size()?)?;
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
    let statement = Statement::new(&file, &image_sha256, predicate).to_json()?;
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
async fn sign(bench: &Workbench<'_>, message: &[u8]) -> Result<Vec<u8>> {
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
    let mut versions = BTreeMap::from([
        ("imgbuild".to_owned(), tools.imgbuild.to_owned()),
        ("qemu-img".to_owned(), tools.qemu_img.clone()),
    ]);
    if let Some(version) = &tools.qemu_system {
        versions.insert("qemu-system".into(), version.clone());
    }
    versions
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
    if let Some(report) = &results.audit {
        let unread = report.unread.iter();
        all.push(outcome(
            "audit",
            Outcome::Audit(Audit {
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

/// What goes into an image: all of it is known before it is sealed. `steps` are the plan's, as they were done.
pub(super) fn definition(
    bench: &Workbench<'_>,
    base: &BaseImage,
    steps: &[Step],
) -> BuildDefinition {
    let (plan, public) = (bench.plan, bench.public());
    let repository = bench.repository.as_ref();
    let recipe = plan.texts.first().map_or("", |(name, _)| name);
    let prefix = repository.map_or("", |repository| &repository.prefix);
    let vars = plan.vars.iter();
    let secrets: std::collections::BTreeSet<&String> =
        steps.iter().flat_map(|step| &step.secrets).collect();
    let of = |role: Role| {
        let steps = steps.iter().filter(move |step| step.role == role);
        steps.map(|step| done(step, &public)).collect()
    };
    BuildDefinition {
        build_type: BUILD_TYPE.into(),
        external_parameters: External {
            image: Image {
                name: plan.name.clone(),
                version: bench.version.number.to_string(),
                label: bench.version.label.clone(),
                description: public.text(&plan.description),
                labels: plan
                    .labels
                    .iter()
                    .map(|(name, value)| (public.text(name), public.text(value)))
                    .collect(),
            },
            recipe: format!("{prefix}{}", file_name(Path::new(recipe))),
            vars: vars
                .map(|(name, value)| (name.clone(), public.value(value)))
                .collect(),
            secrets: secrets.into_iter().cloned().collect(),
            left_out: plan.left_out.iter().map(|name| public.text(name)).collect(),
        },
        internal_parameters: Internal {
            import: plan.import,
            machine: (!plan.import).then(|| Machine {
                cpus: plan.machine.cpus,
                memory: plan.machine.memory,
                firmware: plan.machine.firmware.name().into(),
                accelerator: bench.accel.name().into(),
            }),
            steps: of(Role::Step),
            tests: of(Role::Test),
            seal_kept: (!plan.import)
                .then(|| plan.keep.iter().map(|item| item.name().into()).collect()),
            format: plan.output.format.name().into(),
        },
        resolved_dependencies: dependencies(bench, base, steps),
    }
}

fn done(step: &Step, public: &Public) -> Done {
    Done {
        name: public.text(&step.name),
        action: step.action.name().into(),
        sha256: step.digest.clone(),
    }
}

fn dependencies(bench: &Workbench<'_>, base: &BaseImage, steps: &[Step]) -> Vec<Dependency> {
    let (plan, public) = (bench.plan, bench.public());
    let mut all = vec![base_image(base)];
    if let Some(repository) = &bench.repository {
        all.push(Dependency {
            name: "repository".into(),
            uri: repository
                .remote
                .as_ref()
                .map(|remote| format!("git+{remote}")),
            digest: Digests::from([("gitCommit".to_owned(), repository.commit.clone())]),
            annotations: About {
                dirty: Some(repository.dirty),
                ..About::new(Kinds::Repository)
            },
        });
    }
    let named = |kind: Kinds, name: &str, location: &str, digest: &str| Dependency {
        name: name.to_owned(),
        uri: public_url(location),
        digest: sha256(digest),
        annotations: About::new(kind),
    };
    all.extend(
        plan.texts
            .iter()
            .map(|(name, sha256)| named(Kinds::Recipe, &file_name(Path::new(name)), "", sha256)),
    );
    all.extend(plan.documents.iter().map(|document| {
        named(
            Kinds::Data,
            &document.name,
            &document.location,
            &document.sha256,
        )
    }));
    let user_data = plan.seed.user_data.as_ref().map(|data| match data {
        UserData::Text(text) => text.clone(),
        UserData::Config(table) => table.to_string(),
    });
    let seed = [
        ("user-data", &user_data),
        ("network-config", &plan.seed.network_config),
        ("vendor-data", &plan.seed.vendor_data),
    ];
    for (name, text) in seed {
        if let Some(text) = text {
            all.push(Dependency {
                name: name.into(),
                uri: None,
                digest: digests(text.as_bytes()),
                annotations: About::new(Kinds::CloudInit),
            });
        }
    }
    all.extend(steps.iter().flat_map(|step| of_step(step, &public)));
    for dependency in &mut all {
        // What an address is called, or has in its path, comes from the recipe as well.
        dependency.name = public.of_guest(&dependency.name);
        dependency.uri = dependency.uri.as_deref().map(|uri| public.of_guest(uri));
    }
    all
}

fn base_image(base: &BaseImage) -> Dependency {
    let kind = match base.verified {
        Verified::Record { .. } | Verified::Registry { .. } => Kinds::ParentImage,
        _ => Kinds::BaseImage,
    };
    Dependency {
        name: file_name(Path::new(&base.origin)),
        uri: public_url(&base.origin),
        digest: sha256(&base.sha256),
        annotations: About {
            verified: Some(record::public(&base.verified)),
            ..About::new(kind)
        },
    }
}

/// What one step uses.
fn of_step(step: &Step, public: &Public) -> Vec<Dependency> {
    let step_name = public.text(&step.name);
    let about = |kind: Kinds, to: Option<String>| About {
        step: Some(step_name.clone()),
        to: to.map(|to| public.of_guest(&to)),
        ..About::new(kind)
    };
    match &step.action {
        Action::Run { script } | Action::Local { script, .. } => vec![Dependency {
            name: step_name.clone(),
            uri: None,
            digest: digests(script),
            annotations: about(Kinds::Script, None),
        }],
        Action::Upload { tree, to, .. } => {
            // Content of the recipe's own has no file here.
            let root = match tree.root.file_name() {
                Some(name) => name.to_string_lossy().into_owned(),
                None => file_name(Path::new(to)),
            };
            let to = match to.ends_with('/') {
                true => format!("{to}{root}"),
                false => to.clone(),
            };
            let below = |start: &str, path: &Path| match path.as_os_str().is_empty() {
                true => start.to_owned(),
                false => format!("{start}/{}", path.display()),
            };
            let files = step.files.iter();
            files
                .map(|(path, digest)| Dependency {
                    name: below(&root, path),
                    uri: None,
                    digest: sha256(digest),
                    annotations: about(Kinds::Upload, Some(below(&to, path))),
                })
                .collect()
        }
        Action::Fetch(fetch) => {
            let digest = &fetch.digest;
            let name = digest.algorithm.name().to_owned();
            vec![Dependency {
                name: fetch.name().to_owned(),
                uri: fetch.urls.first().and_then(|url| public_url(url)),
                digest: Digests::from([(name, digest.hex.clone())]),
                annotations: about(Kinds::Fetch, Some(fetch.to.clone())),
            }]
        }
        Action::Packages { .. } | Action::Download { .. } | Action::Reboot | Action::Breakpoint => {
            vec![]
        }
    }
}
