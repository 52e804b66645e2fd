//! Who a guest is during a build.

use serde::{Deserialize, Serialize};
use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};

use crate::error::{Context, Result};

/// The keys and names of a machine's first boot, and of the boots after it with the same seed. Made anew for each first
/// boot, and written to the seed and beside the layers that come of it only.
pub struct Identity {
    /// cloud-init takes a new one for a first boot.
    pub instance_id: String,
    pub hostname: String,
    /// Logs the build in.
    pub client_key: PrivateKey,
    /// Proves the guest to the build.
    pub host_key: PrivateKey,
}

#[derive(Serialize, Deserialize)]
struct Written {
    instance_id: String,
    hostname: String,
    client_key: String,
    host_key: String,
}

impl Identity {
    /// New keys; `label` names the build in the keys' comments and the instance id.
    pub fn generate(label: &str, hostname: &str) -> Result<Self> {
        Ok(Identity {
            instance_id: label.to_owned(),
            hostname: hostname.to_owned(),
            client_key: key(label)?,
            host_key: key(label)?,
        })
    }

    /// The identity as a text, private keys included.
    pub fn write(&self) -> Result<Vec<u8>> {
        let private = |key: &PrivateKey| -> Result<String> {
            let text = key.to_openssh(LineEnding::LF);
            Ok(text.doing(|| "writing an SSH key")?.to_string())
        };
        let written = Written {
            instance_id: self.instance_id.clone(),
            hostname: self.hostname.clone(),
            client_key: private(&self.client_key)?,
            host_key: private(&self.host_key)?,
        };
        serde_json::to_vec(&written).doing(|| "writing a guest's identity")
    }

    /// Reads what [`Identity::write`] wrote.
    pub fn read(text: &[u8]) -> Result<Self> {
        let doing = || "reading a guest's identity";
        let written: Written = serde_json::from_slice(text).doing(doing)?;
        Ok(Identity {
            client_key: PrivateKey::from_openssh(&written.client_key).doing(doing)?,
            host_key: PrivateKey::from_openssh(&written.host_key).doing(doing)?,
            instance_id: written.instance_id,
            hostname: written.hostname,
        })
    }
}

fn key(comment: &str) -> Result<PrivateKey> {
    let mut key =
        PrivateKey::random(&mut OsRng, Algorithm::Ed25519).doing(|| "making an SSH key")?;
    key.set_comment(comment);
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_being_written() {
        let one = Identity::generate("build-1", "web").unwrap();
        let two = Identity::read(&one.write().unwrap()).unwrap();
        assert_eq!(
            (&two.instance_id, &two.hostname),
            (&one.instance_id, &one.hostname)
        );
        assert_eq!(two.client_key, one.client_key);
        assert_eq!(two.host_key, one.host_key);
        assert!(Identity::read(b"{}").is_err());
    }
}
