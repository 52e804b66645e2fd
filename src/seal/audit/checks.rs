//! The checks of the audit: for each promise of the script, whether the disk keeps it.

use super::guest::Guest;
use super::report::{Finding, Subject};
use crate::error::Result;
use crate::seal::rules::{LOGIN_RECORDS, paths};
use crate::seal::{Item, Plan};

/// What the checks have found so far.
#[derive(Default)]
pub(super) struct Findings {
    pub checks: usize,
    pub list: Vec<Finding>,
}

/// More findings than this say nothing new.
const MAX_FINDINGS: usize = 1000;

impl Findings {
    /// Counts one check.
    pub(super) fn check(&mut self) {
        self.checks += 1;
    }

    /// Records a violation; the same one is recorded once.
    pub(super) fn add(&mut self, item: Subject, path: &[u8], what: impl Into<String>) {
        let finding = Finding {
            item,
            path: printable(path),
            what: what.into(),
        };
        if self.list.len() < MAX_FINDINGS && !self.list.contains(&finding) {
            self.list.push(finding);
        }
    }

    /// Nothing may match `pattern`.
    pub(super) fn gone(&mut self, guest: &Guest, item: Subject, pattern: &str) -> Result<()> {
        self.check();
        for path in guest.glob(pattern)? {
            self.add(item, &path, "is still there");
        }
        Ok(())
    }

    fn emptied(&mut self, guest: &Guest, item: Subject, dir: &str) -> Result<()> {
        self.check();
        for entry in guest.list(dir.as_bytes())? {
            let path = [dir.as_bytes(), b"/", &entry.name].concat();
            self.add(item, &path, "is still there");
        }
        Ok(())
    }
}

/// A guest's name for a file, without what could play tricks on a terminal.
fn printable(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let plain = |c: char| !c.is_control();
    name.chars()
        .flat_map(|c| {
            let escaped = (!plain(c)).then(|| c.escape_default());
            escaped.into_iter().flatten().chain(plain(c).then_some(c))
        })
        .collect()
}

/// Checks every item that is not kept.
pub(super) fn items(guest: &Guest, plan: &Plan, findings: &mut Findings) -> Result<()> {
    for item in Item::ALL.iter().filter(|item| !plan.keep.contains(item)) {
        let subject = Subject::Item(*item);
        let paths = paths(*item);
        for pattern in paths.gone {
            findings.gone(guest, subject, pattern)?;
        }
        for dir in paths.emptied {
            findings.emptied(guest, subject, dir)?;
        }
        match item {
            Item::MachineId => machine_id(guest, subject, findings)?,
            Item::Hostname => hostname(guest, subject, findings)?,
            Item::Logs => logs(guest, subject, findings)?,
            _ => {}
        }
    }
    Ok(())
}

fn machine_id(guest: &Guest, subject: Subject, findings: &mut Findings) -> Result<()> {
    const SYSTEMD: [&[u8]; 3] = [
        b"/usr/lib/systemd/systemd",
        b"/lib/systemd/systemd",
        b"/run/current-system/systemd/lib/systemd/systemd",
    ];
    findings.check();
    match guest.read(b"/etc/machine-id", 64)? {
        None => {
            for path in SYSTEMD {
                if guest.metadata(path)?.is_some() {
                    let what = "is missing: it must be empty, or each boot of a clone counts as its very first";
                    findings.add(subject, b"/etc/machine-id", what);
                    break;
                }
            }
        }
        Some(id) if matches!(id.trim_ascii(), b"" | b"uninitialized") => {}
        Some(_) => findings.add(subject, b"/etc/machine-id", "still holds an id"),
    }
    findings.check();
    // Usually a link to the file above.
    if let Some(id) = guest.read(b"/var/lib/dbus/machine-id", 64)?
        && !id.trim_ascii().is_empty()
        && guest
            .metadata(b"/var/lib/dbus/machine-id")?
            .is_some_and(|found| !found.is_symlink())
    {
        findings.add(subject, b"/var/lib/dbus/machine-id", "still holds an id");
    }
    Ok(())
}

fn hostname(guest: &Guest, subject: Subject, findings: &mut Findings) -> Result<()> {
    findings.check();
    if let Some(name) = guest.read(b"/etc/hostname", 256)?
        && !matches!(name.trim_ascii(), b"" | b"localhost")
    {
        findings.add(
            subject,
            b"/etc/hostname",
            format!("still says `{}`", printable(name.trim_ascii())),
        );
    }
    Ok(())
}

/// Empty logs may stay, for their owner and mode. What has an item or pattern of its own is reported there.
fn logs(guest: &Guest, subject: Subject, findings: &mut Findings) -> Result<()> {
    findings.check();
    guest.walk(b"/var/log", &mut |path, entry| {
        let others = LOGIN_RECORDS
            .iter()
            .any(|name| entry.name == name.as_bytes())
            || path.starts_with(b"/var/log/journal/")
            || path.starts_with(b"/var/log/cloud-init");
        if entry.kind.is_regular_file() && !others && entry.metadata()?.len() > 0 {
            findings.add(subject, path, "is not empty");
        }
        Ok(())
    })?;
    Ok(())
}
