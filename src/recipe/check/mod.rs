//! What types cannot say: ranges, names, and keys that go together. Every rule has a test in `tests/recipes/bad`.

pub mod step;
pub mod target;

use std::collections::BTreeMap;
use std::ops::Range;

use super::spanned::Spanned;
use super::types::*;
use crate::error::Fault;
use crate::store::registry::reference::{self, Reference};
use crate::text::{is_dns_label, suggest};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Applies `check` to a table that could be decoded.
pub fn each<T>(table: &Option<T>, check: fn(&T, &mut Vec<Fault>), faults: &mut Vec<Fault>) {
    if let Some(table) = table {
        check(table, faults);
    }
}

pub fn image(image: &Image, faults: &mut Vec<Fault>) {
    let name = image.name.get_ref();
    if !is_dns_label(name) {
        let message = format!("`{name}` cannot be an image's name");
        faults.push(
            Fault::new(image.name.span(), message).hint(
                "a name has lower-case letters, digits and `-`, at most 63, like a host's name",
            ),
        );
    }
    if let Some(version) = &image.version
        && let Err(wrong) = reference::label(version.get_ref(), jiff::Timestamp::UNIX_EPOCH)
    {
        faults.push(Fault::new(version.span(), wrong).hint(
            "letters, digits, `.`, `-` and `_`, with a dot or a digit first, such as `%Y.%m.%d`; not a number alone",
        ));
    }
}

pub fn base(base: &Base, faults: &mut Vec<Fault>) {
    let span = |value: &Option<Spanned<String>>| value.as_ref().map(Spanned::span);
    let kinds = [
        span(&base.ubuntu),
        span(&base.debian),
        base.nixos.as_ref().map(Spanned::span),
        span(&base.url),
        span(&base.file),
        span(&base.recipe),
        span(&base.image),
        base.template.as_ref().map(Spanned::span),
    ];
    let given: Vec<_> = kinds.into_iter().flatten().collect();
    match given.as_slice() {
        [] => faults.push(
            Fault::new(
                0..0,
                "[source] does not say where the base image comes from",
            )
            .hint("give one of `ubuntu`, `debian`, `nixos`, `url`, `file`, `recipe`, `image` and `template`"),
        ),
        [_] => {}
        [_, others @ ..] => {
            for other in others {
                faults.push(Fault::new(other.clone(), "a second source").hint(
                    "give exactly one of `ubuntu`, `debian`, `nixos`, `url`, `file`, `recipe`, `image` and `template`",
                ));
            }
        }
    }
    if let Some(url) = &base.url {
        web_address(url, faults);
        if base.sha256.is_none() && base.checksums.is_none() {
            faults.push(
                Fault::new(url.span(), "nothing says how the download is verified").hint(
                    "add `sha256 = \"…\"`, or `checksums` with the address of a checksum list",
                ),
            );
        }
    }
    for mirror in &base.mirrors {
        web_address(mirror, faults);
    }
    if let (Some(file), Some(mirror)) = (&base.file, base.mirrors.first()) {
        let fault = Fault::new(mirror.span(), "a file has no mirrors");
        faults.push(fault.hint(format!("`{}` is used in place", file.get_ref())));
    }
    if let Some(sha256) = &base.sha256 {
        is_sha256(sha256, faults);
    }
    if let Some(image) = &base.image
        && let Err(wrong) = image.get_ref().parse::<Reference>()
    {
        faults.push(Fault::new(image.span(), wrong).hint(
            "a version is named like `base@7`, `base@2026.11.25`, `base@stable`, or `base` for the newest",
        ));
    }
    let built = base.recipe.as_ref().or(base.image.as_ref());
    let built = built.map(|built| built.get_ref());
    let built = built.or(base
        .nixos
        .as_ref()
        .map(|nixos| nixos.get_ref().flake.get_ref()));
    let download = [&base.sha256, &base.checksums].into_iter().flatten();
    if let (Some(built), Some(extra)) = (built, download.chain(&base.mirrors).next()) {
        let fault = Fault::new(extra.span(), "such an image is built, not downloaded");
        faults.push(fault.hint(format!("`{built}` says what it is")));
    }
    let extra = [&base.sha256, &base.checksums].into_iter().flatten();
    if let (Some(_), Some(extra)) = (&base.template, extra.chain(&base.mirrors).next()) {
        let fault = Fault::new(
            extra.span(),
            "a template stays on its server, which does not give its bytes",
        );
        faults
            .push(fault.hint("remove this; the record says what the server says of the template"));
    }
    together(base, faults);
}

fn is_sha256(sha256: &Spanned<String>, faults: &mut Vec<Fault>) {
    let digest = sha256.get_ref();
    if digest.len() != 64 || !digest.chars().all(|c| c.is_ascii_hexdigit()) {
        let message = "a sha256 digest has 64 hexadecimal digits";
        faults.push(Fault::new(sha256.span(), message));
    }
}

fn together(base: &Base, faults: &mut Vec<Fault>) {
    let index = base.ubuntu.as_ref().or(base.debian.as_ref());
    if let (Some(_), Some(extra)) = (index, base.sha256.as_ref().or(base.checksums.as_ref())) {
        faults.push(
            Fault::new(extra.span(), "the release index already says the digest")
                .hint("to pin one image, use `url` with `sha256`"),
        );
    }
    if let (Some(_), Some(list)) = (&base.sha256, &base.checksums) {
        faults.push(Fault::new(
            list.span(),
            "`sha256` pins the digest already; a list beside it says nothing",
        ));
    }
    if let (Some(signature), None) = (&base.signature, &base.checksums) {
        faults.push(
            Fault::new(signature.span(), "a signature of what?")
                .hint("`signature` signs the list that `checksums` names"),
        );
    }
    match (&base.signature, &base.key) {
        (Some(signature), None) => faults.push(
            Fault::new(signature.span(), "a signature without a key proves nothing")
                .hint("add `key = \"…\"`, the path of the OpenPGP key that you trust"),
        ),
        (None, Some(key)) => faults.push(
            Fault::new(key.span(), "a key, but no signature to check with it")
                .hint("add `signature = \"…\"`, or remove the key"),
        ),
        _ => {}
    }
}

/// `tables` are those that are for a machine, which an image that is imported never has.
pub fn imported(tables: &[(String, Range<usize>)], faults: &mut Vec<Fault>) {
    for (name, span) in tables {
        let message = format!("`{name}` says nothing about an image that is imported");
        faults.push(Fault::new(span.clone(), message).hint(
            "`[source] import` takes the image as it is, without a machine; remove that, or this",
        ));
    }
}

fn web_address(url: &Spanned<String>, faults: &mut Vec<Fault>) {
    let address = url.get_ref();
    if !address.starts_with("https://") && !address.starts_with("http://") {
        let fault = Fault::new(url.span(), format!("`{address}` is no http(s) address"));
        faults.push(fault.hint("an image on this machine is given by `file`"));
    }
}

pub fn machine(machine: &Machine, faults: &mut Vec<Fault>) {
    let cpus = machine.cpus.get_ref().0;
    if !(1..=255).contains(&cpus) {
        let message = format!("{cpus} CPUs are out of range");
        faults.push(Fault::new(machine.cpus.span(), message).hint("1 to 255"));
    }
    size("memory", &machine.memory, 64 * MIB, 1024 * GIB, faults);
    if let Some(disk) = &machine.disk {
        size("disk", disk, 64 * MIB, 16 * 1024 * GIB, faults);
    }
}

fn size(what: &str, size: &Spanned<Size>, least: u64, most: u64, faults: &mut Vec<Fault>) {
    let Size(bytes) = *size.get_ref();
    let range = format!("from {} to {}", Size(least), Size(most));
    if !(least..=most).contains(&bytes) {
        let message = format!("{what} of {} is out of range", Size(bytes));
        faults.push(Fault::new(size.span(), message).hint(range));
    } else if bytes % MIB != 0 {
        let message = format!("{what} must be a whole number of MiB");
        faults.push(Fault::new(size.span(), message));
    }
}

pub fn ssh(ssh: &Ssh, faults: &mut Vec<Fault>) {
    let user = &ssh.user;
    let name = user.get_ref();
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let first = |c: char| c.is_ascii_lowercase() || c == '_';
    if !(1..=32).contains(&name.len()) || !name.starts_with(first) || !name.chars().all(letters) {
        faults.push(
            Fault::new(user.span(), format!("`{name}` cannot be a user's name"))
                .hint("lower-case letters, digits, `-` and `_`, a letter first, at most 32"),
        );
    } else if name == "root" {
        faults.push(
            Fault::new(user.span(), "the build's user cannot be root").hint(
                "it is made for the build and removed at its end; steps run as root through sudo",
            ),
        );
    }
    if *ssh.port.get_ref() == 0 {
        faults.push(Fault::new(ssh.port.span(), "no sshd listens on port 0"));
    }
    some_time(&ssh.timeout, faults);
}

pub fn seal(seal: &Seal, faults: &mut Vec<Fault>) {
    for name in &seal.keep {
        if crate::seal::Item::parse(name.get_ref()).is_none() {
            let known = crate::seal::Item::ALL.iter().map(|item| item.name());
            let hint = suggest(name.get_ref(), known);
            let message = format!("sealing knows no `{}`", name.get_ref());
            faults.push(Fault::new(name.span(), message).hint(hint));
        }
    }
}

pub fn output(output: &Output, faults: &mut Vec<Fault>) {
    if let (OutputFormat::Raw, Some(compression)) = (output.format, &output.compression)
        && *compression.get_ref() != Compression::None
    {
        faults.push(
            Fault::new(compression.span(), "a raw image cannot be compressed")
                .hint("use `format = \"qcow2\"`, or remove `compression`"),
        );
    }
    if let Some(path) = &output.path
        && (path.get_ref().is_empty() || path.get_ref().ends_with('/'))
    {
        faults.push(Fault::new(path.span(), "the output's path names no file"));
    }
}

pub fn signing(signing: &Signing, faults: &mut Vec<Fault>) {
    if let Some(key) = &signing.key
        && (key.get_ref().is_empty() || key.get_ref().ends_with('/'))
    {
        faults.push(Fault::new(
            key.span(),
            "the signing key's path names no file",
        ));
    }
}

pub type Secrets = BTreeMap<String, Spanned<Secret>>;

pub fn secrets(secrets: &Secrets, faults: &mut Vec<Fault>) {
    for (name, from) in secrets {
        secret(name, from, faults);
    }
}

fn secret(name: &str, secret: &Spanned<Secret>, faults: &mut Vec<Fault>) {
    let from = secret.get_ref();
    let given = [&from.env, &from.file, &from.command];
    if given.into_iter().flatten().count() != 1 {
        faults.push(Fault::new(
            secret.span(),
            format!("the secret `{name}` needs exactly one of `env`, `file` and `command`"),
        ));
    }
    if !is_variable(name) {
        faults.push(
            Fault::new(secret.span(), format!("`{name}` cannot be a secret's name")).hint(
                "steps get it as an environment variable of that name: letters, digits and `_`",
            ),
        );
    }
}

fn some_time(timeout: &Spanned<Timeout>, faults: &mut Vec<Fault>) {
    if timeout.get_ref().0.is_zero() {
        faults.push(Fault::new(timeout.span(), "nothing can be done in no time"));
    }
}

fn is_variable(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(first) && name.chars().all(letters)
}
