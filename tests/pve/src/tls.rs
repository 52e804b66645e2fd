//! A certificate that is made at the start.

use std::sync::Arc;

use base64::Engine;
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest, Sha256};

/// What the server shows, and what clients compare it with.
pub struct Identity {
    pub config: Arc<ServerConfig>,
    pub pem: String,
    pub fingerprint: String,
}

/// A new identity for loopback.
pub fn identity() -> Identity {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("these names are valid");
    let der = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let pem = pem(&der);
    let digest = Sha256::digest(&der);
    let bytes: Vec<_> = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
        .with_no_client_auth()
        .with_single_cert(vec![der], key.into())
        .expect("the key is that of the certificate");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Identity {
        config: Arc::new(config),
        pem,
        fingerprint: bytes.join(":"),
    }
}

/// A certificate as text (RFC 7468).
fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    let body = lines.join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
}
