//! DSSE: a signature over bytes and what they are (github.com/secure-systems-lab/dsse, version 1.0.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::signing::PublicKey;

/// What the payload of every envelope here is.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// A payload with signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// In base64.
    payload: String,
    pub payload_type: String,
    pub signatures: Vec<Signature>,
}

/// One signature over the [`pae`] of the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The fingerprint of the key that is said to have signed.
    #[serde(default)]
    pub keyid: String,
    /// In base64.
    sig: String,
}

/// The bytes that are signed: DSSE's pre-authentication encoding.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    );
    [head.as_bytes(), payload].concat()
}

impl Envelope {
    /// An envelope around `payload` with a signature by `key`.
    pub fn new(payload: &[u8], key: &PublicKey, signature: &[u8]) -> Self {
        Envelope {
            payload: STANDARD.encode(payload),
            payload_type: PAYLOAD_TYPE.into(),
            signatures: vec![Signature {
                keyid: key.fingerprint(),
                sig: STANDARD.encode(signature),
            }],
        }
    }

    /// Reads an envelope.
    pub fn read(text: &[u8]) -> Result<Self> {
        super::from_json(text, "reading the signed envelope")
    }

    /// The payload's bytes.
    pub fn payload(&self) -> Result<Vec<u8>> {
        STANDARD
            .decode(&self.payload)
            .map_err(|error| unreadable(&error.to_string()))
    }

    /// The bytes of the signature that is this key's.
    pub fn signature_of(&self, key: &PublicKey) -> Result<Vec<u8>> {
        let signed = pae(&self.payload_type, &self.payload()?);
        let mut signatures = self.signatures.iter();
        let found = signatures.find_map(|signature| {
            let bytes = STANDARD.decode(&signature.sig).ok()?;
            key.has_signed(&signed, &bytes).then_some(bytes)
        });
        found.ok_or_else(|| unreadable("the key has not signed it"))
    }

    /// The first of these keys that has signed the payload. What an envelope says about its key ids decides nothing.
    pub fn signer<'k>(&self, keys: &'k [PublicKey]) -> Result<Option<&'k PublicKey>> {
        let signed = pae(&self.payload_type, &self.payload()?);
        let signatures: Vec<Vec<u8>> = self
            .signatures
            .iter()
            .filter_map(|signature| STANDARD.decode(&signature.sig).ok())
            .collect();
        let has_signed = |key: &&PublicKey| {
            let mut signatures = signatures.iter();
            signatures.any(|signature| key.has_signed(&signed, signature))
        };
        Ok(keys.iter().find(has_signed))
    }
}

fn unreadable(cause: &str) -> Error {
    Error::new("reading the signed envelope")
        .kind(Kind::Verification)
        .cause(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_bytes_are_those_of_the_standards_example() {
        let encoded = pae("http://example.com/HelloWorld", b"hello world");
        assert_eq!(
            encoded,
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }
}
