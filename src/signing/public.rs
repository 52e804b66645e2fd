//! Public keys: who can have signed.

use ring::signature::{ED25519, UnparsedPublicKey};
use ssh_key::HashAlg;
use ssh_key::public::{Ed25519PublicKey, KeyData};

use crate::error::{Context, Error, Kind, Result};

/// The DER bytes before an ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI_HEADER: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// An ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    bytes: [u8; 32],
    comment: String,
}

impl PublicKey {
    /// A key of 32 bytes.
    pub fn new(bytes: [u8; 32], comment: &str) -> Self {
        PublicKey {
            bytes,
            comment: comment.to_owned(),
        }
    }

    /// Reads a line `ssh-ed25519 AAAA… comment`, or a PEM `PUBLIC KEY`. `shown` names its place in errors.
    pub fn read(text: &str, shown: &str) -> Result<Self> {
        let text = text.trim();
        match text.starts_with("-----BEGIN PUBLIC KEY-----") {
            true => Self::from_pem(text, shown),
            false => {
                let doing = || format!("reading the public key {shown}");
                let key = ssh_key::PublicKey::from_openssh(text).doing(doing);
                Self::of(&key.map_err(|error| error.kind(Kind::Usage))?, shown)
            }
        }
    }

    /// An OpenSSH key, which must be ed25519.
    pub fn of(key: &ssh_key::PublicKey, shown: &str) -> Result<Self> {
        match key.key_data() {
            KeyData::Ed25519(data) => Ok(PublicKey::new(data.0, key.comment())),
            other => Err(Error::new(format!("using the key {shown}"))
                .kind(Kind::Usage)
                .cause(format!("it is of the kind {}", other.algorithm()))
                .hint("only ed25519 is supported: ssh-keygen -t ed25519 -f FILE")),
        }
    }

    fn from_pem(text: &str, shown: &str) -> Result<Self> {
        use base64::Engine as _;
        let body = text.lines().filter(|line| !line.starts_with("-----"));
        let body = body.map(str::trim).collect::<String>();
        let bytes = base64::engine::general_purpose::STANDARD.decode(body);
        let bytes = bytes.ok().and_then(|der| {
            let key = der.strip_prefix(&SPKI_HEADER)?;
            <[u8; 32]>::try_from(key).ok()
        });
        let bytes = bytes.ok_or_else(|| {
            Error::new(format!("reading the public key {shown}"))
                .kind(Kind::Usage)
                .cause("it is no ed25519 key")
        })?;
        Ok(PublicKey::new(bytes, ""))
    }

    /// OpenSSH's fingerprint, `SHA256:…`: the key's id in everything that is signed.
    pub fn fingerprint(&self) -> String {
        self.data().fingerprint(HashAlg::Sha256).to_string()
    }

    /// A line as in `authorized_keys`, without its end.
    pub fn to_openssh(&self) -> Result<String> {
        let key = ssh_key::PublicKey::new(self.data(), self.comment.as_str());
        key.to_openssh().doing(|| "writing a public key")
    }

    /// SubjectPublicKeyInfo in PEM, as OpenSSL has it.
    pub fn to_pem(&self) -> String {
        use base64::Engine as _;
        let der = [SPKI_HEADER.as_slice(), &self.bytes].concat();
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    /// The key as OpenSSH's library has it.
    pub fn data(&self) -> KeyData {
        KeyData::Ed25519(Ed25519PublicKey(self.bytes))
    }

    /// What the owner said about it.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// Whether `signature` is this key's over `message`.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.bytes);
        key.verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key made by `ssh-keygen -t ed25519`, and what `ssh-keygen -lf` says of it.
    const LINE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f someone";

    #[test]
    fn a_key_is_the_same_in_either_format() {
        let key = PublicKey::read(LINE, "x").unwrap();
        assert_eq!(key.to_openssh().unwrap(), LINE);
        let again = PublicKey::read(&key.to_pem(), "x").unwrap();
        assert_eq!(again.fingerprint(), key.fingerprint());
        assert!(key.fingerprint().starts_with("SHA256:"));
    }

    #[test]
    fn other_kinds_of_key_are_refused() {
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc=";
        for text in [
            ecdsa,
            "ssh-ed25519 AAAA",
            "",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            let error = PublicKey::read(text, "x").unwrap_err();
            assert_eq!(error.get_kind(), Kind::Usage, "{text}");
        }
    }
}
