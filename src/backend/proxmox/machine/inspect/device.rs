//! A block device in a guest.

use std::time::Duration;

use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::ssh::{SshSession, as_root, capture};

/// Waits until a disk is there, and says what the guest calls it, its sectors of 512 bytes, and whether it is read-only. A SCSI
/// disk of QEMU has its drive's name in the page of its identification, for which no udev is needed.
const FIND: &str = r#"
while :; do
    for page in /sys/block/*/device/vpd_pg83; do
        grep -q "$1" "$page" 2>/dev/null || continue
        disk=${page#/sys/block/} disk=${disk%%/*}
        [ -b "/dev/$disk" ] || continue
        echo "$disk $(cat "/sys/block/$disk/size" "/sys/block/$disk/ro" | tr '\n' ' ')"
        exit
    done
    sleep 0.1
done
"#;

/// How long a guest may take to see a disk that was plugged in.
const SEEN: Duration = Duration::from_secs(2 * 60);

/// How long it may take to say which disk is its own.
const TOLD: Duration = Duration::from_secs(60);

/// A disk in a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// What the kernel calls it: `sda`.
    pub name: String,
    /// Bytes.
    pub size: u64,
    read_only: bool,
}

impl Device {
    /// Waits until the guest has the disk of this drive, which was plugged in read-only.
    pub async fn plugged(session: &mut SshSession, drive: &str) -> Result<Self> {
        let device = Device::find(session, drive, SEEN).await?;
        match device.read_only {
            true => Ok(device),
            false => Err(looking(drive).cause("the guest can write to it")),
        }
    }

    /// The disk of this drive, which the guest has had since its boot.
    pub async fn own(session: &mut SshSession, drive: &str) -> Result<Self> {
        Device::find(session, drive, TOLD).await
    }

    async fn find(session: &mut SshSession, drive: &str, patience: Duration) -> Result<Self> {
        let command = as_root(FIND, &[drive]);
        let told = timeout(patience, capture(session, &command)).await;
        let (ended, said) = told.map_err(|_| {
            let cause = format!("the guest has not seen it for {} s", patience.as_secs());
            looking(drive).cause(cause)
        })??;
        if !ended.is_success() {
            return Err(looking(drive).cause(ended).detail("what it said", said));
        }
        Device::read(&said).map_err(|why| looking(drive).cause(why).detail("what it said", said))
    }

    /// Reads what [`FIND`] says.
    fn read(said: &str) -> Result<Self, &'static str> {
        let words: Vec<&str> = said.split_whitespace().collect();
        let [name, sectors, read_only] = words[..] else {
            return Err("the guest does not say what it is");
        };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err("that is no name of a disk");
        }
        let size = sectors.parse().ok().and_then(|n: u64| n.checked_mul(512));
        Ok(Device {
            name: name.to_owned(),
            size: size
                .filter(|size| *size > 0)
                .ok_or("that is no size of a disk")?,
            read_only: read_only == "1",
        })
    }

    /// Where the guest has it.
    pub fn path(&self) -> String {
        format!("/dev/{}", self.name)
    }
}

fn looking(drive: &str) -> Error {
    Error::new(format!("looking for the disk {drive} in the guest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_by_its_name_and_size() {
        for (said, read_only) in [("sdb 4194304 1 \n", true), ("sdb 4194304 0 \n", false)] {
            let device = Device {
                name: "sdb".into(),
                size: 2 << 30,
                read_only,
            };
            assert_eq!(Device::read(said), Ok(device));
        }
        for (said, why) in [
            ("", "does not say"),
            ("sdb 1", "does not say"),
            ("sdb 1 1 1", "does not say"),
            ("../sdb 1 1", "no name"),
            ("sdb;reboot 1 1", "no name"),
            ("sdb 0 1", "no size"),
            ("sdb -1 1", "no size"),
            ("sdb 36028797018963968 1", "no size"),
        ] {
            assert!(Device::read(said).unwrap_err().contains(why), "{said}");
        }
    }
}
