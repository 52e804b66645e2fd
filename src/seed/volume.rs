//! The FAT volume labelled CIDATA that cloud-init's NoCloud looks for.

use std::io::{Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use crate::error::{Context, Result};

/// Bytes. Linux mounts no file system whose sectors are smaller than those of its device, and those of a CD-ROM, as which
/// Proxmox VE shows an uploaded volume, have this size. Disks take it as well.
const SECTOR: u16 = 2048;

/// Room for the file system itself, and the size of a volume with little in it.
const OVERHEAD: usize = 1 << 20;

/// A volume with these files in its root.
pub fn fat(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let content: usize = files.iter().map(|(_, text)| text.len()).sum();
    let size = (OVERHEAD + content * 2).next_multiple_of(usize::from(SECTOR));
    let mut disk = Cursor::new(vec![0; size]);
    write(&mut disk, files).doing(|| "making the seed volume")?;
    Ok(disk.into_inner())
}

fn write(disk: &mut Cursor<Vec<u8>>, files: &[(&str, &str)]) -> std::io::Result<()> {
    let options = FormatVolumeOptions::new()
        .bytes_per_sector(SECTOR)
        .volume_label(*b"CIDATA     ");
    fatfs::format_volume(&mut *disk, options)?;
    let system = FileSystem::new(&mut *disk, FsOptions::new())?;
    for (name, text) in files {
        let mut file = system.root_dir().create_file(name)?;
        file.write_all(text.as_bytes())?;
        file.flush()?;
    }
    system.unmount()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_volume_has_the_label_and_the_files() {
        let large = "x".repeat(3 << 20);
        let bytes = fat(&[("user-data", "#cloud-config\n"), ("vendor-data", &large)]).unwrap();
        let system = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
        assert_eq!(system.volume_label(), "CIDATA");
        let read = |name: &str| {
            let mut text = String::new();
            let mut file = system.root_dir().open_file(name).unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(read("user-data"), "#cloud-config\n");
        assert_eq!(read("vendor-data"), large);
    }
}
