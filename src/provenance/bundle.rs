//! Sigstore's bundle (v0.3) of an envelope whose key is known by other means.

use serde::{Deserialize, Serialize};

use super::dsse::Envelope;
use crate::error::Result;

/// What the format and its version are called.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// An envelope, and what is needed to verify it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    media_type: String,
    verification_material: Material,
    pub dsse_envelope: Envelope,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    public_key: Hint,
}

/// Which key the verifier should look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hint {
    hint: String,
}

impl Bundle {
    /// The bundle of an envelope.
    pub fn new(envelope: Envelope) -> Self {
        let keyid = envelope.signatures.first().map(|first| first.keyid.clone());
        Bundle {
            media_type: MEDIA_TYPE.into(),
            verification_material: Material {
                public_key: Hint {
                    hint: keyid.unwrap_or_default(),
                },
            },
            dsse_envelope: envelope,
        }
    }

    /// Reads a bundle.
    pub fn read(text: &[u8]) -> Result<Self> {
        super::from_json(text, "reading the sigstore bundle")
    }
}
