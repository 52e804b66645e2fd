//! Values that stand for secrets: equal for equal secrets, and of no use to who does not have this machine's key.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Context, Error, Result};
use crate::store::{Dirs, create_private_folder};
use crate::text::hex;

/// Bytes of the key.
const LENGTH: usize = 32;

/// Hashes with the key of this user on this machine, which never leaves it.
pub struct KeyedHash {
    key: hmac::Key,
}

impl KeyedHash {
    /// Reads the key; `None` if there is none yet.
    pub fn open(dirs: &Dirs) -> Result<Option<Self>> {
        let path = dirs.secret_key();
        let doing = || format!("reading {}", path.display());
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.doing(doing)?,
        };
        match bytes.len() {
            LENGTH => Ok(Some(KeyedHash {
                key: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
            })),
            length => Err(Error::new(doing())
                .cause(format!("it has {length} bytes instead of {LENGTH}"))
                .hint(
                    "delete it: a new one is made, and layers of steps with secrets are made anew",
                )),
        }
    }

    /// Reads the key, and makes one if there is none yet.
    pub fn open_or_create(dirs: &Dirs) -> Result<Self> {
        if let Some(known) = KeyedHash::open(dirs)? {
            return Ok(known);
        }
        let path = dirs.secret_key();
        let doing = || format!("making {}", path.display());
        let mut bytes = [0; LENGTH];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| Error::new(doing()).cause("the system gave no random bytes"))?;
        create_private_folder(&dirs.state)?;
        let aside = path.with_extension(format!("{}.partial", std::process::id()));
        let written = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            // Another process may have made one meanwhile, which then counts.
            .and_then(|()| match std::fs::hard_link(&aside, &path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            });
        let removed = std::fs::remove_file(&aside);
        written.and(removed).doing(doing)?;
        KeyedHash::open(dirs)?.ok_or_else(|| Error::new(doing()).cause("it is gone again"))
    }

    /// What stands for the secret called `name`.
    pub fn of(&self, name: &str, value: &str) -> String {
        let tag = hmac::sign(&self.key, format!("{name}\0{value}").as_bytes());
        hex(tag.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_machine_hashes_the_same_way_always_and_no_two_machines_do() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dirs = Dirs::under(one.path());
        assert!(KeyedHash::open(&dirs).unwrap().is_none());
        let hash = KeyedHash::open_or_create(&dirs).unwrap().of("N", "v");
        let again = KeyedHash::open(&dirs).unwrap().unwrap();
        assert_eq!(again.of("N", "v"), hash);
        assert_ne!(again.of("N", "w"), hash);
        assert_ne!(again.of("M", "v"), hash);
        let elsewhere = KeyedHash::open_or_create(&Dirs::under(other.path())).unwrap();
        assert_ne!(elsewhere.of("N", "v"), hash);
        let mode = std::fs::metadata(dirs.secret_key()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&dirs.state).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_key_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        KeyedHash::open_or_create(&dirs).unwrap();
        std::fs::write(dirs.secret_key(), "short").unwrap();
        assert!(KeyedHash::open(&dirs).is_err());
        assert!(KeyedHash::open_or_create(&dirs).is_err());
    }
}
