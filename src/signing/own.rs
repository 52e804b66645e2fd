//! The key that is made at first use, and kept in the config folder.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};

use super::PublicKey;
use super::trusted::Trusted;
use crate::error::{Context, Error, Kind, Result};
use crate::store::{Dirs, create_private_folder, sync_folder};

/// What the key says about itself.
const COMMENT: &str = "imgbuild";

/// A private key larger than this is none.
const LARGEST: u64 = 64 * 1024;

/// Reads the key; `None` if there is none yet.
pub fn open(dirs: &Dirs) -> Result<Option<PrivateKey>> {
    match read(&dirs.signing_key()) {
        Err(error) if !dirs.signing_key().exists() => {
            tracing::debug!("{error}");
            Ok(None)
        }
        key => key.map(Some),
    }
}

/// Reads the key, and makes one if there is none yet. Says whether it did.
pub fn open_or_create(dirs: &Dirs) -> Result<(PrivateKey, bool)> {
    if let Some(key) = open(dirs)? {
        return Ok((key, false));
    }
    let path = dirs.signing_key();
    let doing = || format!("making the signing key {}", path.display());
    let aside = write_aside(dirs, &new_key()?)?;
    // Another process may have made one meanwhile, which then counts.
    let linked = match std::fs::hard_link(&aside, &path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        linked => linked.map(|()| true),
    };
    let removed = std::fs::remove_file(&aside);
    let made = linked
        .and_then(|made| removed.map(|()| made))
        .and_then(|made| sync_folder(&dirs.config).map(|()| made));
    let made = made.doing(doing)?;
    let key = open(dirs)?.ok_or_else(|| Error::new(doing()).cause("it is gone again"))?;
    Ok((key, made))
}

/// Puts a new key in the place of the old one, which stays trusted. Returns both public keys, the old one first.
///
/// Errors: the old one has a passphrase, which the new one would not have ([`Kind::Usage`]).
pub async fn rotate(dirs: &Dirs) -> Result<(Option<PublicKey>, PublicKey)> {
    let path = dirs.signing_key();
    let mut trusted = Trusted::to_change(dirs).await?;
    let old = match open(dirs)? {
        None => None,
        Some(old) if old.is_encrypted() => {
            let path = path.display();
            return Err(Error::new(format!("replacing the signing key {path}"))
                .kind(Kind::Usage)
                .cause("it has a passphrase, and the new one would have none")
                .hint(format!(
                    "take it off first, and give one to the new key afterwards: ssh-keygen -p -f {path}"
                )));
        }
        Some(old) => {
            let old = PublicKey::of(old.public_key(), "that was used so far")?;
            // First, so that what it has signed can be verified at every moment.
            trusted.add(old.clone())?;
            Some(old)
        }
    };
    let key = new_key()?;
    let aside = write_aside(dirs, &key)?;
    let renamed = std::fs::rename(&aside, &path).and_then(|()| sync_folder(&dirs.config));
    renamed.doing(|| format!("replacing the signing key {}", path.display()))?;
    Ok((old, PublicKey::of(key.public_key(), "that was made")?))
}

fn new_key() -> Result<PrivateKey> {
    let key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519);
    let mut key = key.doing(|| "making a signing key")?;
    key.set_comment(COMMENT);
    Ok(key)
}

/// Writes a key beside its place, for this user's eyes only.
fn write_aside(dirs: &Dirs, key: &PrivateKey) -> Result<PathBuf> {
    let doing = || "writing a signing key";
    let text = key.to_openssh(LineEnding::LF).doing(doing)?;
    create_private_folder(&dirs.config)?;
    let name = format!("signing_key.{}.partial", std::process::id());
    let aside = dirs.config.join(name);
    let file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside);
    file.and_then(|mut file| {
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
    })
    .doing(doing)?;
    Ok(aside)
}

/// Reads a private key that only its owner can read.
pub fn read(path: &Path) -> Result<PrivateKey> {
    use std::os::unix::fs::MetadataExt;
    let doing = || format!("reading the signing key {}", path.display());
    let metadata = std::fs::metadata(path).doing(doing);
    let metadata = metadata.map_err(|error| error.kind(Kind::Usage))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(Error::new(doing())
            .kind(Kind::Usage)
            .cause("others can read it")
            .hint(format!("chmod 600 {}", path.display())));
    }
    if metadata.len() > LARGEST {
        return Err(Error::new(doing()).kind(Kind::Usage).cause("it is no key"));
    }
    let text = std::fs::read_to_string(path).doing(doing)?;
    let key = PrivateKey::from_openssh(text).doing(doing);
    key.map_err(|error| {
        error
            .kind(Kind::Usage)
            .hint("it must be in OpenSSH's format: ssh-keygen -t ed25519 -f FILE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_key_is_made_once_for_its_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        assert!(open(&dirs).unwrap().is_none());
        let (key, made) = open_or_create(&dirs).unwrap();
        assert!(made);
        let (again, made) = open_or_create(&dirs).unwrap();
        assert!(!made && again == key);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&dirs.signing_key()), 0o600);
        assert_eq!(mode(&dirs.config), 0o700);
        assert_eq!(std::fs::read_dir(&dirs.config).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        open_or_create(&dirs).unwrap();
        let open_to_all = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(dirs.signing_key(), open_to_all).unwrap();
        assert!(open(&dirs).is_err());
        assert!(open_or_create(&dirs).is_err());
    }

    #[tokio::test]
    async fn a_passphrase_is_not_dropped_silently() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        let (key, _) = open_or_create(&dirs).unwrap();
        let locked = key.encrypt(&mut OsRng, "secret").unwrap();
        let aside = write_aside(&dirs, &locked).unwrap();
        std::fs::rename(aside, dirs.signing_key()).unwrap();
        let error = rotate(&dirs).await.unwrap_err();
        assert_eq!(error.get_kind(), Kind::Usage);
        assert_eq!(open(&dirs).unwrap().unwrap(), locked);
    }

    #[tokio::test]
    async fn after_a_rotation_the_old_key_is_still_trusted() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        let (first, _) = open_or_create(&dirs).unwrap();
        let (old, new) = rotate(&dirs).await.unwrap();
        let old = old.unwrap();
        assert_eq!(old, PublicKey::of(first.public_key(), "x").unwrap());
        assert_ne!(old.fingerprint(), new.fingerprint());
        let now = open(&dirs).unwrap().unwrap();
        assert_eq!(PublicKey::of(now.public_key(), "x").unwrap(), new);
        assert_eq!(Trusted::read(&dirs).unwrap().keys, [old]);
    }
}
