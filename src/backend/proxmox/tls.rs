//! Which server is trusted: one whose certificate the system's authorities, or those of the target, have signed, or one with
//! exactly that certificate. There is no way around the check.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Kind, Result};

/// Who says that the server is the right one.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The authorities that this machine trusts.
    System,
    /// These authorities alone. The path is for errors.
    Authorities { pem: Vec<u8>, path: PathBuf },
    /// This certificate alone, whoever signed it, whatever names and dates it has.
    Fingerprint(Fingerprint),
}

/// The SHA-256 of a certificate. Shown and written as Proxmox VE does: `AA:BB:…`; colons may be left out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        Fingerprint(Sha256::digest(certificate).into())
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim().replace(':', "");
        let wrong =
            || "a fingerprint is the SHA-256 of the certificate, 32 pairs of hex digits".to_owned();
        if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Fingerprint(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A server that is not the one that is trusted; said instead of, and with, what the check says.
#[derive(Debug)]
pub struct Untrusted {
    /// What the server shows.
    pub shown: Fingerprint,
    /// Why it is not trusted.
    pub why: String,
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Untrusted {}

/// TLS as this trust wants it.
pub fn config(trust: &Trust) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let failed = |error: rustls::Error| Error::new("preparing TLS").caused_by(&error);
    let check = match trust {
        Trust::Fingerprint(fingerprint) => Check::Pinned(*fingerprint),
        Trust::System => {
            let verifier = rustls_platform_verifier::Verifier::new(provider.clone());
            Check::Signed(Arc::new(verifier.map_err(failed)?))
        }
        Trust::Authorities { pem, path } => {
            let doing = || format!("reading the certificates in {}", path.display());
            let usage = |error: Error| error.kind(Kind::Usage);
            let mut roots = rustls::RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.doing(doing).map_err(usage)?;
                roots.add(certificate).doing(doing).map_err(usage)?;
            }
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Check::Signed(verifier.build().doing(doing).map_err(|error| {
                usage(error).hint("it must hold the authority's certificate in PEM; on a node that is /etc/pve/pve-root-ca.pem")
            })?)
        }
    };
    let verifier = Verifier {
        check,
        provider: provider.clone(),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

#[derive(Debug)]
enum Check {
    Pinned(Fingerprint),
    Signed(Arc<dyn ServerCertVerifier>),
}

/// Adds to the usual check what a user needs to know when it fails. That the server holds the certificate's key is always
/// checked as usual.
#[derive(Debug)]
struct Verifier {
    check: Check,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(certificate);
        let why = match &self.check {
            Check::Pinned(pinned) if *pinned == shown => {
                return Ok(ServerCertVerified::assertion());
            }
            Check::Pinned(_) => "the server's certificate is not the pinned one".to_owned(),
            Check::Signed(verifier) => {
                match verifier.verify_server_cert(certificate, intermediates, name, ocsp, now) {
                    Ok(verified) => return Ok(verified),
                    Err(error) => error.to_string(),
                }
            }
        };
        let untrusted = OtherError(Arc::new(Untrusted { shown, why }));
        Err(CertificateError::Other(untrusted).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_with_and_without_colons() {
        let digits = "0a".repeat(32);
        let fingerprint: Fingerprint = digits.parse().unwrap();
        let shown = fingerprint.to_string();
        assert!(shown.starts_with("0A:0A:"));
        assert_eq!(shown.parse(), Ok(fingerprint));
        for wrong in ["", "0a", &"0g".repeat(32), &"ä".repeat(32)] {
            wrong.parse::<Fingerprint>().unwrap_err();
        }
    }
}
