//! `download`: files and trees from the guest.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::{Attempt, Guest};
use crate::error::{Context, Result};
use crate::plan::Step;
use crate::run::Resource;
use crate::ssh::{Ended, Exec, Session, Stdin, as_root, capture};
use crate::store;

/// Packs one file or folder; a link to a file stands for the file. tar's own messages would be in the middle of the
/// archive.
const PACK: &str = r#"
set -eu
mkdir -p /run/imgbuild
follow=
[ -d "$1/$2" ] || follow=-h
exec tar -cz $follow -f - -C "$1" -- "$2" 2>/run/imgbuild/download
"#;

/// Downloads `from` as `to`, or into `to` if that is a folder. It appears there when all of it has arrived.
pub(super) async fn download<S: Session>(
    guest: &mut Guest<'_, S>,
    step: &Step,
    from: &str,
    to: &Path,
) -> Result<Attempt> {
    let (parent, name) = split(from);
    let target = target(from, to);
    let folder = target.parent().map(Path::to_owned).unwrap_or_default();
    let run = guest.means.run;
    let scratch = folder.join(format!(".imgbuild-{}.partial", guest.next_command()));
    let aside = run.guard(Resource::Folder {
        path: scratch.clone(),
    })?;
    let attempt = bring(guest, step, (parent, name), &target, &scratch).await;
    run.remove(&aside).await?;
    attempt
}

/// The path that a download to `to` gets on this machine.
pub fn target(from: &str, to: &Path) -> PathBuf {
    match to.to_string_lossy().ends_with('/') {
        true => to.join(split(from).1),
        false => to.to_owned(),
    }
}

async fn bring<S: Session>(
    guest: &mut Guest<'_, S>,
    step: &Step,
    (parent, name): (&str, &str),
    target: &Path,
    scratch: &Path,
) -> Result<Attempt> {
    let doing = || format!("writing {}", target.display());
    std::fs::create_dir_all(scratch).doing(doing)?;
    let mut archive = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(scratch.join("archive"))
        .doing(doing)?;
    let mut room = Room::on(scratch);
    let mut written = Ok(());
    let mut output = |bytes: &[u8]| {
        written = room
            .take(bytes.len())
            .and_then(|()| archive.write_all(bytes));
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    let exec = Exec {
        command: &as_root(PACK, &[parent, name]),
        stdin: Stdin::empty(),
        output: &mut output,
    };
    let ended = tokio::time::timeout(step.timeout, guest.session.exec(exec)).await;
    written.doing(doing)?;
    Ok(match ended {
        Err(_) => {
            guest.reconnect().await?;
            Attempt::TimedOut(vec![])
        }
        Ok(ended) => match ended? {
            Ended::Exit(0) => {
                let content = scratch.join("content");
                unpack(archive, content.clone()).await.doing(doing)?;
                replace(&content.join(name), target, &scratch.join("old")).doing(doing)?;
                Attempt::Ended(Ended::Exit(0), vec![])
            }
            Ended::Disconnected(why) => Attempt::Ended(Ended::Disconnected(why), vec![]),
            ended => {
                let why = as_root("cat /run/imgbuild/download", &[]);
                let (_, said) = capture(&mut guest.session, &why).await?;
                Attempt::Ended(ended, said.lines().map(str::to_owned).collect())
            }
        },
    })
}

/// The folder that a path of the guest is in, and its name there.
fn split(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
        None => ("/", "."),
    }
}

async fn unpack(archive: File, into: PathBuf) -> std::io::Result<()> {
    let stop = CancellationToken::new();
    let _stops_when_dropped = stop.clone().drop_guard();
    let work = move || {
        let mut archive = archive;
        archive.rewind()?;
        let content = Content {
            from: GzDecoder::new(archive),
            room: Room::on(into.parent().unwrap_or(&into)),
            stop,
        };
        let mut archive = tar::Archive::new(content);
        // The guest's users and its capabilities mean nothing here; its links must not lead out of the folder, which
        // the library sees to.
        archive.set_preserve_ownerships(false);
        archive.unpack(into)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// What comes out of an archive, until there is no room for it, or nobody who wants it: the folder may be gone then, and
/// must not be made again.
struct Content<R> {
    from: R,
    room: Room,
    stop: CancellationToken,
}

impl<R: Read> Read for Content<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the build was stopped"));
        }
        let length = self.from.read(buffer)?;
        self.room.take(length)?;
        Ok(length)
    }
}

/// Bytes that a download leaves free on its file system. A guest may send without end, and an archive may grow a
/// thousandfold.
const RESERVE: u64 = 1 << 30;

/// How many bytes are written between two looks at the free space.
const LOOK_EVERY: u64 = 64 << 20;

/// Keeps an eye on the room on a file system.
struct Room {
    folder: PathBuf,
    reserve: u64,
    /// How much may be written before the next look.
    until_look: u64,
}

impl Room {
    fn on(folder: &Path) -> Self {
        Room {
            folder: folder.to_owned(),
            reserve: RESERVE,
            until_look: 0,
        }
    }

    /// Fails when there is no room for what is to be written now and until the next look.
    fn take(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        if bytes > self.until_look {
            let free = store::space::free(&self.folder).map_err(io::Error::other)?;
            if free < self.reserve.saturating_add(LOOK_EVERY + bytes) {
                return Err(io::Error::other(format!(
                    "the file system has {} left, and {} are to stay free",
                    indicatif::BinaryBytes(free),
                    indicatif::BinaryBytes(self.reserve)
                )));
            }
            self.until_look = LOOK_EVERY + bytes;
        }
        self.until_look -= bytes;
        Ok(())
    }
}

/// Puts a file in place of a file, or a folder in place of a folder, which comes to be in the scratch folder.
fn replace(from: &Path, to: &Path, old: &Path) -> io::Result<()> {
    if !to.is_dir() {
        return std::fs::rename(from, to);
    }
    if !from.is_dir() {
        return Err(io::Error::other(
            "there is a folder of that name; end `to` with `/` to download into it",
        ));
    }
    // At no moment is neither there: what is in the scratch folder is lost when imgbuild is killed.
    match renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
        // Not all file systems can.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            std::fs::rename(to, old)?;
            std::fs::rename(from, to)
        }
        exchanged => exchanged.map_err(io::Error::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_folder_and_a_name_in_it() {
        assert_eq!(split("/etc/os-release"), ("/etc", "os-release"));
        assert_eq!(split("/srv/"), ("/", "srv"));
        assert_eq!(split("/"), ("/", "."));
    }

    #[test]
    fn a_folder_is_not_replaced_by_a_file() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        std::fs::create_dir(path("out")).unwrap();
        std::fs::write(path("out/precious"), "image").unwrap();
        std::fs::write(path("new"), "log").unwrap();
        replace(&path("new"), &path("out"), &path("old")).unwrap_err();
        assert!(path("out/precious").exists());
        std::fs::create_dir(path("folder")).unwrap();
        replace(&path("folder"), &path("out"), &path("old")).unwrap();
        assert!(!path("out/precious").exists(), "a folder replaces a folder");
        assert!(path("folder/precious").exists(), "nothing was in between");
    }

    #[test]
    fn a_download_ends_before_the_disk_is_full() {
        let place = tempfile::tempdir().unwrap();
        let mut room = Room::on(place.path());
        room.take(1).unwrap();
        room.reserve = u64::MAX;
        room.take(1).unwrap();
        let error = room.take(usize::try_from(LOOK_EVERY).unwrap() + 1);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("are to stay free"), "{error}");
    }

    #[test]
    fn nothing_is_unpacked_that_nobody_wants() {
        let place = tempfile::tempdir().unwrap();
        let mut content = Content {
            from: io::repeat(7),
            room: Room::on(place.path()),
            stop: CancellationToken::new(),
        };
        content.read_exact(&mut [0; 10]).unwrap();
        content.stop.cancel();
        content.read_exact(&mut [0; 10]).unwrap_err();
    }
}
