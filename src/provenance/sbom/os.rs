//! The operating system: os-release(5).

use super::{LARGEST_MANIFEST, Os, Tree, clean};
use crate::error::Result;

pub(super) fn read(files: &dyn Tree) -> Result<Option<Os>> {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(bytes) = files.read(path, LARGEST_MANIFEST)? {
            let text = String::from_utf8_lossy(&bytes);
            let field = |name: &str| {
                let mut fields = text.lines().filter_map(|line| line.split_once('='));
                let value = fields.find(|(key, _)| *key == name);
                let value = value.map(|(_, value)| value.trim().trim_matches(['"', '\'']));
                value.and_then(clean).unwrap_or_default()
            };
            return Ok(Some(Os {
                id: field("ID"),
                version: field("VERSION_ID"),
                name: field("PRETTY_NAME"),
            }));
        }
    }
    Ok(None)
}
