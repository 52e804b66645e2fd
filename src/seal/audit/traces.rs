//! Traces of the build itself: its user, its keys, its instance. No recipe can keep these.

use super::checks::Findings;
use super::guest::Guest;
use super::report::Subject;
use crate::error::Result;
use crate::seal::rules::{ACCOUNTS, BUILD, GROUPS, OF_BUILDER};
use crate::seal::{Evidence, Item, Plan};

/// How much of one file is searched; no configuration is larger.
const SEARCHED: usize = 4 << 20;
/// How much is searched in all.
const SEARCHED_IN_ALL: usize = 256 << 20;
/// How many homes named in `/etc/passwd` are searched for keys.
const MAX_HOMES: usize = 1000;

/// The build's user, wherever a system notes its users.
pub(super) fn builder(guest: &Guest, plan: &Plan, findings: &mut Findings) -> Result<()> {
    for pattern in BUILD {
        findings.gone(guest, Subject::Builder, pattern)?;
    }
    if !plan.builder.is_empty() {
        for path in OF_BUILDER {
            let path = path.replace('@', &plan.builder);
            findings.check();
            if guest.metadata(path.as_bytes())?.is_some() {
                findings.add(Subject::Builder, path.as_bytes(), "is still there");
            }
        }
    }
    for name in ACCOUNTS.iter().chain(GROUPS) {
        for file in [
            format!("/etc/{name}"),
            format!("/etc/{name}-"),
            format!("/var/backups/{name}.bak"),
        ] {
            findings.check();
            let text = guest.read(file.as_bytes(), SEARCHED)?.unwrap_or_default();
            if text
                .split(|byte| *byte == b'\n')
                .any(|line| names(line, name, plan))
            {
                let what = format!("still names the build's user {}", plan.builder);
                findings.add(Subject::Builder, file.as_bytes(), what);
            }
        }
    }
    let mut files = guest.glob("/etc/sudoers.d/*")?;
    files.push(b"/etc/sudoers".to_vec());
    for file in files {
        findings.check();
        let text = guest.read(&file, SEARCHED)?.unwrap_or_default();
        let builder = plan.builder.as_bytes();
        let grants = text.split(|byte| *byte == b'\n').any(|line| {
            let line = line.strip_prefix(b"# User rules for ").unwrap_or(line);
            let rest = line.trim_ascii_start().strip_prefix(builder);
            rest.is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace))
        });
        if grants && !builder.is_empty() {
            findings.add(
                Subject::Builder,
                &file,
                "still has the sudo line of the build's user",
            );
        }
    }
    Ok(())
}

/// Whether a line of an account file is the builder's, or lists it as a member.
fn names(line: &[u8], file: &str, plan: &Plan) -> bool {
    let builder = plan.builder.as_bytes();
    let mut fields = line.split(|byte| *byte == b':');
    let own = fields.next() == Some(builder);
    let uid = plan.builder_uid.to_string();
    let by_id = file == "passwd" && fields.clone().nth(1) == Some(uid.as_bytes());
    let member = GROUPS.contains(&file)
        && fields.skip(1).any(|field| {
            field
                .split(|byte| *byte == b',')
                .any(|name| name == builder)
        });
    own && !line.is_empty() || by_id || member
}

/// Files that belong to the build's user, on every file system of the guest. Returns how many files there are.
pub(super) fn owned(guest: &Guest, plan: &Plan, findings: &mut Findings) -> Result<usize> {
    findings.check();
    let uid = plan.builder_uid;
    guest.walk(b"/", &mut |path, entry| {
        if entry.metadata()?.uid() == uid {
            let what = format!(
                "belongs to the build's user (uid {uid}), and so to whoever gets that uid next"
            );
            findings.add(Subject::Builder, path, what);
        }
        Ok(())
    })
}

/// The build's keys and instance id in the places where programs put such things.
pub(super) fn keys(
    guest: &Guest,
    plan: &Plan,
    evidence: &Evidence,
    findings: &mut Findings,
) -> Result<()> {
    let keeps = |item| plan.keep.contains(&item);
    let needles = [
        (&evidence.host_key, "holds the build's SSH host key"),
        (
            &plan.client_key,
            "holds the key that the build logged in with",
        ),
        (
            &evidence.instance_id,
            "holds the id of the build's instance",
        ),
    ];
    let mut files = vec![];
    for place in places(guest, !keeps(Item::Logs))? {
        findings.check();
        guest.walk(&place, &mut |path, entry| {
            // What a recipe keeps says, of course, where it comes from.
            let kept = (keeps(Item::SshHostKeys) && path.starts_with(b"/etc/ssh/ssh_host_"))
                || (keeps(Item::Hostname) && matches!(path, b"/etc/hostname" | b"/etc/hosts"));
            if entry.kind.is_regular_file() && !kept {
                files.push(path.to_vec());
            }
            Ok(())
        })?;
    }
    let mut left = SEARCHED_IN_ALL;
    for path in files {
        let text = guest.read(&path, SEARCHED.min(left))?.unwrap_or_default();
        left -= text.len();
        let text = String::from_utf8_lossy(&text);
        for (needle, what) in &needles {
            // A short needle would be found everywhere, an empty one is not known.
            if needle.len() >= 8 && text.contains(needle.as_str()) {
                findings.add(Subject::Builder, &path, *what);
            }
        }
    }
    Ok(())
}

/// Directories to search: configuration, spools, cloud-init's state, logs, and `.ssh` in every home.
fn places(guest: &Guest, logs: bool) -> Result<Vec<Vec<u8>>> {
    let mut places: Vec<Vec<u8>> = vec![
        b"/etc".to_vec(),
        b"/var/lib/cloud".to_vec(),
        b"/var/spool".to_vec(),
        b"/root/.ssh".to_vec(),
    ];
    if logs {
        places.push(b"/var/log".to_vec());
    }
    places.extend(guest.glob("/home/*/.ssh")?);
    let passwd = guest.read(b"/etc/passwd", SEARCHED)?.unwrap_or_default();
    for line in passwd.split(|byte| *byte == b'\n').take(MAX_HOMES) {
        if let Some(home) = line.split(|byte| *byte == b':').nth(5)
            && home.starts_with(b"/")
        {
            places.push([home, b"/.ssh"].concat());
        }
    }
    places.sort();
    places.dedup();
    Ok(places)
}
