//! What types cannot say: ranges, names, and keys that go together. Every rule has a test in `tests/recipes/bad`.

use std::collections::BTreeMap;

use toml::Spanned;

use super::decode::suggest;
use super::line;
use super::types::*;
use crate::error::{Fault, Source};

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
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = (1..=63).contains(&name.len())
        && name.chars().all(letters)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !good {
        let message = format!("`{name}` cannot be an image's name");
        faults.push(
            Fault::new(image.name.span(), message).hint(
                "a name has lower-case letters, digits and `-`, at most 63, like a host's name",
            ),
        );
    }
}

pub fn base(base: &Base, faults: &mut Vec<Fault>) {
    let kinds = [&base.ubuntu, &base.debian, &base.url, &base.file];
    let given: Vec<&Spanned<String>> = kinds.into_iter().flatten().collect();
    match given.as_slice() {
        [] => faults.push(
            Fault::new(
                0..0,
                "[source] does not say where the base image comes from",
            )
            .hint("give one of `ubuntu`, `debian`, `url` and `file`"),
        ),
        [_] => {}
        [_, others @ ..] => {
            for other in others {
                faults.push(
                    Fault::new(other.span(), "a second source")
                        .hint("give exactly one of `ubuntu`, `debian`, `url` and `file`"),
                );
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
        let digest = sha256.get_ref();
        if digest.len() != 64 || !digest.chars().all(|c| c.is_ascii_hexdigit()) {
            faults.push(Fault::new(
                sha256.span(),
                "a sha256 digest has 64 hexadecimal digits",
            ));
        }
    }
    together(base, faults);
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

type Secrets = BTreeMap<String, Spanned<Secret>>;

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

fn is_variable(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(first) && name.chars().all(letters)
}

/// Checks a list of steps or tests; `secrets` is none when they could not be decoded.
pub fn steps(
    source: &Source,
    secrets: Option<&Secrets>,
    steps: &[Spanned<Step>],
    faults: &mut Vec<Fault>,
) {
    names(source, steps, faults);
    for spanned in steps {
        step(spanned, faults);
        if let Some(secrets) = secrets {
            known_secrets(secrets, spanned.get_ref(), faults);
        }
    }
}

/// Names tell steps apart in reports, so each must be there once.
fn names(source: &Source, steps: &[Spanned<Step>], faults: &mut Vec<Fault>) {
    let mut seen = BTreeMap::new();
    for name in steps.iter().filter_map(|step| step.get_ref().name.as_ref()) {
        if name.get_ref().trim().is_empty() || name.get_ref().contains(char::is_control) {
            faults.push(Fault::new(
                name.span(),
                "a name needs at least one letter, on one line",
            ));
        }
        if let Some(first) = seen.insert(name.get_ref(), name.span()) {
            let at = line(&source.text, &first);
            faults.push(Fault::new(
                name.span(),
                format!("the name `{}` is taken by line {at}", name.get_ref()),
            ));
        }
    }
}

fn step(spanned: &Spanned<Step>, faults: &mut Vec<Fault>) {
    let step = spanned.get_ref();
    let actions = step.actions();
    if actions.len() != 1 {
        let message = match actions.as_slice() {
            [] => "this does nothing".to_owned(),
            several => format!("one thing at a time, not {}", several.join(" and ")),
        };
        faults.push(
            Fault::new(spanned.span(), message)
                .hint("give exactly one of `run`, `script`, `packages`, `upload` and `reboot`"),
        );
    }
    if let Some(packages) = &step.packages {
        check_packages(packages, faults);
    }
    if let Some(upload) = &step.upload {
        check_upload(upload.get_ref(), faults);
    }
    if let Some(reboot) = &step.reboot
        && !reboot.get_ref()
    {
        faults.push(Fault::new(reboot.span(), "`reboot = false` does nothing"));
    }
    if let (Some(codes), None, None) = (&step.ok_exit_codes, &step.run, &step.script) {
        faults.push(Fault::new(
            codes.span(),
            "only `run` and `script` have exit codes of their own",
        ));
    }
    if let Some(codes) = &step.ok_exit_codes
        && codes.get_ref().is_empty()
    {
        faults.push(Fault::new(
            codes.span(),
            "no exit code at all would be success",
        ));
    }
    if let Some(codes) = &step.ok_exit_codes
        && codes.get_ref().iter().any(|code| !(0..=255).contains(code))
    {
        faults.push(Fault::new(codes.span(), "exit codes are 0 to 255"));
    }
    for name in step.env.keys().filter(|name| !is_variable(name.get_ref())) {
        let message = format!("`{}` cannot be an environment variable", name.get_ref());
        faults.push(Fault::new(name.span(), message));
    }
}

fn known_secrets(secrets: &Secrets, step: &Step, faults: &mut Vec<Fault>) {
    for name in &step.secrets {
        if !secrets.contains_key(name.get_ref()) {
            let known = secrets.keys().map(String::as_str);
            let hint = suggest(name.get_ref(), known);
            let message = format!("[secrets] has no `{}`", name.get_ref());
            faults.push(Fault::new(name.span(), message).hint(hint));
        }
    }
}

fn check_packages(packages: &Spanned<Vec<String>>, faults: &mut Vec<Fault>) {
    if packages.get_ref().is_empty() {
        faults.push(Fault::new(packages.span(), "no package is named"));
    }
    // Package managers read a leading `-` as an option, and versions are written with these signs.
    let letters = |c: char| c.is_ascii_alphanumeric() || "+-._:=~/@^*".contains(c);
    for name in packages.get_ref() {
        if name.is_empty() || name.starts_with('-') || !name.chars().all(letters) {
            let message = format!("`{name}` cannot be a package's name");
            faults.push(Fault::new(packages.span(), message));
        }
    }
}

fn check_upload(upload: &Upload, faults: &mut Vec<Fault>) {
    if !upload.to.get_ref().starts_with('/') {
        let message = format!("`{}` is not an absolute path", upload.to.get_ref());
        faults.push(Fault::new(upload.to.span(), message).hint("begin it with `/`"));
    }
    if let Some(owner) = &upload.owner {
        let letters = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        let name = owner.get_ref();
        if name.is_empty() || name.starts_with('-') || !name.chars().all(letters) {
            let message = format!("`{name}` cannot be an owner");
            faults.push(Fault::new(owner.span(), message).hint("write `user` or `user:group`"));
        }
    }
}
