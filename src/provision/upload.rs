//! `upload`: files and trees, streamed as one compressed archive while it is being made.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::mpsc;

use super::output::Pieces;
use super::{Attempt, Guest};
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::recipe::{Entry, EntryKind, Tree};
use crate::ssh::{Ended, Exec, Session, Stdin, as_root, capture};

/// Unpacks into a folder. What is there stays as it is, where tar can do that (busybox cannot): a symlink to a folder,
/// such as /lib, is followed and not replaced; a folder keeps its mode and owner.
const UNPACK: &str = r#"
set -eu
mkdir -p "$1"
keep=
! tar --version 2>/dev/null | grep -q GNU || keep='--keep-directory-symlink --no-overwrite-dir'
exec tar -xzpf - $keep -C "$1"
"#;

/// Says the numbers of `user:` or `user:group`. tar would take root for a name that the guest does not know.
const NUMBERS: &str = r#"
set -eu
file=$(mktemp)
trap 'rm -f "$file"' EXIT
chown "$1" "$file"
stat -c '%u %g' "$file"
"#;

/// How many pieces wait between the archive's maker and the connection: enough to keep both busy.
const PIECES: usize = 8;
const PIECE: usize = 256 * 1024;

/// Uploads `tree` to `to`.
pub(super) async fn upload<S: Session>(
    guest: &mut Guest<'_, S>,
    step: &Step,
    tree: &Tree,
    to: &str,
    owner: Option<&str>,
) -> Result<Attempt> {
    let (folder, name) = destination(tree, to);
    let tree = tree.clone();
    let pack = move |owner, archive: &mut Archive| pack(&tree, name.as_deref(), owner, archive);
    send(guest, step, &folder, owner, pack).await
}

/// An archive on its way to the guest.
pub(super) type Archive = tar::Builder<GzEncoder<io::BufWriter<Pipe>>>;

/// Unpacks an archive into `folder` in the guest while `pack` makes it; `pack` is told the owner's numbers.
pub(super) async fn send<S: Session>(
    guest: &mut Guest<'_, S>,
    step: &Step,
    folder: &str,
    owner: Option<&str>,
    pack: impl FnOnce((u64, u64), &mut Archive) -> io::Result<()> + Send + 'static,
) -> Result<Attempt> {
    let owner = match owner {
        None => (0, 0),
        Some(owner) => match numbers(guest, owner).await? {
            Ok(numbers) => numbers,
            Err((ended, said)) => return Ok(Attempt::NotStarted(ended, vec![said])),
        },
    };
    let command = as_root(UNPACK, &[folder]);
    let (sender, receiver) = mpsc::channel(PIECES);
    let packing = tokio::task::spawn_blocking(move || {
        let pipe = io::BufWriter::with_capacity(PIECE, Pipe { sender });
        let mut archive = tar::Builder::new(GzEncoder::new(pipe, Compression::fast()));
        pack(owner, &mut archive)?;
        archive.into_inner()?.finish()?.flush()
    });

    let mut said = Pieces::new(guest.means.run, step);
    let mut output = |bytes: &[u8]| {
        said.feed(bytes);
        ControlFlow::Continue(())
    };
    let exec = Exec {
        command: &command,
        stdin: Stdin::Pieces(receiver),
        output: &mut output,
    };
    let ended = tokio::time::timeout(step.timeout, guest.session.exec(exec)).await;
    let last = said.end();
    let packed = packing
        .await
        .map_err(|error| Error::new("packing an upload").caused_by(&error))?;
    let Ok(ended) = ended else {
        guest.reconnect().await?;
        return Ok(Attempt::TimedOut(last));
    };
    let ended = ended?;
    // When the guest's tar gave up, packing fails too, and what tar said is the reason.
    if ended == Ended::Exit(0)
        && let Err(error) = packed
    {
        return Err(
            Error::new(format!("step `{}`: reading what is uploaded", step.name))
                .cause(error)
                .faults(guest.means.plan.fault(&step.span, "this step failed")),
        );
    }
    Ok(Attempt::Ended(ended, last))
}

/// User and group number of an owner in the guest, or what the guest said instead.
async fn numbers<S: Session>(
    guest: &mut Guest<'_, S>,
    owner: &str,
) -> Result<Result<(u64, u64), (Ended, String)>> {
    // `user:` means the user's own group, `user` would leave root's.
    let whole = match owner.contains(':') {
        true => owner.to_owned(),
        false => format!("{owner}:"),
    };
    let (ended, said) = capture(&mut guest.session, &as_root(NUMBERS, &[&whole])).await?;
    let numbers = said.trim().split_once(' ');
    let numbers = numbers.and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
    Ok(numbers.filter(|_| ended.is_success()).ok_or((ended, said)))
}

/// The folder to unpack into, and the name that a single file gets.
fn destination(tree: &Tree, to: &str) -> (String, Option<String>) {
    let is_folder = tree
        .entries
        .first()
        .is_some_and(|root| root.kind == EntryKind::Folder);
    if is_folder {
        return (to.to_owned(), None);
    }
    let own_name = tree.root.file_name().unwrap_or_default();
    let (folder, name) = place(to, &own_name.to_string_lossy());
    (folder, Some(name))
}

/// The folder and the name of a single file that goes to `to`.
pub(super) fn place(to: &str, own_name: &str) -> (String, String) {
    match to.rsplit_once('/') {
        Some((folder, "")) => (format!("{folder}/"), own_name.to_owned()),
        Some((folder, name)) => (format!("{folder}/"), name.to_owned()),
        None => ("/".into(), to.to_owned()),
    }
}

fn pack(
    tree: &Tree,
    name: Option<&str>,
    owner: (u64, u64),
    archive: &mut Archive,
) -> io::Result<()> {
    for entry in &tree.entries {
        // The folder itself is the guest's: uploading into /etc must not change its mode.
        if entry.path.as_os_str().is_empty() && entry.kind == EntryKind::Folder {
            continue;
        }
        append(archive, tree, entry, name, owner)?;
    }
    Ok(())
}

fn append(
    archive: &mut Archive,
    tree: &Tree,
    entry: &Entry,
    name: Option<&str>,
    (user, group): (u64, u64),
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(user);
    header.set_gid(group);
    header.set_mtime(0);
    let path = name.map_or(entry.path.as_path(), Path::new);
    match &entry.kind {
        EntryKind::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            archive.append_data(&mut header, path, io::empty())
        }
        EntryKind::Symlink { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, path, target)
        }
        EntryKind::Text(content) => {
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content.as_slice())
        }
        EntryKind::File { .. } => {
            let file = std::fs::File::open(tree.locate(&entry.path))?;
            let modified = file.metadata()?.modified()?;
            let since = modified.duration_since(std::time::UNIX_EPOCH);
            header.set_mtime(since.unwrap_or_default().as_secs());
            let size = file.metadata()?.len();
            header.set_size(size);
            // A file that grows meanwhile must not spill over into the next entry.
            archive.append_data(&mut header, path, io::Read::take(file, size))
        }
    }
}

/// Hands pieces over to the connection; blocks when it is slower.
pub(super) struct Pipe {
    sender: mpsc::Sender<Vec<u8>>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sender
            .blocking_send(bytes.to_vec())
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
