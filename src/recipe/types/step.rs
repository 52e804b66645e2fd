//! `[[step]]` and `[[test]]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::super::schema::{self, pattern};
use super::{Cache, Mode, Spanned, Timeout};

/// One thing that is done: exactly one action, and how it is done.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(transform = schema::one_action)]
pub struct Step {
    /// What it is called in output and record; action and number (`run-3`) if not given. Each name once.
    #[schemars(example = &"install the agent")]
    pub name: Option<Spanned<String>>,
    /// A script, run by `/bin/sh -eu` or by the interpreter of its `#!` line.
    #[schemars(example = &"systemctl enable hello.service")]
    pub run: Option<Spanned<String>>,
    /// The path of a script, at most 16 MiB, run like `run`.
    #[schemars(example = &"files/install.sh")]
    pub script: Option<Spanned<String>>,
    /// Installs these with `apt-get`, `dnf` or `apk`, whichever the guest has.
    #[schemars(length(min = 1), example = ["jq", "curl"])]
    pub packages: Option<Spanned<Vec<String>>>,
    /// Copies a file or folder into the guest.
    #[schemars(example = json!({"from": "files/app", "to": "/srv/app/"}))]
    pub upload: Option<Spanned<Upload>>,
    /// Copies a file or folder from the guest to this machine.
    #[schemars(example = json!({"from": "/var/log/dpkg.log", "to": "out/"}))]
    pub download: Option<Spanned<Download>>,
    /// Writes one file in the guest.
    #[schemars(example = json!({"to": "/etc/motd", "content": "Hello\n"}))]
    pub file: Option<Spanned<File>>,
    /// Downloads a file to this machine's cache, checks it, and copies it into the guest.
    #[schemars(example = json!({
        "url": "https://example.org/tool.tar.gz", "sha256": schema::SAMPLE_DIGEST, "to": "/opt/tool", "unpack": true
    }))]
    pub fetch: Option<Spanned<Fetch>>,
    /// Reboots, and goes on when the guest has booted anew.
    #[schemars(extend("const" = true), example = true)]
    pub reboot: Option<Spanned<bool>>,
    /// A script for `sh -eu` on this machine, run in the recipe's folder.
    #[schemars(example = &"make -C app")]
    pub local: Option<Spanned<String>>,
    /// Tells how to log in, and waits until somebody presses Enter. Refused where there is no terminal, unless
    /// `--skip-breakpoints` is given.
    #[schemars(extend("const" = true), example = true)]
    pub breakpoint: Option<Spanned<bool>>,
    /// The name of a bundle, whose steps are done here.
    #[serde(rename = "use")]
    #[schemars(example = &"motd")]
    pub bundle: Option<Spanned<String>>,
    /// The parameters of the bundle that `use` names.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>", example = json!({"text": "Hello"}))]
    pub with: BTreeMap<String, toml::Value>,
    /// An expression over variables and data, without braces. Where it is false, the step is not there.
    #[serde(rename = "if")]
    #[schemars(with = "Option<schema::Condition>", example = &"version == '2'")]
    pub condition: Option<toml::Value>,
    /// The backends on which this step is done; all if not given.
    #[schemars(example = ["qemu"])]
    pub only_on: Option<Spanned<Vec<Target>>>,
    /// The name of the step that this one goes before, instead of where it stands.
    #[schemars(example = &"install the agent")]
    pub before: Option<String>,
    /// The name of the step that this one goes after, instead of where it stands.
    #[schemars(example = &"install the agent")]
    pub after: Option<String>,
    /// After all other steps, and also when one of them failed. Several are done in reverse order. Not for tests.
    #[serde(default)]
    #[schemars(example = true)]
    pub finally: bool,
    /// As root, or as the build's user. For `run` and `script`.
    #[schemars(extend("default" = true), example = false)]
    pub sudo: Option<Spanned<bool>>,
    /// Whether the content of what `script`, `upload` or `file` name is a template.
    #[schemars(extend("default" = false), example = true)]
    pub template: Option<Spanned<bool>>,
    /// Environment variables. For `run`, `script`, `packages`, `local` and `use`.
    #[serde(default)]
    #[schemars(extend("propertyNames" = {"pattern": pattern::VARIABLE}), example = json!({"LANG": "C.UTF-8"}))]
    pub env: BTreeMap<Spanned<String>, String>,
    /// Names from `[secrets]`, to have as environment variables. For `run`, `script`, `packages`, `local` and `use`.
    #[serde(default)]
    #[schemars(example = ["TOKEN"])]
    pub secrets: Vec<Spanned<String>>,
    /// For one try. Not for `breakpoint` and `use`.
    #[schemars(extend("default" = "1h"), example = &"10m")]
    pub timeout: Option<Spanned<Timeout>>,
    /// How often a failed try is repeated. Not for `reboot`, `breakpoint` and `use`.
    #[schemars(extend("default" = 0), example = 2)]
    pub retries: Option<Spanned<u32>>,
    /// Exit codes that are success, 0 to 255. For `run`, `script` and `local`.
    #[schemars(
        length(min = 1),
        inner(range(min = 0, max = 255)),
        extend("default" = [0]),
        example = [0, 3]
    )]
    pub ok_exit_codes: Option<Spanned<Vec<i32>>>,
    /// The step may break its connection, for instance by changing the network. The connection is made anew, and the step
    /// has succeeded. For `run` and `script`.
    #[schemars(extend("default" = false), example = true)]
    pub expect_disconnect: Option<Spanned<bool>>,
    /// Whether later builds may take the result over instead of doing the step again, or for how long. With `false` the step
    /// is always done, and so is what follows it.
    #[schemars(extend("default" = true), example = &"1d")]
    pub cache: Option<Cache>,
}

/// The actions that a step can have, in the order in which they are told.
pub const ACTIONS: &[&str] = &[
    "run",
    "script",
    "packages",
    "upload",
    "download",
    "file",
    "fetch",
    "reboot",
    "local",
    "breakpoint",
    "use",
];

impl Step {
    /// The actions that this step gives; a valid one gives exactly one.
    pub fn actions(&self) -> Vec<&'static str> {
        let given = [
            self.run.is_some(),
            self.script.is_some(),
            self.packages.is_some(),
            self.upload.is_some(),
            self.download.is_some(),
            self.file.is_some(),
            self.fetch.is_some(),
            self.reboot.is_some(),
            self.local.is_some(),
            self.breakpoint.is_some(),
            self.bundle.is_some(),
        ];
        let actions = ACTIONS.iter().zip(given).filter(|(_, given)| *given);
        actions.map(|(name, _)| *name).collect()
    }
}

/// What a step can be done on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = schema::or_template)]
pub enum Target {
    #[default]
    Qemu,
    Proxmox,
}

/// From this machine into the guest.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Upload {
    /// A file or folder beside the recipe. A folder's content goes into `to`.
    #[schemars(example = &"files/app")]
    pub from: Spanned<String>,
    /// An absolute path in the guest; one that ends in `/` is a folder.
    #[schemars(extend("pattern" = pattern::ABSOLUTE), example = &"/srv/app/")]
    pub to: Spanned<String>,
    /// Owner of all that is copied, by name or number: `user`, which means its own group too, or `user:group`.
    #[schemars(extend("pattern" = pattern::OWNER, "default" = "root:root"), example = &"www-data")]
    pub owner: Option<Spanned<String>>,
}

/// From the guest to this machine.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Download {
    /// An absolute path of a file or folder in the guest.
    #[schemars(extend("pattern" = pattern::ABSOLUTE), example = &"/var/log/dpkg.log")]
    pub from: Spanned<String>,
    /// Where it goes on this machine. Starts at the current folder; one that ends in `/` is a folder.
    #[schemars(example = &"out/")]
    pub to: Spanned<String>,
}

/// One file in the guest: exactly one of `content` and `from`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(transform = schema::one_content)]
pub struct File {
    /// An absolute path in the guest; with `from`, one that ends in `/` is a folder.
    #[schemars(extend("pattern" = pattern::ABSOLUTE), example = &"/etc/motd")]
    pub to: Spanned<String>,
    /// What is in it.
    #[schemars(example = &"Welcome to {{ name }}\n")]
    pub content: Option<Spanned<String>>,
    /// A file beside the recipe with what is in it.
    #[schemars(example = &"files/motd")]
    pub from: Option<Spanned<String>>,
    /// Permission bits.
    #[schemars(extend("default" = "0644"), example = &"0600")]
    pub mode: Option<Mode>,
    /// Owner, by name or number: `user`, which means its own group too, or `user:group`.
    #[schemars(extend("pattern" = pattern::OWNER, "default" = "root:root"), example = &"www-data")]
    pub owner: Option<Spanned<String>>,
}

/// From the network into the guest, through this machine's cache. Exactly one of `sha256` and `integrity`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(transform = schema::one_digest)]
pub struct Fetch {
    /// An http or https address.
    #[schemars(extend("pattern" = pattern::WEB), example = &"https://example.org/tool.tar.gz")]
    pub url: Spanned<String>,
    /// Other addresses of the same file, tried in order.
    #[serde(default)]
    #[schemars(
        inner(regex(pattern = pattern::WEB)),
        example = ["https://mirror.example.org/tool.tar.gz"]
    )]
    pub mirrors: Vec<Spanned<String>>,
    /// The file's digest.
    #[schemars(extend("pattern" = pattern::SHA256), example = &schema::SAMPLE_DIGEST)]
    pub sha256: Option<Spanned<String>>,
    /// The file's digest as package registries write it: `sha512-…` or `sha256-…`, in base64.
    #[schemars(
        extend("pattern" = pattern::INTEGRITY),
        example = &"sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    )]
    pub integrity: Option<Spanned<String>>,
    /// An absolute path in the guest; one that ends in `/` is a folder.
    #[schemars(extend("pattern" = pattern::ABSOLUTE), example = &"/opt/tool")]
    pub to: Spanned<String>,
    /// Unpack a tar archive (also compressed by gzip, xz or zstd) into the folder `to`.
    #[serde(default)]
    #[schemars(example = true)]
    pub unpack: bool,
    /// How many leading parts of the paths in the archive are left out. Needs `unpack`.
    #[serde(default)]
    #[schemars(example = 1)]
    pub strip: u32,
    /// Permission bits of the file. Not with `unpack`.
    #[schemars(extend("default" = "0644"), example = &"0755")]
    pub mode: Option<Mode>,
    /// Owner, by name or number: `user`, which means its own group too, or `user:group`.
    #[schemars(extend("pattern" = pattern::OWNER, "default" = "root:root"), example = &"www-data")]
    pub owner: Option<Spanned<String>>,
}
