//! The tables of a recipe as they are written. Public API: a key that has shipped keeps its meaning.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

pub use super::value::{Cpus, FileOrTable, Size, Timeout};

/// `[image]`: what is built.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Image {
    /// A DNS label: lower-case letters, digits and `-`, at most 63.
    pub name: Spanned<String>,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// One of `[secrets]`: exactly one of the three says where it comes from.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Secret {
    /// An environment variable of imgbuild's own process.
    pub env: Option<Spanned<String>>,
    /// A file; one trailing newline is not part of the secret.
    pub file: Option<Spanned<String>>,
    /// A shell command on this machine, whose output it is; one trailing newline is not part of it.
    pub command: Option<Spanned<String>>,
}

/// `[source]`: the base image; exactly one of `ubuntu`, `debian`, `url` and `file`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Base {
    /// A version (`24.04`) or codename (`noble`).
    pub ubuntu: Option<Spanned<String>>,
    /// A version (`12`) or codename (`bookworm`).
    pub debian: Option<Spanned<String>>,
    pub url: Option<Spanned<String>>,
    /// A path, used in place.
    pub file: Option<Spanned<String>>,
    /// The digest of the image.
    pub sha256: Option<Spanned<String>>,
    /// A URL or path of a checksum list.
    pub checksums: Option<Spanned<String>>,
    /// A URL or path of an OpenPGP signature of `checksums`.
    pub signature: Option<Spanned<String>>,
    /// The path of the only OpenPGP key that is trusted for `signature`.
    pub key: Option<Spanned<String>>,
    /// For a `url`: other URLs of the same file, tried in order after it. For `ubuntu` and `debian`: roots of trees that
    /// are used instead of the distribution's own.
    #[serde(default)]
    pub mirrors: Vec<Spanned<String>>,
}

/// `[machine]`: the temporary VM, and the size of the disk in the image.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Machine {
    #[serde(default = "two_cpus")]
    pub cpus: Spanned<Cpus>,
    #[serde(default = "two_gib")]
    pub memory: Spanned<Size>,
    /// Default: as large as the base image.
    pub disk: Option<Spanned<Size>>,
    #[serde(default)]
    pub firmware: Firmware,
    #[serde(default)]
    pub accel: Accel,
}

fn two_cpus() -> Spanned<Cpus> {
    Spanned::new(0..0, Cpus(2))
}

fn two_gib() -> Spanned<Size> {
    Spanned::new(0..0, Size(2 << 30))
}

/// The firmware that the machine boots with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    #[default]
    Bios,
    Uefi,
}

/// How the machine's CPU runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accel {
    /// KVM where it works, else emulation.
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// `[cloud-init]`: the user's own data, merged with what the build needs.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CloudInit {
    pub user_data: Option<Spanned<FileOrTable>>,
    pub network_config: Option<Spanned<FileOrTable>>,
    pub vendor_data: Option<Spanned<FileOrTable>>,
}

/// `[ssh]`: how the build reaches the guest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ssh {
    /// The build's own user; made for the build and removed by sealing.
    #[serde(default = "builder")]
    pub user: Spanned<String>,
    /// The port that the guest's sshd listens on.
    #[serde(default = "port_22")]
    pub port: u16,
    /// How long booting may take, from power-on to a login. Cloud-init after it, a reconnection, and powering off may
    /// each take as long.
    #[serde(default = "five_minutes")]
    pub timeout: Timeout,
}

fn builder() -> Spanned<String> {
    Spanned::new(0..0, "imgbuild".into())
}

fn port_22() -> u16 {
    22
}

fn five_minutes() -> Timeout {
    Timeout(std::time::Duration::from_secs(300))
}

/// `[[step]]` and `[[test]]`: exactly one action, and how it is done.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Step {
    pub name: Option<Spanned<String>>,
    /// Shell text, run by `/bin/sh -eu`, or by the interpreter of its `#!` line.
    pub run: Option<Spanned<String>>,
    /// The path of a script, run like `run`.
    pub script: Option<Spanned<String>>,
    /// Packages for the guest's package manager.
    pub packages: Option<Spanned<Vec<String>>>,
    pub upload: Option<Spanned<Upload>>,
    /// `reboot = true` boots the guest anew and goes on when SSH answers.
    pub reboot: Option<Spanned<bool>>,
    /// As root (the default) or as the build's user.
    #[serde(default = "yes")]
    pub sudo: bool,
    #[serde(default)]
    pub env: BTreeMap<Spanned<String>, String>,
    /// Names from `[secrets]`, given to the step as environment.
    #[serde(default)]
    pub secrets: Vec<Spanned<String>>,
    pub timeout: Option<Timeout>,
    /// How often a failed step is tried again.
    #[serde(default)]
    pub retries: u32,
    /// Exit codes that are success.
    pub ok_exit_codes: Option<Spanned<Vec<i32>>>,
}

impl Step {
    /// The actions that this step gives; a valid one gives exactly one.
    pub fn actions(&self) -> Vec<&'static str> {
        let given = [
            ("run", self.run.is_some()),
            ("script", self.script.is_some()),
            ("packages", self.packages.is_some()),
            ("upload", self.upload.is_some()),
            ("reboot", self.reboot.is_some()),
        ];
        let names = given.into_iter().filter(|(_, given)| *given);
        names.map(|(name, _)| name).collect()
    }
}

fn yes() -> bool {
    true
}

/// `upload = { from = "…", to = "…" }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Upload {
    /// A file or folder beside the recipe. A folder's content goes into `to`.
    pub from: Spanned<String>,
    /// An absolute path in the guest; one that ends in `/` is a folder.
    pub to: Spanned<String>,
    /// Owner in the guest; root if not given.
    pub owner: Option<Spanned<String>>,
}

/// `[seal]`: what the image forgets before it is shipped.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Seal {
    /// What is not forgotten.
    pub keep: Vec<Spanned<String>>,
}

/// `[output]`: the artifact.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Output {
    pub format: OutputFormat,
    pub compression: Option<Spanned<Compression>>,
    /// Where it goes; `out/NAME.FORMAT` in the current folder if not given. Relative to the current folder.
    pub path: Option<Spanned<String>>,
}

/// The artifact's format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputFormat {
    #[default]
    Qcow2,
    Raw,
}

/// The artifact's compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    Zstd,
    None,
}
