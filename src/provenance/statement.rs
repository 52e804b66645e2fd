//! The statement that is signed: in-toto Statement v1 with SLSA's provenance v1. `docs/provenance.md` tells what each
//! field means; the JSON Schema is made from these types.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;
use crate::source::Verified;

/// What a statement is.
pub const TYPE: &str = "https://in-toto.io/Statement/v1";
/// What its predicate is.
pub const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
/// What a build is, and what its parameters mean: `docs/provenance.md`. No server answers for it.
pub const BUILD_TYPE: &str = "urn:imgbuild:image:v1";
/// Who builds: imgbuild, on the machine of whoever holds the key. That is SLSA's Build L1.
pub const BUILDER: &str = "urn:imgbuild:builder:local";

/// Digests by algorithm (`sha256`, `sha512`, `gitCommit`), in lower-case hex.
pub type Digests = BTreeMap<String, String>;

/// What was built, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "imgbuild provenance", deny_unknown_fields)]
pub struct Statement {
    #[serde(rename = "_type")]
    #[schemars(extend("const" = TYPE))]
    pub kind: String,
    /// The image's file. For a template on a server, whose file only says where it is, its disk as well.
    #[schemars(length(min = 1, max = 2))]
    pub subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    #[schemars(extend("const" = PREDICATE_TYPE))]
    pub predicate_type: String,
    pub predicate: Predicate,
}

/// The image that this is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Subject {
    /// Its file's name; for a disk on a server, the template's.
    pub name: String,
    /// `sha256` of the file, or of the disk's content as a guest sees it.
    #[schemars(extend("minProperties" = 1))]
    pub digest: Digests,
}

/// SLSA's provenance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct Predicate {
    pub build_definition: BuildDefinition,
    pub run_details: RunDetails,
}

/// What went in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct BuildDefinition {
    #[schemars(extend("const" = BUILD_TYPE))]
    pub build_type: String,
    pub external_parameters: External,
    pub internal_parameters: Internal,
    pub resolved_dependencies: Vec<Dependency>,
}

/// What the user decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct External {
    pub image: Image,
    /// The recipe: its path in its git repository, or its file's name.
    pub recipe: String,
    /// The values of its variables. One with credentials or with a path of the builder's machine in it is an
    /// object with its `sha256` only.
    pub vars: BTreeMap<String, Value>,
    /// The names of the secrets that steps get.
    pub secrets: Vec<String>,
    /// The names of steps and tests that were left out by a condition.
    #[serde(rename = "leftOut")]
    pub left_out: Vec<String>,
}

/// What the recipe calls it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Image {
    pub name: String,
    pub version: String,
    /// What the version is called besides its number, if the recipe says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub description: String,
    pub labels: BTreeMap<String, String>,
}

/// What follows from the recipe and the machine that it was built on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Internal {
    /// Whether the image was taken as it is: then there is no machine, and nothing was sealed, audited or tested.
    pub import: bool,
    /// The machine that it was built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine>,
    /// What was done in it, in order.
    pub steps: Vec<Done>,
    /// What a clone of the image had to pass.
    pub tests: Vec<Done>,
    /// What sealing left alone; missing where nothing was sealed.
    #[serde(rename = "sealKept", default, skip_serializing_if = "Option::is_none")]
    pub seal_kept: Option<Vec<String>>,
    /// The format of the image: `qcow2` or `raw`.
    pub format: String,
}

/// The machine that the image was built in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Machine {
    pub cpus: u32,
    /// Bytes.
    pub memory: u64,
    /// `bios` or `uefi`.
    pub firmware: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
}

/// A step or a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Done {
    pub name: String,
    /// The recipe's word for what it does.
    pub action: String,
    /// Over the action and all that it uses. Secrets go into it by name only.
    pub sha256: String,
}

/// Something that the image was made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Dependency {
    pub name: String,
    /// Where it came from, if that is an address. Without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// Missing for a template of which only its server knows: that keeps its content to itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("minProperties" = 1))]
    pub digest: Digests,
    pub annotations: About,
}

/// What a dependency is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct About {
    pub kind: Kinds,
    /// The step or test that uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Where it goes in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How the digest of the base image came to be trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// Whether the repository had changes that the commit has not, or files that it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
}

impl About {
    /// Something of this kind.
    pub fn new(kind: Kinds) -> Self {
        About {
            kind,
            step: None,
            to: None,
            verified: None,
            dirty: None,
        }
    }
}

/// The kinds of dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kinds {
    /// The image that the build started from.
    BaseImage,
    /// The same, where imgbuild has built it.
    ParentImage,
    /// The git repository that the recipe is in.
    Repository,
    /// A text of the recipe: itself, what it extends, its bundles.
    Recipe,
    /// A document of `[data]`.
    Data,
    /// Data for cloud-init.
    CloudInit,
    /// A script that ran in the guest, or on the builder's machine (`local`).
    Script,
    /// A file that was copied into the guest.
    Upload,
    /// A file that was downloaded for the guest.
    Fetch,
}

/// The build itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RunDetails {
    pub builder: Builder,
    pub metadata: Metadata,
    pub byproducts: Vec<Byproduct>,
}

/// Who built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Builder {
    #[schemars(extend("const" = BUILDER))]
    pub id: String,
    /// Of `imgbuild`, `qemu-img` and, if a machine was booted, `qemu-system`.
    pub version: BTreeMap<String, String>,
}

/// Which build, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub struct Metadata {
    /// The build's id.
    pub invocation_id: String,
    #[schemars(extend("format" = "date-time"))]
    pub started_on: String,
    #[schemars(extend("format" = "date-time"))]
    pub finished_on: String,
}

/// Something else that came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Byproduct {
    /// A file's name, or `tests`, `audit`, `versions`.
    pub name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: Digests,
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Outcome>,
}

/// What there is to say of a byproduct; which key it has depends on its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(deny_unknown_fields)]
pub enum Outcome {
    /// How many bytes of the log were there when this was signed.
    Size(u64),
    /// The tests that passed: all of them, or there would be no image.
    Passed(Vec<String>),
    /// What the audit of the disk looked at.
    Audit(Audit),
    /// What steps have recorded.
    Versions(BTreeMap<String, String>),
    /// What could not be looked at for the list of packages.
    Unread(Vec<String>),
}

/// What the audit of the finished disk looked at. It found nothing, or there would be no image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Audit {
    /// Who read the disk for it, for the lists of packages, and for the digest.
    pub by: Reading,
    /// The partition with the root file system.
    pub root: String,
    pub checks: usize,
    pub files: usize,
    /// Partitions that could not be looked into, and why.
    pub unread: Vec<String>,
}

/// Who reads a finished disk, and so whose word it is what is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    /// The machine that imgbuild runs on, which has the image as a file.
    Host,
    /// A guest of the base image, to which the disk was attached read-only.
    Helper,
    /// The sealed guest itself, with the kernel and the programs that are on the disk.
    Guest,
}

impl Statement {
    /// A statement about one image.
    pub fn new(
        name: &str,
        sha256: &str,
        disk: Option<(String, String)>,
        predicate: Predicate,
    ) -> Self {
        let file = (name.to_owned(), sha256.to_owned());
        let subjects = [file].into_iter().chain(disk);
        let subjects = subjects.map(|(name, sha256)| Subject {
            name,
            digest: super::sha256(&sha256),
        });
        Statement {
            kind: TYPE.into(),
            subject: subjects.collect(),
            predicate_type: PREDICATE_TYPE.into(),
            predicate,
        }
    }

    /// The bytes that are signed.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        super::json(self)
    }

    /// Reads a statement. What a later version adds is left out.
    pub fn read(text: &[u8]) -> Result<Self> {
        super::from_json(text, "reading the provenance")
    }

    /// The dependencies of this kind.
    pub fn dependencies(&self, kind: Kinds) -> impl Iterator<Item = &Dependency> {
        let all = &self.predicate.build_definition.resolved_dependencies;
        all.iter()
            .filter(move |dependency| dependency.annotations.kind == kind)
    }

    /// The byproduct of this name.
    pub fn byproduct(&self, name: &str) -> Option<&Byproduct> {
        let all = &self.predicate.run_details.byproducts;
        all.iter().find(|byproduct| byproduct.name == name)
    }
}

/// The JSON Schema of a statement.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let schema = settings
        .into_generator()
        .into_root_schema_for::<Statement>();
    schema.to_value()
}
