//! `fetch`: what this machine downloads for its guest, out of its cache where it can.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Component, Path, PathBuf};

use super::upload::{Archive, place, send};
use super::{Attempt, Guest};
use crate::error::Result;
use crate::plan::{Fetch, Step};
use crate::source;
use crate::ssh::Session;

pub(super) async fn fetch<S: Session>(
    guest: &mut Guest<'_, S>,
    step: &Step,
    fetch: &Fetch,
) -> Result<Attempt> {
    let got = source::file(&fetch.urls, &fetch.digest, guest.means.source).await;
    // The lock lives until the file has been sent.
    let source::Fetched { path, used: _used } = got.map_err(|error| {
        let faults = guest
            .means
            .plan
            .fault(&step.span, "this could not be fetched");
        error.faults(faults)
    })?;
    let owner = fetch.owner.as_deref();
    match fetch.unpack {
        Some(strip) => {
            let repack = move |owner, archive: &mut Archive| repack(&path, strip, owner, archive);
            send(guest, step, &fetch.to, owner, repack).await
        }
        None => {
            let (folder, name) = place(&fetch.to, fetch.name());
            let mode = fetch.mode;
            let pack = move |(user, group), archive: &mut Archive| {
                let file = File::open(&path)?;
                let size = file.metadata()?.len();
                let mut header = tar::Header::new_gnu();
                header.set_mode(mode);
                header.set_uid(user);
                header.set_gid(group);
                header.set_mtime(0);
                header.set_size(size);
                archive.append_data(&mut header, &name, file.take(size))
            };
            send(guest, step, &folder, owner, pack).await
        }
    }
}

/// Makes an archive of an archive: without the leading parts of its paths, and with another owner.
fn repack<W: Write>(
    path: &Path,
    strip: u32,
    owner: (u64, u64),
    archive: &mut tar::Builder<W>,
) -> io::Result<()> {
    let mut from = tar::Archive::new(decompressed(File::open(path)?)?);
    for entry in from.entries()? {
        let mut entry = entry?;
        let Some(name) = stripped(&entry.path()?, strip) else {
            continue;
        };
        let kind = match entry.header().entry_type() {
            // The library fills the holes.
            tar::EntryType::GNUSparse => tar::EntryType::Regular,
            kind => kind,
        };
        // A new header: what one variant of the format keeps in its fields would be wrong for another path.
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        // Links have no mode that counts, and some archives give them none.
        header.set_mode(match kind.is_symlink() || kind.is_hard_link() {
            true => 0o777,
            false => entry.header().mode()?,
        });
        header.set_mtime(entry.header().mtime().unwrap_or_default());
        header.set_size(entry.size());
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        match entry.link_name()? {
            // A hard link names another entry of the archive, a symlink whatever it likes.
            Some(target) if kind.is_hard_link() => {
                let target = stripped(&target, strip).ok_or_else(|| {
                    let (name, target) = (name.display(), target.display());
                    io::Error::other(format!("{name} is a link to {target}, which is left out"))
                })?;
                header.set_size(0);
                archive.append_link(&mut header, &name, &target)?;
            }
            Some(target) if kind.is_symlink() => {
                header.set_size(0);
                archive.append_link(&mut header, &name, &target)?;
            }
            _ if kind.is_file() || kind.is_dir() || kind.is_contiguous() => {
                archive.append_data(&mut header, &name, &mut entry)?;
            }
            // Devices, and the headers of tar variants, which the library has made sense of.
            _ => {}
        }
    }
    Ok(())
}

/// A path within the archive's folder, without its leading parts; none if nothing remains.
fn stripped(path: &Path, strip: u32) -> Option<PathBuf> {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let parts: Vec<Component<'_>> = parts.collect();
    // The guest's tar runs as root: an archive must not write anywhere but where the recipe says.
    if !parts
        .iter()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return None;
    }
    let rest: PathBuf = parts.into_iter().skip(strip as usize).collect();
    (!rest.as_os_str().is_empty()).then_some(rest)
}

/// The content of a file that may be compressed, told by its first bytes.
fn decompressed(mut file: File) -> io::Result<Box<dyn Read>> {
    let mut magic = [0; 6];
    let mut seen = 0;
    while seen < magic.len() {
        match file.read(&mut magic[seen..])? {
            0 => break,
            read => seen += read,
        }
    }
    file.rewind()?;
    let file = BufReader::with_capacity(1 << 18, file);
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(file)?),
        _ => Box::new(file),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_leading_parts_and_stay_in_their_folder() {
        let stripped = |path: &str, strip| stripped(Path::new(path), strip);
        assert_eq!(stripped("./package/bin/node", 1), Some("bin/node".into()));
        assert_eq!(
            stripped("package/bin/node", 0),
            Some("package/bin/node".into())
        );
        assert_eq!(stripped("package/", 1), None);
        assert_eq!(stripped("../../etc/passwd", 0), None);
        assert_eq!(stripped("/etc/passwd", 0), None);
    }

    #[test]
    fn long_paths_keep_their_place_and_everything_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let long = "deep/".repeat(18);
        // 103 bytes, which the oldest header splits in two, and 95 without the first part, which it does not.
        let paths = [
            format!("package/{long}a.js"),
            format!("package/{}b", "long/".repeat(60)),
        ];
        for header in [tar::Header::new_ustar(), tar::Header::new_gnu()] {
            let mut made = tar::Builder::new(vec![]);
            for path in &paths {
                let mut header = header.clone();
                header.set_mode(0o751);
                header.set_size(1);
                // The oldest header cannot hold the longest.
                let _ = made.append_data(&mut header, path, b"x".as_slice());
            }
            let file = folder.path().join("archive");
            std::fs::write(&file, made.into_inner().unwrap()).unwrap();
            let mut archive = tar::Builder::new(vec![]);
            repack(&file, 1, (7, 8), &mut archive).unwrap();
            let bytes = archive.into_inner().unwrap();
            let mut archive = tar::Archive::new(bytes.as_slice());
            for entry in archive.entries().unwrap() {
                let entry = entry.unwrap();
                let path = entry.path().unwrap().to_string_lossy().into_owned();
                assert!(paths.contains(&format!("package/{path}")), "{path}");
                assert_eq!(entry.header().mode().unwrap(), 0o751);
                assert_eq!(entry.header().uid().unwrap(), 7);
            }
        }
    }
}
