//! The files of a version: its image, what lies beside it, and the link that points to the newest.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{Dirs, sync_folder};
use crate::error::{Context, Result};
use crate::provenance::Files;
use crate::record;
use crate::text::hex;

/// The image of a version: `web-7.qcow2` for the link `web.qcow2`.
pub fn path(link: &Path, number: u32) -> PathBuf {
    let mut name = stem(link).to_owned();
    name.push(format!("-{number}"));
    with_extension_of(link, name)
}

/// The link that a version's image belongs to.
pub fn link_of(image: &Path, number: u32) -> PathBuf {
    let stem = stem(image).as_bytes();
    let end = format!("-{number}");
    let stem = stem.strip_suffix(end.as_bytes()).unwrap_or(stem);
    with_extension_of(image, OsStr::from_bytes(stem).to_owned())
}

fn stem(path: &Path) -> &OsStr {
    path.file_stem().unwrap_or_default()
}

fn with_extension_of(path: &Path, stem: OsString) -> PathBuf {
    let mut name = stem;
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// All files of a version, the image first and the build record last.
pub fn files(image: &Path) -> Vec<PathBuf> {
    let signed = Files::of(image);
    let beside = signed.all().map(Path::to_owned);
    let (image, record) = (image.to_owned(), record::path(image));
    [image].into_iter().chain(beside).chain([record]).collect()
}

/// The highest number that a file beside `link` has as one of its versions would, whatever comes after it; 0 if none has. A
/// registry that was lost must not make one number mean two images, nor two images of one name, in two formats, share what
/// lies beside them.
pub fn highest_number(link: &Path) -> Result<u32> {
    let folder = link.parent().unwrap_or(link);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries.doing(|| format!("reading {}", folder.display()))?,
    };
    let mut highest = 0;
    for entry in entries {
        let name = entry
            .doing(|| format!("reading {}", folder.display()))?
            .file_name();
        highest = highest.max(number_in(&name, stem(link)).unwrap_or(0));
    }
    Ok(highest)
}

/// 7 for `web-7.qcow2` and `web`.
fn number_in(name: &OsStr, stem: &OsStr) -> Option<u32> {
    let rest = name.as_bytes().strip_prefix(stem.as_bytes())?;
    let rest = std::str::from_utf8(rest.strip_prefix(b"-")?).ok()?;
    let digits = rest.split('.').next()?;
    let number: u32 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

/// What all names begin with that lie beside an image: two versions must not share it, in whatever formats they are.
pub fn stem_of(image: &Path) -> PathBuf {
    image.with_extension("")
}

/// The image that a link points to; what is no link is the image itself.
pub fn current(link: &Path) -> PathBuf {
    match std::fs::read_link(link) {
        Ok(target) => link.with_file_name(target),
        Err(_) => link.to_owned(),
    }
}

/// Makes `link` point to an image beside it, in one move. An image of this name that is no link, which imgbuild made before
/// it had versions, goes with its record. The caller holds the lock of [`lock_path`].
pub fn link(link: &Path, image: &Path) -> Result<()> {
    let doing = || format!("making {} point to the newest version", link.display());
    let was_link = link.is_symlink();
    let mut name = OsString::from(".");
    name.push(link.file_name().unwrap_or_default());
    name.push(".link.partial");
    let aside = link.with_file_name(name);
    // What a process that died here has left.
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).doing(doing);
        }
        _ => {}
    }
    std::os::unix::fs::symlink(image.file_name().unwrap_or_default(), &aside).doing(doing)?;
    let renamed = std::fs::rename(&aside, link);
    if renamed.is_err() {
        // The error of the renaming is what matters.
        let _ = std::fs::remove_file(&aside);
    }
    renamed.doing(doing)?;
    if !was_link {
        match std::fs::remove_file(record::path(link)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(doing);
            }
            _ => {}
        }
    }
    sync_folder(link.parent().unwrap_or(link)).doing(doing)
}

/// The lock of whoever is about to change where a link points to.
pub fn lock_path(dirs: &Dirs, link: &Path) -> PathBuf {
    let name = hex(link.as_os_str().as_encoded_bytes());
    let name = hex(&Sha256::digest(name.as_bytes())[..8]);
    dirs.locks().join(format!("output-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_versions_files_are_named_after_the_link_and_its_number() {
        for (link, image) in [
            ("/out/web.qcow2", "/out/web-7.qcow2"),
            ("/out/web.v1.raw", "/out/web.v1-7.raw"),
            ("/out/web", "/out/web-7"),
        ] {
            assert_eq!(path(Path::new(link), 7), Path::new(image));
            assert_eq!(link_of(Path::new(image), 7), Path::new(link));
        }
        let files = files(Path::new("/out/web-7.qcow2"));
        assert_eq!(files[0], Path::new("/out/web-7.qcow2"));
        assert!(files.contains(&PathBuf::from("/out/web-7.sbom.cdx.json")));
        let record = Path::new("/out/web-7.qcow2.build.json");
        assert_eq!(files.last().map(PathBuf::as_path), Some(record));
    }

    #[test]
    fn the_highest_number_is_that_of_a_version_in_whatever_format() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("web.qcow2");
        assert_eq!(highest_number(&link).unwrap(), 0);
        for name in [
            "web-2.qcow2",
            "web-10.qcow2",
            "web-13-1.qcow2",
            "web-.qcow2",
            "web-014.qcow2",
            "web-+15.qcow2",
            "other-16.qcow2",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(highest_number(&link).unwrap(), 10);
        std::fs::write(folder.path().join("web-11.raw"), "").unwrap();
        assert_eq!(highest_number(&link).unwrap(), 11);
        std::fs::write(folder.path().join("web-12.sbom.cdx.json"), "").unwrap();
        assert_eq!(highest_number(&link).unwrap(), 12);
    }

    #[test]
    fn the_link_takes_the_place_of_an_older_one_or_of_an_image_with_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["web.qcow2", "web.qcow2.build.json", "web-1.qcow2"] {
            std::fs::write(at(name), name).unwrap();
        }
        for number in [1, 2] {
            let image = path(&at("web.qcow2"), number);
            link(&at("web.qcow2"), &image).unwrap();
            assert_eq!(current(&at("web.qcow2")), image);
        }
        let target = std::fs::read_link(at("web.qcow2")).unwrap();
        assert_eq!(target, Path::new("web-2.qcow2"), "the folder can be moved");
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["web-1.qcow2", "web.qcow2"]);
    }
}
