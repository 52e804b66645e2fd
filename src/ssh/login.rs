//! Where and how to log in, for us and for people.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::proc::quote;

/// Where and how to log in.
#[derive(Clone)]
pub struct Login {
    pub address: SocketAddr,
    pub user: String,
    /// The client's private key in OpenSSH's format.
    pub private_key: ssh_key::PrivateKey,
    /// The only host key that is accepted.
    pub host_key: ssh_key::PublicKey,
}

impl Login {
    /// The files that [`Login::write`] makes in a folder: the key, and the guest's host key.
    pub fn files(&self, folder: &Path) -> [PathBuf; 2] {
        ["ssh-key", "known_hosts"].map(|name| folder.join(name))
    }

    /// Writes what somebody needs to log in, and returns the command.
    pub fn write(&self, folder: &Path) -> Result<String> {
        let [key, hosts] = self.files(folder);
        let doing = || "writing the machine's SSH key";
        let private = self.private_key.to_openssh(ssh_key::LineEnding::LF);
        let host = self.host_key.to_openssh().doing(doing)?;
        // One of an earlier login, which ended without anybody to remove it.
        match std::fs::remove_file(&key) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(doing);
            }
            _ => {}
        }
        let mut file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&key)
            .doing(doing)?;
        file.write_all(private.doing(doing)?.as_bytes())
            .doing(doing)?;
        let (ip, port) = (self.address.ip(), self.address.port());
        std::fs::write(&hosts, format!("[{ip}]:{port} {host}\n")).doing(doing)?;
        let quoted = |path: &Path| quote(&path.to_string_lossy());
        Ok(format!(
            "ssh -i {} -o IdentitiesOnly=yes -o UserKnownHostsFile={} -p {port} {}@{ip}",
            quoted(&key),
            quoted(&hosts),
            self.user,
        ))
    }
}
