//! What the handler of a call gets.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::fault::What;
use crate::params::Params;
use crate::reply::Failure;

/// One call, with its parameters verified.
pub struct Context {
    pub cluster: Arc<Cluster>,
    /// User id or token id.
    pub who: String,
    pub params: Params,
    pub fault: Option<What>,
    /// The file that came with an upload. Whoever takes it moves or removes it.
    pub upload: Option<PathBuf>,
}

impl Context {
    pub fn node(&self) -> &str {
        self.params.text("node")
    }

    /// Whether the caller has one of these privileges at a path.
    pub fn may(&self, path: &str, any: &[&str]) -> bool {
        let world = self.cluster.world();
        let mut has = world.access.privileges(&self.who, path);
        let vmid = path.strip_prefix("/vms/").and_then(|id| id.parse().ok());
        for (name, members) in &world.pools {
            if vmid.is_some_and(|vmid| members.contains(&vmid)) {
                has.extend(world.access.privileges(&self.who, &format!("/pool/{name}")));
            }
        }
        any.iter().any(|&privilege| has.contains(privilege))
    }

    /// Fails unless the caller has one of these privileges at a path.
    pub fn check(&self, path: &str, any: &[&str]) -> Result<(), Failure> {
        match self.may(path, any) {
            true => Ok(()),
            false => Err(Failure::forbidden(path, &any.join("|"))),
        }
    }

    /// The same for a VM.
    pub fn check_vm(&self, vmid: u32, any: &[&str]) -> Result<(), Failure> {
        self.check(&format!("/vms/{vmid}"), any)
    }
}
