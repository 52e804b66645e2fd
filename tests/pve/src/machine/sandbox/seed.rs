//! The seed of a sandbox, which has no driver for the volume it is on.

use std::io::{self, Cursor, Read};
use std::path::Path;

use fatfs::{FileSystem, FsOptions};

use super::super::Spec;
use crate::vm::disk::Drive;

/// What the tiny guest reads of a seed.
const FILES: [&str; 2] = ["user-data", "meta-data"];

/// Writes the files of the first volume labelled CIDATA into `folder`, if there is one in a CD-ROM drive. It must be FAT, as
/// imgbuild's are, in a raw image.
pub fn unpack(spec: &Spec, folder: &Path) -> io::Result<()> {
    for (key, path, format) in &spec.files {
        let is_cdrom = Drive::parse(spec.get(key)).is_cdrom();
        if !is_cdrom || format != "raw" {
            continue;
        }
        let volume = Cursor::new(std::fs::read(path)?);
        let Ok(system) = FileSystem::new(volume, FsOptions::new()) else {
            continue;
        };
        if !system.volume_label().eq_ignore_ascii_case("cidata") {
            continue;
        }
        for name in FILES {
            let mut content = vec![];
            let mut file = system.root_dir().open_file(name)?;
            file.read_to_end(&mut content)?;
            std::fs::write(folder.join(name), content)?;
        }
        return Ok(());
    }
    Ok(())
}
