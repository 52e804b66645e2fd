//! The tables of a recipe as they are written. Public API: a key that has shipped keeps its meaning.
//!
//! The comments of tables and keys are what editors and `docs/recipe.md` say about them.

mod step;
mod target;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use super::data::Data;
use super::schema::{self, pattern};
use super::spanned::Spanned;
pub use super::value::{Address, Cache, Cpus, FileOrTable, Mode, Size, Template, Timeout};
pub use step::*;
pub use target::*;

/// What is built.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Image {
    /// Lower-case letters, digits and `-`, at most 63, no `-` at the ends. Names the output, and is the guest's host name
    /// during the tests.
    #[schemars(extend("pattern" = pattern::DNS_LABEL), example = &"web")]
    pub name: Spanned<String>,
    /// What versions are called besides their numbers, for those who want dates: `%Y` and the like are those of `strftime`, in
    /// UTC, when the build begins. It needs a dot or begins with a digit, and is no number. When an earlier version has the
    /// same, `-2` is put behind it, and so on.
    #[schemars(example = &"%Y.%m.%d")]
    pub version: Option<Spanned<String>>,
    /// For the build record.
    #[serde(default)]
    #[schemars(example = &"Debian 12 with nginx")]
    pub description: String,
    /// For the build record.
    #[serde(default)]
    #[schemars(example = json!({"team": "platform"}))]
    pub labels: BTreeMap<String, String>,
}

/// Where a secret's value comes from: exactly one of the keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(transform = schema::one_origin)]
pub struct Secret {
    /// A variable of imgbuild's own environment.
    #[schemars(example = &"REGISTRY_TOKEN")]
    pub env: Option<Spanned<String>>,
    /// A file, beside the recipe or with an absolute path. One newline at its end is not part of the secret.
    #[schemars(example = &"/run/secrets/token")]
    pub file: Option<Spanned<String>>,
    /// A command for `sh` on this machine, run in the recipe's folder. The value is what it prints, without one newline at
    /// the end. It has two minutes, and no input.
    #[schemars(example = &"pass show build/token")]
    pub command: Option<Spanned<String>>,
    /// Whether layers may hold the machine's memory after a step with this secret. If not, no memory is saved until the guest
    /// has rebooted.
    #[serde(default)]
    #[schemars(example = true)]
    pub saved_memory: bool,
}

/// The base image: exactly one of `ubuntu`, `debian`, `nixos`, `url`, `file`, `recipe`, `image` and `template`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(transform = schema::one_source)]
pub struct Base {
    /// A release of Ubuntu by version (`24.04`), codename (`noble`) or alias (`lts`): the newest cloud image in Ubuntu's
    /// index.
    #[schemars(example = &"24.04")]
    pub ubuntu: Option<Spanned<String>>,
    /// A release of Debian by version (`12`) or codename (`bookworm`): the newest `genericcloud` image.
    #[schemars(example = &"12")]
    pub debian: Option<Spanned<String>>,
    /// An image that `nix build` makes on this machine.
    #[schemars(example = json!({"flake": ".#image"}))]
    pub nixos: Option<Spanned<Nixos>>,
    /// An http or https address of an image. Needs `sha256` or `checksums`.
    #[schemars(extend("pattern" = pattern::WEB), example = &"https://images.example.org/base.qcow2")]
    pub url: Option<Spanned<String>>,
    /// A file on this machine, used where it is and never written to.
    #[schemars(example = &"../images/base.qcow2")]
    pub file: Option<Spanned<String>>,
    /// The path of another recipe. Its image is built first, in the same place, and this one is built on it.
    #[schemars(example = &"base.toml")]
    pub recipe: Option<Spanned<String>>,
    /// A version in the registry: `base@7` by its number or label, `base@stable` that a channel points to, `base` the newest.
    /// With `--target` one on that target.
    #[schemars(extend("pattern" = pattern::VERSION), example = &"base@stable")]
    pub image: Option<Spanned<String>>,
    /// A template on the target, by its id or its name, whoever has made it. Only with `--target`.
    #[schemars(example = 9000)]
    pub template: Option<Spanned<Template>>,
    /// The digest that the image must have. With `url` or `file`.
    #[schemars(extend("pattern" = pattern::SHA256), example = &schema::SAMPLE_DIGEST)]
    pub sha256: Option<Spanned<String>>,
    /// Address or path of a checksum list, as `sha256sum`, `sha512sum` or BSD's tools write it. With `url` or `file`, not
    /// beside `sha256`.
    #[schemars(example = &"https://images.example.org/SHA256SUMS")]
    pub checksums: Option<Spanned<String>>,
    /// Address or path of a detached OpenPGP signature of that list. Needs `key`.
    #[schemars(example = &"https://images.example.org/SHA256SUMS.gpg")]
    pub signature: Option<Spanned<String>>,
    /// The path of the OpenPGP public key: the only one that is trusted for `signature`.
    #[schemars(example = &"release-key.asc")]
    pub key: Option<Spanned<String>>,
    /// With `url`: other addresses of the same file, tried after it in their order. With `ubuntu` and `debian`: roots of
    /// trees that are asked instead of the distribution's own, in their order.
    #[serde(default)]
    #[schemars(
        inner(regex(pattern = pattern::WEB)),
        example = ["https://mirror.example.org/base.qcow2"]
    )]
    pub mirrors: Vec<Spanned<String>>,
    /// Takes the image as it is, converts it and records it. No machine is booted, so nothing is sealed, audited or tested:
    /// for images that imgbuild cannot log in to. No `[machine]`, `[cloud-init]`, `[ssh]`, `[seal]`, `[secrets]`,
    /// `[[step]]` or `[[test]]` beside it.
    #[serde(default)]
    #[schemars(example = true)]
    pub import: bool,
}

impl Base {
    /// Whether it is nothing that is fetched: imgbuild builds it, or it is a template.
    pub fn is_built_or_there(&self) -> bool {
        self.recipe.is_some() || self.image.is_some() || self.template.is_some()
    }
}

/// An image from a flake.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Nixos {
    /// A flake's output that is an image, such as `.#nixosConfigurations.dev.config.system.build.images.qemu`. A path
    /// starts at the recipe's folder.
    #[schemars(example = &".#image")]
    pub flake: Spanned<String>,
    /// The image's path in the output, if there are several.
    #[schemars(example = &"nixos.qcow2")]
    pub file: Option<Spanned<String>>,
}

/// The temporary machine, and the size of the disk in the image.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Machine {
    /// 1 to 255.
    #[serde(default = "two_cpus")]
    #[schemars(example = 4)]
    pub cpus: Spanned<Cpus>,
    /// 64 MiB to 1 TiB, in whole MiB.
    #[serde(default = "two_gib")]
    #[schemars(example = &"4GiB")]
    pub memory: Spanned<Size>,
    /// The size of the disk in the build and in the image, if it is to be larger than the base image's: 64 MiB to 16 TiB,
    /// in whole MiB.
    #[schemars(example = &"20GiB")]
    pub disk: Option<Spanned<Size>>,
    /// How build and test machine boot. `uefi` needs OVMF on this machine.
    #[serde(default)]
    #[schemars(example = &"uefi")]
    pub firmware: Firmware,
    /// A TPM 2.0, for machines on a Proxmox VE node and the template. Builds on this machine's QEMU have none.
    #[serde(default)]
    #[schemars(example = true)]
    pub tpm: bool,
    /// How the machine's CPU runs.
    #[serde(default)]
    #[schemars(example = &"kvm")]
    pub accel: Accel,
}

fn two_cpus() -> Spanned<Cpus> {
    Spanned::new(0..0, Cpus(2))
}

fn two_gib() -> Spanned<Size> {
    Spanned::new(0..0, Size(2 << 30))
}

/// The firmware that the machine boots with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = schema::or_template)]
pub enum Firmware {
    #[default]
    Bios,
    Uefi,
}

/// How the machine's CPU runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = schema::or_template)]
pub enum Accel {
    /// KVM where it works, else emulation, with a note.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// Emulation.
    Tcg,
}

/// Your own data for the first boot of the build machine. Each key is the path of a file, or a table with the content.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CloudInit {
    /// Merged with what the build needs. A file may be anything that cloud-init takes, by its first line; a table is
    /// cloud-config.
    #[schemars(example = json!({"timezone": "Etc/UTC"}))]
    pub user_data: Option<Spanned<FileOrTable>>,
    /// NoCloud's `network-config`, as it is.
    #[schemars(example = &"files/network.yaml")]
    pub network_config: Option<Spanned<FileOrTable>>,
    /// NoCloud's `vendor-data`; a table is cloud-config.
    #[schemars(example = &"files/vendor.yaml")]
    pub vendor_data: Option<Spanned<FileOrTable>>,
}

/// How the build reaches the guest.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ssh {
    /// The build's own user: made for the build, removed by sealing. Not root, and no user that the image has.
    #[serde(default = "builder")]
    #[schemars(extend("pattern" = pattern::USER), example = &"builder")]
    pub user: Spanned<String>,
    /// Where the guest's SSH server listens.
    #[serde(default = "port_22")]
    #[schemars(extend("minimum" = 1), example = 2222)]
    pub port: Spanned<u16>,
    /// Where a machine on a Proxmox VE node is looked for: at the address that its guest agent tells, that it shows on its
    /// serial console, or at this one. `auto` tries all of them, and the static ones in `[cloud-init]`.
    #[serde(default)]
    #[schemars(example = &"192.0.2.10")]
    pub address: Address,
    /// How long each of these may take: until SSH lets us in, until cloud-init is done after that, each reconnecting after
    /// a reboot, and powering off.
    #[serde(default = "five_minutes")]
    #[schemars(example = &"15m")]
    pub timeout: Spanned<Timeout>,
}

fn builder() -> Spanned<String> {
    Spanned::new(0..0, "imgbuild".into())
}

fn port_22() -> Spanned<u16> {
    Spanned::new(0..0, 22)
}

fn five_minutes() -> Spanned<Timeout> {
    Spanned::new(0..0, Timeout(std::time::Duration::from_secs(300)))
}

/// What sealing leaves alone. Sealing itself is always on.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Seal {
    /// Items that sealing leaves alone, and the audit does not check.
    #[schemars(transform = schema::seal_items, example = ["logs", "package-lists"])]
    pub keep: Vec<Spanned<String>>,
}

/// Who signs the provenance of the image.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Signing {
    /// An ed25519 key in OpenSSH's format: a private one, or a public one whose private part ssh-agent holds. If not given:
    /// the key that imgbuild has made at first use. `IMGBUILD_SIGNING_KEY` goes before both.
    #[schemars(extend("pattern" = pattern::FILE), example = &"keys/release")]
    pub key: Option<Spanned<String>>,
}

/// The image that comes out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Output {
    /// The image's format.
    #[schemars(example = &"raw")]
    pub format: OutputFormat,
    /// For qcow2. If not given: zstd where this machine's `qemu-img` has it, else none. A reader without zstd cannot open an
    /// image that is compressed by it.
    #[schemars(example = &"none")]
    pub compression: Option<Spanned<Compression>>,
    /// The file to make; `out/NAME.FORMAT` if not given. Starts at the current folder, not at the recipe's.
    #[schemars(extend("pattern" = pattern::FILE), example = &"/srv/images/web.qcow2")]
    pub path: Option<Spanned<String>>,
}

/// The artifact's format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = schema::or_template)]
pub enum OutputFormat {
    #[default]
    Qcow2,
    Raw,
}

/// The artifact's compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = schema::or_template)]
pub enum Compression {
    Zstd,
    None,
}
