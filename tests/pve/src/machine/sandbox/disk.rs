//! Disks of a sandbox: loop devices, and what a kernel and udev would say of them.

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode};

use crate::image;

/// A read-only device with the raw content of a volume. The device is free again when this is dropped and no guest has it open.
pub struct Disk {
    _device: File,
    shown: Shown,
}

/// What shows it to the sandbox.
struct Shown {
    /// As the kernel does in `/sys/block`.
    block: PathBuf,
    node: PathBuf,
    /// As udev does.
    link: PathBuf,
}

impl Disk {
    /// Attaches the drive `key` (`scsi2`) to the sandbox in `folder`. No other bus has disks there.
    pub async fn attach(
        folder: &Path,
        key: &str,
        path: &Path,
        format: &str,
    ) -> Result<Option<Disk>, String> {
        let said = |error: io::Error| error.to_string();
        let Some(number) = key.strip_prefix("scsi").and_then(|n| n.parse().ok()) else {
            return Ok(None);
        };
        let content = folder.join(key);
        image::convert(path, format, &content, "raw").await?;
        // What begins there ends there, also when nobody waits for it any more: no device is forgotten.
        let device = tokio::task::spawn_blocking(move || loop_device(&content));
        let device = device.await.map_err(|error| error.to_string())?;
        let device = device.map_err(|error| format!("losetup: {error}"))?;
        let name = name(number);
        let link = format!("dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_drive-{key}");
        let shown = Shown {
            block: folder.join("block").join(&name),
            node: folder.join("dev").join(&name),
            link: folder.join(link),
        };
        let announced = shown.announce(&name, key, &device);
        announced.map_err(said)?;
        let _device = device;
        Ok(Some(Disk { _device, shown }))
    }

    /// Takes it away from the sandbox.
    pub fn detach(self) -> io::Result<()> {
        fs::remove_dir_all(&self.shown.block)?;
        fs::remove_file(&self.shown.link)?;
        fs::remove_file(&self.shown.node)
    }
}

impl Shown {
    /// Makes it all. The name of the drive, by which a disk is looked for, comes last.
    fn announce(&self, name: &str, key: &str, mut device: &File) -> io::Result<()> {
        fs::create_dir_all(self.block.join("device"))?;
        let bytes = device.seek(io::SeekFrom::End(0))?;
        fs::write(self.block.join("size"), format!("{}\n", bytes / 512))?;
        fs::write(self.block.join("ro"), "1\n")?;
        let (number, mode) = (device.metadata()?.rdev(), Mode::from_raw_mode(0o660));
        rustix::fs::mknodat(CWD, &self.node, FileType::BlockDevice, mode, number)?;
        symlink(format!("../../{name}"), &self.link)?;
        fs::write(self.block.join("device/vpd_pg83"), format!("drive-{key}"))
    }
}

/// What Linux calls the SCSI disk with this number: sda to sdz, sdaa, …
fn name(number: u8) -> String {
    let letter = char::from(b'a' + number % 26);
    match number / 26 {
        0 => format!("sd{letter}"),
        more => format!("sd{}{letter}", char::from(b'a' + more - 1)),
    }
}

/// A device with the content of a file, which has no name afterwards. Both go when the device is closed.
fn loop_device(content: &Path) -> io::Result<File> {
    let set_up = losetup(
        Command::new("losetup")
            .args(["--find", "--show", "--read-only"])
            .arg(content),
    );
    fs::remove_file(content)?;
    let path = PathBuf::from(set_up?.trim());
    let device = File::open(&path);
    // A device that is open is only marked: it goes with who has it open.
    losetup(Command::new("losetup").arg("--detach").arg(&path))?;
    device
}

/// What it prints.
fn losetup(command: &mut Command) -> io::Result<String> {
    let ended = command.output()?;
    match ended.status.success() {
        true => Ok(String::from_utf8_lossy(&ended.stdout).into_owned()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&ended.stderr).trim().to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn disks_have_names_of_letters() {
        let names = [
            (0, "sda"),
            (2, "sdc"),
            (25, "sdz"),
            (26, "sdaa"),
            (30, "sdae"),
        ];
        for (number, name) in names {
            assert_eq!(super::name(number), name);
        }
    }
}
