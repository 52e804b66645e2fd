//! Generalisation of the guest, and the audit of the sealed disk.
//!
//! [`script`] runs in the guest as the last thing of a build; [`audit`] then reads the disk that came out, offline and
//! in process, and believes nothing that the script said. Both are made from one table of what must be gone.

mod audit;
mod item;
mod rules;
mod script;

use std::collections::BTreeSet;

pub use audit::{Finding, Guest, Report, Subject, Unread, audit, guest};
pub use item::Item;
pub use script::script;

/// What sealing shall do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the build's own user, which is removed.
    pub builder: String,
    /// Its user id: no file may belong to it afterwards.
    pub builder_uid: u32,
    /// The base64 body of the public key that the build logs in with: removed from every account that has it.
    pub client_key: String,
    /// What the recipe wants to keep.
    pub keep: BTreeSet<Item>,
}

/// What else identifies one build: none of it may be in the sealed image.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The base64 body of the guest's public host key during the build.
    pub host_key: String,
    /// The instance id of the build's seed.
    pub instance_id: String,
}
