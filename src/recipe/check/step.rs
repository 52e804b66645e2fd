//! The rules of `[[step]]` and `[[test]]`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Secrets, is_sha256, is_variable, some_time, web_address};
use crate::error::{Fault, Sources};
use crate::recipe::Spanned;
use crate::recipe::line;
use crate::recipe::steps::Loaded;
use crate::recipe::types::*;
use crate::text::suggest;

/// Checks what steps or tests have to do with each other; `secrets` is none when they could not be decoded.
pub fn list(
    sources: &Sources,
    secrets: Option<&Secrets>,
    steps: &[Loaded],
    faults: &mut Vec<Fault>,
) {
    names(sources, steps, faults);
    for step in steps {
        if let Some(secrets) = secrets {
            known_secrets(secrets, &step.step, faults);
        }
    }
}

/// Names tell steps apart in reports, so each must be there once.
fn names(sources: &Sources, steps: &[Loaded], faults: &mut Vec<Fault>) {
    let mut seen = BTreeMap::new();
    for name in steps.iter().filter_map(|step| step.step.name.as_ref()) {
        if name.get_ref().trim().is_empty() || name.get_ref().contains(char::is_control) {
            faults.push(Fault::new(
                name.span(),
                "a name needs at least one letter, on one line",
            ));
        }
        if let Some(first) = seen.insert(name.get_ref(), name.span())
            && let Some((source, first)) = sources.locate(&first)
        {
            let at = line(&source.text, &first);
            let other = match sources.locate(&name.span()) {
                Some((here, _)) if here.name == source.name => String::new(),
                _ => format!(" of {}", source.name),
            };
            faults.push(Fault::new(
                name.span(),
                format!("the name `{}` is taken by line {at}{other}", name.get_ref()),
            ));
        }
    }
}

/// Tests change nothing that stays, so what changes the image's future is not for them.
pub fn test(step: &Loaded, faults: &mut Vec<Fault>) {
    if step.step.finally {
        let fault = Fault::new(step.span.clone(), "a test has no `finally`");
        faults.push(fault.hint("its machine is thrown away"));
    }
}

/// Checks one step by itself; `with` says whether it gives parameters.
pub fn step(step: &Step, span: &Range<usize>, with: bool, faults: &mut Vec<Fault>) {
    let actions = step.actions();
    if actions.len() != 1 {
        let message = match actions.as_slice() {
            [] => "this does nothing".to_owned(),
            several => format!("one thing at a time, not {}", several.join(" and ")),
        };
        let fault = Fault::new(span.clone(), message);
        faults.push(fault.hint(format!("give exactly one of {}", listed(ACTIONS))));
    }
    if let Some(packages) = &step.packages {
        check_packages(packages, faults);
    }
    if let Some(upload) = &step.upload {
        absolute(&upload.get_ref().to, faults);
        owner(upload.get_ref().owner.as_ref(), faults);
    }
    if let Some(download) = &step.download {
        check_download(download.get_ref(), faults);
    }
    if let Some(file) = &step.file {
        check_file(file, faults);
    }
    if let Some(fetch) = &step.fetch {
        check_fetch(fetch, faults);
    }
    for (flag, name) in [(&step.reboot, "reboot"), (&step.breakpoint, "breakpoint")] {
        if let Some(flag) = flag
            && !flag.get_ref()
        {
            let message = format!("`{name} = false` does nothing");
            faults.push(Fault::new(flag.span(), message));
        }
    }
    codes(step, faults);
    if let Some(timeout) = &step.timeout {
        some_time(timeout, faults);
    }
    for name in step.env.keys().filter(|name| !is_variable(name.get_ref())) {
        let message = format!("`{}` cannot be an environment variable", name.get_ref());
        faults.push(Fault::new(name.span(), message));
    }
    if step.before.is_some() && step.after.is_some() {
        let message = "a step goes before another one or after it, not both";
        faults.push(Fault::new(span.clone(), message));
    }
    if with && step.bundle.is_none() {
        let fault = Fault::new(span.clone(), "`with` gives a bundle its parameters");
        faults.push(fault.hint("there is no `use` here"));
    }
    applicable(step, &actions, faults);
}

/// A key, where it stands if it does, and the actions that it means something for.
type Applicable<'a> = (&'a str, Option<Range<usize>>, &'a [&'a str]);

/// Keys that some actions have no use for: a key that is silently ignored is a trap.
fn applicable(step: &Step, actions: &[&str], faults: &mut Vec<Fault>) {
    let [action] = actions else {
        return;
    };
    let env = step.env.keys().next().map(Spanned::span);
    let secrets = step.secrets.first().map(Spanned::span);
    let timeout = step.timeout.as_ref().map(Spanned::span);
    let keys: [Applicable<'_>; 8] = [
        ("env", env, &["run", "script", "packages", "local", "use"]),
        (
            "secrets",
            secrets,
            &["run", "script", "packages", "local", "use"],
        ),
        (
            "sudo",
            step.sudo.as_ref().map(Spanned::span),
            &["run", "script"],
        ),
        (
            "template",
            step.template.as_ref().map(Spanned::span),
            &["script", "upload", "file"],
        ),
        (
            "ok-exit-codes",
            step.ok_exit_codes.as_ref().map(Spanned::span),
            &["run", "script", "local"],
        ),
        (
            "expect-disconnect",
            step.expect_disconnect.as_ref().map(Spanned::span),
            &["run", "script"],
        ),
        (
            "retries",
            step.retries.as_ref().map(Spanned::span),
            &[
                "run", "script", "packages", "upload", "download", "file", "fetch", "local",
            ],
        ),
        (
            "timeout",
            timeout,
            &[
                "run", "script", "packages", "upload", "download", "file", "fetch", "reboot",
                "local",
            ],
        ),
    ];
    for (key, span, actions) in keys {
        if let Some(span) = span
            && !actions.contains(action)
        {
            let fault = Fault::new(span, format!("`{key}` means nothing for `{action}`"));
            faults.push(fault.hint(format!("it is for {}", listed(actions))));
        }
    }
}

/// "`a`, `b` and `c`".
fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn codes(step: &Step, faults: &mut Vec<Fault>) {
    let Some(codes) = &step.ok_exit_codes else {
        return;
    };
    if codes.get_ref().is_empty() {
        let message = "no exit code at all would be success";
        faults.push(Fault::new(codes.span(), message));
    }
    if codes.get_ref().iter().any(|code| !(0..=255).contains(code)) {
        faults.push(Fault::new(codes.span(), "exit codes are 0 to 255"));
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

fn check_download(download: &Download, faults: &mut Vec<Fault>) {
    let (from, to) = (&download.from, &download.to);
    absolute(from, faults);
    let last = from.get_ref().trim_end_matches('/').rsplit('/').next();
    if matches!(last, None | Some("" | "." | "..")) {
        let fault = Fault::new(from.span(), "what is downloaded needs a name");
        faults.push(fault.hint("end `from` with the name of a file or folder"));
    }
    let path = std::path::Path::new(to.get_ref());
    if !to.get_ref().ends_with('/') && path.file_name().is_none() {
        let fault = Fault::new(to.span(), format!("`{}` names no file", to.get_ref()));
        faults.push(fault.hint("end it with `/` to download into a folder"));
    }
}

fn check_file(file: &Spanned<File>, faults: &mut Vec<Fault>) {
    let span = file.span();
    let file = file.get_ref();
    absolute(&file.to, faults);
    owner(file.owner.as_ref(), faults);
    if file.to.get_ref().ends_with('/') && file.content.is_some() {
        let message = "a folder has no content; name the file in it";
        faults.push(Fault::new(file.to.span(), message));
    }
    if file.content.is_some() == file.from.is_some() {
        let fault = Fault::new(span, "a file needs exactly one of `content` and `from`");
        faults.push(fault.hint("`from` is the path of a file beside the recipe"));
    }
}

fn check_fetch(fetch: &Spanned<Fetch>, faults: &mut Vec<Fault>) {
    let span = fetch.span();
    let fetch = fetch.get_ref();
    absolute(&fetch.to, faults);
    owner(fetch.owner.as_ref(), faults);
    for url in std::iter::once(&fetch.url).chain(&fetch.mirrors) {
        web_address(url, faults);
    }
    if fetch.sha256.is_some() == fetch.integrity.is_some() {
        let fault = Fault::new(
            span,
            "a download needs exactly one of `sha256` and `integrity`",
        );
        faults.push(fault.hint("what is not verified cannot be trusted, or kept"));
    }
    if let Some(sha256) = &fetch.sha256 {
        is_sha256(sha256, faults);
    }
    if let Some(integrity) = &fetch.integrity
        && crate::source::Digest::from_integrity(integrity.get_ref()).is_none()
    {
        let fault = Fault::new(integrity.span(), "this is no integrity value");
        faults.push(fault.hint("write `sha512-` or `sha256-` and the digest in base64"));
    }
    if fetch.strip > 0 && !fetch.unpack {
        let message = "`strip` is for archives: add `unpack = true`";
        faults.push(Fault::new(fetch.to.span(), message));
    }
    if fetch.unpack && fetch.mode.is_some() {
        let message = "the files of an archive have modes of their own";
        faults.push(Fault::new(fetch.to.span(), message));
    }
}

fn absolute(path: &Spanned<String>, faults: &mut Vec<Fault>) {
    if !path.get_ref().starts_with('/') {
        let message = format!("`{}` is not an absolute path", path.get_ref());
        faults.push(Fault::new(path.span(), message).hint("begin it with `/`"));
    }
}

fn owner(owner: Option<&Spanned<String>>, faults: &mut Vec<Fault>) {
    let Some(owner) = owner else {
        return;
    };
    let letters = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let name = owner.get_ref();
    if name.is_empty() || name.starts_with('-') || !name.chars().all(letters) {
        let message = format!("`{name}` cannot be an owner");
        faults.push(Fault::new(owner.span(), message).hint("write `user` or `user:group`"));
    }
}
