//! The storages of a node.

use serde::Deserialize;
use serde_json::Value;

use super::call::Call;
use super::error::Failure;
use super::{Proxmox, Target, number};

/// A storage, as the node lists it.
#[derive(Debug, Deserialize)]
pub struct Storage {
    #[serde(rename = "storage")]
    pub name: String,
    /// Content types, with commas between them.
    pub content: String,
    pub(super) enabled: Option<Value>,
    pub(super) active: Option<Value>,
    pub(super) shared: Option<Value>,
    /// Free bytes.
    #[serde(default, deserialize_with = "number::maybe")]
    pub avail: Option<u64>,
    /// Bytes in all.
    #[serde(default, deserialize_with = "number::maybe")]
    pub total: Option<u64>,
}

impl Storage {
    pub fn is_enabled(&self) -> bool {
        is_set(&self.enabled)
    }

    /// Whether what it is on is there.
    pub fn is_active(&self) -> bool {
        is_set(&self.active)
    }

    /// Whether what is in it is seen by all nodes that have it.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some() && is_set(&self.shared)
    }
}

/// A boolean of the API: `1`, `0`, or one of JSON.
fn is_set(value: &Option<Value>) -> bool {
    !matches!(value, Some(Value::Bool(false))) && value.as_ref().and_then(Value::as_u64) != Some(0)
}

impl Target {
    /// The storages that it names, each with the content that it is for.
    pub fn storages(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let roles = [
            (Some(&self.import), "import"),
            (self.images.as_ref(), "images"),
            (self.iso.as_ref(), "iso"),
        ];
        let named = roles.into_iter();
        named.filter_map(|(name, content)| Some((name?.as_str(), content)))
    }
}

impl Proxmox {
    /// The storages of the target's node that we may see.
    pub async fn storages(&self) -> Result<Vec<Storage>, Failure> {
        let call = Call::get(self.node_path(&["storage"]));
        self.client.call(call).await
    }

    /// Whether what is in a storage is seen by all nodes that have it.
    pub async fn is_shared(&self, storage: &str) -> Result<bool, Failure> {
        let all = self.storages().await?;
        let found = all.iter().find(|other| other.name == storage);
        Ok(found.is_some_and(Storage::is_shared))
    }
}
