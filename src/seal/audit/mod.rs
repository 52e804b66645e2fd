//! The audit of a sealed disk image: offline, in process, without root, and without trust in what the guest left there.

mod checks;
mod guest;
mod pattern;
mod report;
#[cfg(test)]
mod tests;
mod traces;

use checks::Findings;
use ext4_view::Ext4;
pub use guest::Guest;
use guest::{FileSystem, Refused};
pub use report::{Finding, Report, Subject, Unread};

use super::{Evidence, Item, Plan};
use crate::disk::{self, Content, Disk, Origin, Part};
use crate::error::{Error, Result};

/// Checks that the sealed disk keeps what [`super::script`] promised for `plan`, and that nothing of the build is left in it.
///
/// Violations are in the report; an error means that the disk cannot be read.
pub async fn audit(disk: &Origin, plan: &Plan, evidence: &Evidence) -> Result<Report> {
    let (plan, evidence) = (plan.clone(), evidence.clone());
    let doing = format!("auditing the sealed image {disk}");
    let work = move |disk: Disk| inspect(&disk, &plan, &evidence);
    disk.read("audit", doing, work).await
}

/// A file system that could be opened.
struct Opened {
    part: Part,
    fs: Ext4,
    dirty: Option<&'static str>,
}

fn inspect(disk: &Disk, plan: &Plan, evidence: &Evidence) -> Result<Report> {
    let doing = "reading the partitions of the sealed image";
    let mut findings = Findings::default();
    let parts = open_parts(disk, doing, |part, why| match why {
        Refused::Unsupported(cause) => Ok(format!("ext4 ({cause})")),
        Refused::Dirty(cause) => {
            findings.add(Subject::FileSystem, part.as_bytes(), cause);
            Ok(NOT_CLEAN.into())
        }
        Refused::Damaged(cause) => Err(Error::new(format!("reading {part} of the sealed image"))
            .cause(cause)
            .hint("the image may be damaged; build it again")),
    })?;
    if !parts.recognised {
        return Err(Error::new(doing)
            .cause("there is no file system on it")
            .hint("the image may be empty, truncated, or in another format than expected"));
    }
    for fs in &parts.opened {
        findings.check();
        if let Some(dirty) = fs.dirty {
            findings.add(Subject::FileSystem, fs.part.name.as_bytes(), dirty);
        }
    }
    let dirty = !findings.list.is_empty();
    let mut report = Report {
        root: None,
        checks: 0,
        files: 0,
        findings: vec![],
        unread: parts.unread,
        kept: Item::ALL
            .iter()
            .copied()
            .filter(|item| plan.keep.contains(item))
            .collect(),
    };
    match check(parts.opened, plan, evidence, &mut report, &mut findings) {
        Ok(()) => {}
        // Half-written metadata of a guest that was cut off is no damaged image, and the cause is already known.
        Err(error) if dirty => findings.add(
            Subject::FileSystem,
            b"/",
            format!("cannot be checked: {error}"),
        ),
        Err(error) => return Err(error),
    }
    report.checks = findings.checks;
    report.findings = findings.list;
    Ok(report)
}

/// The guest's tree of files on a disk, if there is a root file system that can be read; and what could not be.
pub fn guest(disk: &Disk) -> Result<(Option<Guest>, Vec<Unread>)> {
    let mut parts = open_parts(disk, "reading the image's partitions", |_, why| {
        Ok(match why {
            Refused::Unsupported(cause) | Refused::Damaged(cause) => format!("ext4 ({cause})"),
            Refused::Dirty(_) => NOT_CLEAN.into(),
        })
    })?;
    let root = assemble(parts.opened, &mut parts.unread)?;
    Ok((root.map(|(_, guest)| guest), parts.unread))
}

/// What is said of a file system that was not left clean, and so cannot be read.
const NOT_CLEAN: &str = "ext4 (not clean)";

/// The partitions of a disk.
#[derive(Default)]
struct Parts {
    opened: Vec<Opened>,
    unread: Vec<Unread>,
    /// Whether any of them holds a file system.
    recognised: bool,
}

/// Opens the file systems of a disk. `refused` decides about one that cannot be opened, by the name of its partition: what it
/// is called among the unread, or that this is an error.
fn open_parts(
    disk: &Disk,
    doing: &str,
    mut refused: impl FnMut(&str, Refused) -> Result<String>,
) -> Result<Parts> {
    let failed = |error: std::io::Error| Error::new(doing).cause(error);
    let mut parts = Parts::default();
    for part in disk::partitions(disk).map_err(failed)? {
        let content = disk::content(&part).map_err(failed)?;
        parts.recognised |= !matches!(content, Content::Nothing | Content::Other("unknown"));
        let kind = match content {
            Content::Nothing => continue,
            Content::Other(kind) => kind.to_owned(),
            Content::Ext => match guest::open(&part.slice) {
                Ok(FileSystem { fs, dirty }) => {
                    parts.opened.push(Opened { part, fs, dirty });
                    continue;
                }
                Err(why) => refused(&part.name, why)?,
            },
        };
        parts.unread.push(Unread {
            partition: part.name,
            kind,
        });
    }
    Ok(parts)
}

/// Makes the checks that look at files.
fn check(
    opened: Vec<Opened>,
    plan: &Plan,
    evidence: &Evidence,
    report: &mut Report,
    findings: &mut Findings,
) -> Result<()> {
    if let Some((root, guest)) = assemble(opened, &mut report.unread)? {
        report.root = Some(root);
        checks::items(&guest, plan, findings)?;
        traces::builder(&guest, plan, findings)?;
        traces::keys(&guest, plan, evidence, findings)?;
        report.files = traces::owned(&guest, plan, findings)?;
    }
    Ok(())
}

/// Finds the root file system and mounts the others into it as its `/etc/fstab` says.
fn assemble(mut opened: Vec<Opened>, unread: &mut Vec<Unread>) -> Result<Option<(String, Guest)>> {
    let mut root = None;
    for sign in ["/etc/passwd", "/usr"] {
        for (at, candidate) in opened.iter().enumerate() {
            let guest = Guest::new(candidate.fs.clone());
            if root.is_none() && guest.metadata(sign.as_bytes())?.is_some() {
                root = Some((at, guest));
            }
        }
    }
    let mut orphan = |part: Part| {
        unread.push(Unread {
            partition: part.name,
            kind: "ext4 that /etc/fstab does not mount".into(),
        });
    };
    let Some((at, mut guest)) = root else {
        opened.into_iter().for_each(|other| orphan(other.part));
        return Ok(None);
    };
    let root = opened.remove(at);
    let fstab = guest.read(b"/etc/fstab", 64 * 1024)?.unwrap_or_default();
    let fstab = String::from_utf8_lossy(&fstab).into_owned();
    for other in opened {
        match mount_point(&fstab, &other) {
            Some(point) => guest.mount(point.as_bytes(), other.fs),
            None => orphan(other.part),
        }
    }
    Ok(Some((root.part.name, guest)))
}

/// Where fstab mounts a file system that it names by UUID, label, or (by its number) device.
fn mount_point<'a>(fstab: &'a str, other: &Opened) -> Option<&'a str> {
    let uuid = format!("UUID={}", other.fs.uuid());
    let label = format!("LABEL={}", other.fs.label().to_str().unwrap_or_default());
    let number = other.part.name.trim_start_matches("partition ");
    fstab.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (device, point) = (fields.next()?.replace('"', ""), fields.next()?);
        let by_number = device.strip_prefix("/dev/").is_some_and(|name| {
            name.trim_end_matches(|c: char| c.is_ascii_digit()).len() + number.len() == name.len()
                && name.ends_with(number)
        });
        let same = device.eq_ignore_ascii_case(&uuid)
            || (device == label && label != "LABEL=")
            || by_number;
        (same && point.starts_with('/') && point != "/").then_some(point)
    })
}
