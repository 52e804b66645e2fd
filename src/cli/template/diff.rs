//! `imgbuild template diff`.

use std::fmt::{Display, Write as _};

use serde_json::json;

use super::value;
use crate::compare::{self, Changes, FileChanges, Records};
use crate::error::{Context, Error, Kind, Result};
use crate::record::{self, Known};
use crate::source::Format;
use crate::store::Registry;
use crate::store::registry::{Reference, Version};
use crate::ui::{Screen, bytes};

pub async fn run(
    registry: &Registry,
    (old, new): (&Reference, &Reference),
    with_files: bool,
    screen: Screen,
) -> Result<()> {
    let (old, new) = (registry.find(old)?, registry.find(new)?);
    let (of_old, of_new) = (known(&old)?, known(&new)?);
    let records = compare::records(&of_old, &of_new);
    let lists = [&old, &new].map(|version| compare::package_list(&version.path));
    let packages = compare::packages(&lists[0], &lists[1])?;
    let files = match with_files {
        false => None,
        true => {
            let old = (old.path.clone(), format(&old, &of_old)?);
            let new = (new.path.clone(), format(&new, &of_new)?);
            Some(compare::files(old, new).await?)
        }
    };
    let doing = || "printing what is different";
    let records_value = serde_json::to_value(&records).doing(doing)?;
    let packages_value = serde_json::to_value(&packages).doing(doing)?;
    let files_value = serde_json::to_value(&files).doing(doing)?;
    let mut told = Told::default();
    told.line("versions", format!("{} → {}", old.name(), new.name()));
    told.records(&records);
    match &packages {
        Some(packages) => told.changes("package", packages, |version| version.to_owned()),
        None => told.line("packages", "unknown: there is no SBOM beside both images"),
    }
    if let Some(files) = &files {
        told.files(files);
    }
    screen.result(
        &told.0,
        &json!({
            "event": "result", "old": value(&old), "new": value(&new), "records": records_value,
            "packages": packages_value, "files": files_value,
        }),
    );
    Ok(())
}

/// The format of a version's image, which is a file here.
fn format(version: &Version, known: &Known) -> Result<Format> {
    let name = known.artifact.format.as_str();
    let all = [Format::Qcow2, Format::Raw];
    all.into_iter()
        .find(|format| format.name() == name)
        .ok_or_else(|| {
            Error::new(format!("comparing the files of {}", version.name()))
                .kind(Kind::Usage)
                .cause("its disk is on a server, not here")
                .hint("without --files, packages and records are compared")
        })
}

fn known(version: &Version) -> Result<Known> {
    record::read(&record::path(&version.path))
}

/// What is told to people, a line for each difference.
#[derive(Default)]
struct Told(String);

impl Told {
    fn line(&mut self, what: &str, said: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{what:<9} {said}");
    }

    fn records(&mut self, records: &Records) {
        if let Some((old, new)) = &records.base {
            let base = |base: &compare::Base| format!("{} ({})", base.origin, short(&base.sha256));
            self.line("base", format!("{} → {}", base(old), base(new)));
        }
        self.changes("var", &records.vars, str::to_owned);
        self.changes("step", &records.steps, |sha256| short(sha256).to_owned());
        let (old, new) = records.size;
        let by = match new >= old {
            true => format!("+{}", bytes(new - old)),
            false => format!("-{}", bytes(old - new)),
        };
        self.line("size", format!("{} → {} ({by})", bytes(old), bytes(new)));
    }

    fn changes(&mut self, what: &str, changes: &Changes, shown: impl Fn(&str) -> String) {
        for (name, value) in &changes.removed {
            self.line(what, format!("- {name} {}", shown(value)));
        }
        for (name, value) in &changes.added {
            self.line(what, format!("+ {name} {}", shown(value)));
        }
        for (name, (old, new)) in &changes.changed {
            self.line(what, format!("~ {name} {} → {}", shown(old), shown(new)));
        }
    }

    fn files(&mut self, files: &FileChanges) {
        for partition in &files.unread {
            self.line("unread", partition);
        }
        for path in &files.removed {
            self.line("file", format!("- {path}"));
        }
        for path in &files.added {
            self.line("file", format!("+ {path}"));
        }
        for (path, what) in &files.changed {
            self.line("file", format!("~ {path} ({})", what.join(", ")));
        }
    }
}

/// As much of a digest as tells it from others.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
