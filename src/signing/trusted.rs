//! The public keys of others, and our own old ones, that signatures are believed of.

use std::path::PathBuf;

use super::PublicKey;
use crate::error::{Context, Error, Kind, Result};
use crate::store::{Dirs, Lock, write_atomically};

/// The list of trusted keys, in the format of `authorized_keys`.
#[derive(Debug)]
pub struct Trusted {
    pub keys: Vec<PublicKey>,
}

/// The same, with the right to change it: nobody else does meanwhile.
#[derive(Debug)]
pub struct Changing {
    path: PathBuf,
    keys: Vec<PublicKey>,
    _lock: Lock,
}

impl Trusted {
    /// Reads the list; it is empty where there is none.
    pub fn read(dirs: &Dirs) -> Result<Self> {
        let path = dirs.trusted_keys();
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.doing(|| format!("reading {}", path.display()))?,
        };
        let keys = keys(&text, &path.display().to_string())?;
        Ok(Trusted { keys })
    }

    /// Reads the list to change it, as soon as nobody else does.
    pub async fn to_change(dirs: &Dirs) -> Result<Changing> {
        let lock = Lock::acquire(dirs.keys_lock()).await?;
        Ok(Changing {
            path: dirs.trusted_keys(),
            keys: Trusted::read(dirs)?.keys,
            _lock: lock,
        })
    }
}

impl Changing {
    /// Adds a key, if it is not there yet; says whether it was not.
    pub fn add(&mut self, key: PublicKey) -> Result<bool> {
        let known = self
            .keys
            .iter()
            .any(|known| known.fingerprint() == key.fingerprint());
        if known {
            return Ok(false);
        }
        self.keys.push(key);
        self.write().map(|()| true)
    }

    /// Takes a key out, and returns it.
    pub fn remove(&mut self, fingerprint: &str) -> Result<PublicKey> {
        let mut keys = self.keys.iter();
        let at = keys.position(|key| key.fingerprint() == fingerprint);
        let at = at.ok_or_else(|| {
            Error::new(format!("removing the key {fingerprint}"))
                .kind(Kind::Usage)
                .cause("no trusted key has this fingerprint")
                .hint("`imgbuild key show` lists them")
        })?;
        let removed = self.keys.remove(at);
        self.write().map(|()| removed)
    }

    fn write(&self) -> Result<()> {
        let mut text = String::new();
        for key in &self.keys {
            text += &key.to_openssh()?;
            text.push('\n');
        }
        write_atomically(&self.path, text.as_bytes())
    }
}

/// The keys of a file: one in PEM, or lines of OpenSSH's, with comments and empty lines between them.
pub fn keys(text: &str, shown: &str) -> Result<Vec<PublicKey>> {
    if text.trim_start().starts_with("-----BEGIN") {
        return Ok(vec![PublicKey::read(text, shown)?]);
    }
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| PublicKey::read(line, shown))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_trusted_once_and_until_it_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(home.path());
        let key = PublicKey::new([1; 32], "somebody's");
        let mut trusted = Trusted::to_change(&dirs).await.unwrap();
        assert!(trusted.add(key.clone()).unwrap());
        assert!(!trusted.add(PublicKey::new([1; 32], "again")).unwrap());
        let second = std::time::Duration::from_millis(20);
        let waited = tokio::time::timeout(second, Trusted::to_change(&dirs)).await;
        assert!(waited.is_err(), "two change the list at once");
        drop(trusted);
        let mut again = Trusted::to_change(&dirs).await.unwrap();
        assert_eq!(again.keys, std::slice::from_ref(&key));
        again.remove(&key.fingerprint()).unwrap();
        assert!(Trusted::read(&dirs).unwrap().keys.is_empty());
        assert!(again.remove(&key.fingerprint()).is_err());
    }
}
