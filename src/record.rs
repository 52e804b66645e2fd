//! The build record: what went into an image and what came out, in JSON beside it.

mod read;
mod template;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::backend::qemu::accel::Chosen;
use crate::error::{Context, Error, Result};
use crate::plan::Plan;
use crate::proc::Program;
use crate::provenance::statement::{BuildDefinition, Done, Reading};
use crate::provenance::{file_name, public_origin};
use crate::run::events::{Events, Unit};
use crate::run::{Run, Timing};
use crate::seal;
use crate::source::{Basis, Verified};
use crate::store::registry::Reserved;
use crate::text::hex;
pub use read::{Known, read};
pub use template::{Place, Replica, TemplateFile};

/// The version of this format.
const SCHEMA: u32 = 1;

/// Everything that is recorded of one build.
#[derive(Debug, Serialize)]
pub struct Record {
    schema: u32,
    image: Image,
    build: Build,
    /// The recipe, then what it extends and the bundles that it uses.
    recipe: Vec<Text>,
    /// What the recipe's variables were. Secrets are none.
    vars: BTreeMap<String, serde_json::Value>,
    data: Vec<Text>,
    source: Source,
    /// None for an image that was imported as it is.
    machine: Option<Machine>,
    steps: Vec<Done>,
    /// What steps have recorded, the versions of what they installed for instance.
    versions: BTreeMap<String, String>,
    tests: Vec<Tested>,
    /// Whether what belongs to one machine only was removed.
    sealed: bool,
    /// None if nobody looked.
    audit: Option<Audit>,
    timings: Vec<Timing>,
    tools: Tools,
    /// The image itself.
    pub artifact: Artifact,
}

#[derive(Debug, Serialize)]
struct Image {
    name: String,
    /// The target that it is on, if it is on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    version: u32,
    label: Option<String>,
    description: String,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Build {
    id: String,
    started: Timestamp,
    finished: Timestamp,
}

/// A text that the image was made from, or a document that was looked at.
#[derive(Debug, Serialize)]
struct Text {
    name: String,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct Source {
    origin: String,
    /// By its algorithm; as `identity` that of what a server says of a template, whose content nobody knows.
    #[serde(flatten)]
    digest: BTreeMap<&'static str, String>,
    verified: Verified,
    /// The version in the registry that it is, as `image@number`; none if it is no version.
    version: Option<String>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpus: u32,
    memory: u64,
    firmware: crate::backend::Firmware,
    accel: &'static str,
}

/// A test that passed; a failing one ends the build without a record.
#[derive(Debug, Serialize)]
struct Tested {
    name: String,
    sha256: String,
    result: &'static str,
}

/// What was found on the sealed disk.
#[derive(Debug, Serialize)]
struct Audit {
    by: Reading,
    #[serde(flatten)]
    report: seal::Report,
}

/// What the artifact is.
#[derive(Debug, Serialize)]
pub struct Artifact {
    file: String,
    format: &'static str,
    size: u64,
    pub sha256: String,
}

/// What made the image.
#[derive(Debug, Clone, Serialize)]
pub struct Tools {
    pub imgbuild: &'static str,
    /// None if it is not used.
    #[serde(rename = "qemu-img", skip_serializing_if = "Option::is_none")]
    pub qemu_img: Option<String>,
    /// None if no machine was booted here.
    #[serde(rename = "qemu-system")]
    pub qemu_system: Option<String>,
    /// None if no server was asked.
    #[serde(rename = "proxmox-ve", skip_serializing_if = "Option::is_none")]
    pub proxmox_ve: Option<String>,
    /// How the machine's processor is made.
    #[serde(skip)]
    pub accelerator: &'static str,
    /// The format of the image.
    #[serde(skip)]
    pub format: &'static str,
}

impl Tools {
    /// Asks the programs that are used on this machine.
    pub async fn ask(plan: &Plan, accel: Chosen) -> Result<Self> {
        Ok(Tools {
            imgbuild: env!("CARGO_PKG_VERSION"),
            qemu_img: Some(version("qemu-img").await?),
            qemu_system: match plan.import {
                true => None,
                false => Some(version("qemu-system-x86_64").await?),
            },
            proxmox_ve: None,
            accelerator: accel.name(),
            format: plan.output.format.name(),
        })
    }

    /// Those of a Proxmox VE server of this version.
    pub fn of_server(version: String) -> Self {
        Tools {
            imgbuild: env!("CARGO_PKG_VERSION"),
            qemu_img: None,
            qemu_system: None,
            proxmox_ve: Some(version),
            // What it uses unless it is told otherwise.
            accelerator: "kvm",
            format: "template",
        }
    }
}

async fn version(program: &str) -> Result<String> {
    let said = Program::new(program).arg("--version").stdout().await?;
    let first = said.lines().next().unwrap_or_default();
    let (_, version) = first.split_once("version ").unwrap_or(("", first));
    Ok(version.to_owned())
}

/// What a build found out on its way.
pub struct Results<'r> {
    pub version: &'r Reserved,
    pub started: Timestamp,
    pub base: &'r Basis,
    pub versions: BTreeMap<String, String>,
    /// Who read the sealed image, and what the audit found; none if it was neither sealed nor audited.
    pub audit: Option<(Reading, seal::Report)>,
    /// Of the image's file.
    pub sha256: &'r str,
    /// Its bytes.
    pub size: u64,
    pub tools: &'r Tools,
}

impl Record {
    /// Puts the record together. What the recipe says is in `definition` as far as it may be told.
    pub fn new(plan: &Plan, run: &Run, definition: &BuildDefinition, results: Results<'_>) -> Self {
        let (external, internal) = (
            &definition.external_parameters,
            &definition.internal_parameters,
        );
        Record {
            schema: SCHEMA,
            image: Image {
                name: plan.name.clone(),
                target: plan.target.clone(),
                version: results.version.number,
                label: results.version.label.clone(),
                description: external.image.description.clone(),
                labels: external.image.labels.clone(),
            },
            build: Build {
                id: run.id.clone(),
                started: results.started,
                finished: Timestamp::now(),
            },
            recipe: plan
                .texts
                .iter()
                .map(|(name, sha256)| Text {
                    name: file_name(Path::new(name)),
                    sha256: sha256.clone(),
                })
                .collect(),
            vars: external.vars.clone(),
            data: plan
                .documents
                .iter()
                .map(|document| Text {
                    name: document.name.clone(),
                    sha256: document.sha256.clone(),
                })
                .collect(),
            source: Source {
                origin: public_origin(&results.base.origin),
                digest: BTreeMap::from([known_by(results.base)]),
                verified: public(&results.base.verified),
                version: results.version.parent.clone(),
            },
            machine: (!plan.import).then_some(Machine {
                cpus: plan.machine.cpus,
                memory: plan.machine.memory,
                firmware: plan.machine.firmware,
                accel: results.tools.accelerator,
            }),
            steps: internal.steps.clone(),
            versions: results.versions,
            tests: internal
                .tests
                .iter()
                .map(|test| Tested {
                    name: test.name.clone(),
                    sha256: test.sha256.clone(),
                    result: "passed",
                })
                .collect(),
            sealed: results.audit.is_some(),
            audit: results.audit.map(|(by, report)| Audit { by, report }),
            timings: run.timings().clone(),
            tools: results.tools.clone(),
            artifact: Artifact {
                file: file_name(&results.version.path),
                format: results.tools.format,
                size: results.size,
                sha256: results.sha256.to_owned(),
            },
        }
    }

    /// The record as it is written.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).doing(|| "writing the build record")?;
        text.push(b'\n');
        Ok(text)
    }
}

/// What a record's name has behind that of its image.
const ENDING: &str = ".build.json";

/// Where the record of the image at `path` is.
pub fn path(image: &Path) -> PathBuf {
    let mut name = image.file_name().unwrap_or_default().to_owned();
    name.push(ENDING);
    image.with_file_name(name)
}

/// The image that the record at `path` is about, if that is the name of a record.
pub fn image(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.as_bytes();
    let image = name.strip_suffix(ENDING.as_bytes())?;
    Some(path.with_file_name(OsStr::from_bytes(image)))
}

/// What a base image is known by, and what that is called.
fn known_by(base: &Basis) -> (&'static str, String) {
    let name = base
        .content()
        .map_or("identity", |digest| digest.algorithm.name());
    (name, base.digest.hex.clone())
}

/// How a digest came to be trusted, without the folders of the machine that it was verified on.
pub fn public(verified: &Verified) -> Verified {
    match verified.clone() {
        Verified::Checksums { list } => Verified::Checksums {
            list: public_origin(&list),
        },
        Verified::Flake { flake, output } => Verified::Flake {
            flake: public_origin(&flake),
            output,
        },
        Verified::Record { record } => Verified::Record {
            record: public_origin(&record),
        },
        Verified::Signature { list, fingerprint } => Verified::Signature {
            list: public_origin(&list),
            fingerprint,
        },
        other => other,
    }
}

/// The sha256 of a file in lower-case hex, with a progress bar.
pub async fn digest(path: PathBuf, events: &Events) -> Result<String> {
    let events = events.clone();
    let work = move || -> std::io::Result<String> {
        use std::io::Read;
        let mut file = std::fs::File::open(&path)?;
        let total = file.metadata()?.len();
        let mut hasher = ring::digest::Context::new(&ring::digest::SHA256);
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(hasher.finish().as_ref())),
                read => {
                    hasher.update(&buffer[..read]);
                    done += read as u64;
                    events.progress("digest", done, Some(total), Unit::Bytes);
                }
            }
        }
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new("hashing the image").caused_by(&error))?
        .doing(|| "hashing the image")
}
