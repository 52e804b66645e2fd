//! The build record: what went into an image and what came out, in JSON beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::backend::qemu::accel::Chosen;
use crate::error::{Context, Error, Result};
use crate::plan::{Plan, Step};
use crate::proc::Program;
use crate::run::events::{Events, Unit};
use crate::run::{Run, Timing};
use crate::seal;
use crate::source::{BaseImage, Verified};
use crate::text::hex;

/// The version of this format.
const SCHEMA: u32 = 1;

/// Everything that is recorded of one build.
#[derive(Debug, Serialize)]
pub struct Record {
    schema: u32,
    image: Image,
    build: Build,
    recipe: Recipe,
    source: Source,
    machine: Machine,
    steps: Vec<Done>,
    tests: Vec<Tested>,
    audit: seal::Report,
    timings: Vec<Timing>,
    tools: Tools,
    /// The image itself.
    pub artifact: Artifact,
}

#[derive(Debug, Serialize)]
struct Image {
    name: String,
    description: String,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Build {
    id: String,
    started: Timestamp,
    finished: Timestamp,
}

#[derive(Debug, Serialize)]
struct Recipe {
    file: String,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct Source {
    origin: String,
    sha256: String,
    verified: Verified,
}

#[derive(Debug, Serialize)]
struct Machine {
    cpus: u32,
    memory: u64,
    firmware: crate::backend::Firmware,
    accel: Chosen,
}

#[derive(Debug, Serialize)]
struct Done {
    name: String,
    action: &'static str,
    sha256: String,
}

/// A test that passed.
#[derive(Debug, Serialize)]
pub struct Tested {
    name: String,
    sha256: String,
    result: &'static str,
}

impl Tested {
    /// Records a test that passed; a failing one ends the build without a record.
    pub fn passed(test: &Step) -> Self {
        Tested {
            name: test.name.clone(),
            sha256: test.digest.clone(),
            result: "passed",
        }
    }
}

/// What the artifact is.
#[derive(Debug, Serialize)]
pub struct Artifact {
    file: String,
    format: crate::source::Format,
    size: u64,
    pub sha256: String,
}

/// The versions of the programs that made the image.
#[derive(Debug, Serialize)]
pub struct Tools {
    imgbuild: &'static str,
    #[serde(rename = "qemu-img")]
    qemu_img: String,
    #[serde(rename = "qemu-system")]
    qemu_system: String,
}

impl Tools {
    /// Asks the programs.
    pub async fn ask() -> Result<Self> {
        Ok(Tools {
            imgbuild: env!("CARGO_PKG_VERSION"),
            qemu_img: version("qemu-img").await?,
            qemu_system: version("qemu-system-x86_64").await?,
        })
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
    pub started: Timestamp,
    pub base: &'r BaseImage,
    pub accel: Chosen,
    pub audit: seal::Report,
    pub tests: Vec<Tested>,
    pub sha256: &'r str,
    pub tools: Tools,
}

impl Record {
    /// Puts the record together.
    pub fn new(plan: &Plan, run: &Run, results: Results<'_>) -> Self {
        let steps = plan.steps.iter().map(|step| Done {
            name: step.name.clone(),
            action: step.action.name(),
            sha256: step.digest.clone(),
        });
        Record {
            schema: SCHEMA,
            image: Image {
                name: plan.name.clone(),
                description: plan.description.clone(),
                labels: plan.labels.clone(),
            },
            build: Build {
                id: run.id.clone(),
                started: results.started,
                finished: Timestamp::now(),
            },
            recipe: Recipe {
                file: file_name(Path::new(plan.recipe.name.as_ref())),
                sha256: plan.recipe_digest.clone(),
            },
            source: Source {
                origin: public_origin(&results.base.origin),
                sha256: results.base.sha256.clone(),
                verified: public(&results.base.verified),
            },
            machine: Machine {
                cpus: plan.machine.cpus,
                memory: plan.machine.memory,
                firmware: plan.machine.firmware,
                accel: results.accel,
            },
            steps: steps.collect(),
            tests: results.tests,
            audit: results.audit,
            timings: run.timings().clone(),
            tools: results.tools,
            artifact: Artifact {
                file: file_name(&plan.output.path),
                format: plan.output.format,
                size: 0,
                sha256: results.sha256.to_owned(),
            },
        }
    }

    /// The record as it is written, with the artifact's final size in bytes.
    pub fn to_json(mut self, size: u64) -> Result<Vec<u8>> {
        self.artifact.size = size;
        let mut text = serde_json::to_vec_pretty(&self).doing(|| "writing the build record")?;
        text.push(b'\n');
        Ok(text)
    }
}

/// Where the record of the image at `path` is.
pub fn path(image: &Path) -> PathBuf {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    image.with_file_name(format!("{name}.build.json"))
}

fn public(verified: &Verified) -> Verified {
    match verified.clone() {
        Verified::Checksums { list } => Verified::Checksums {
            list: public_origin(&list),
        },
        Verified::Signature { list, fingerprint } => Verified::Signature {
            list: public_origin(&list),
            fingerprint,
        },
        other => other,
    }
}

/// The folders of the machine that built it are nobody's business.
fn public_origin(origin: &str) -> String {
    match origin.contains("://") {
        true => origin.to_owned(),
        false => file_name(Path::new(origin)),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// 16 hexadecimal digits that stand for `bytes` in a file name.
pub fn short_digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..8])
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
