//! Detached OpenPGP signatures, checked against given certificates only.
//!
//! The `pgp` crate does the cryptography and leaves policy to its caller, so the policy is here: which hashes and keys
//! are good enough, and that nothing has expired or was revoked.

use std::io::Read;
use std::time::Duration;

use pgp::armor::Dearmor;
use pgp::composed::{Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{
    Packet, PacketParser, Signature, SignatureType, SignatureVersion, SubpacketData,
};
use pgp::ser::Serialize as _;
use pgp::types::{KeyDetails, PublicParams, Tag};

/// How far ahead of this machine's clock a signer's may be.
const CLOCK_SKEW: Duration = Duration::from_secs(10 * 60);

/// How many signatures of one file are looked at.
const MAX_SIGNATURES: usize = 16;

/// Checks that one of the signatures in `signature` (armoured or binary) over `data` was made by a certificate in
/// `keyring` (armoured or binary) that is good at `now`, in seconds since 1970. With `only`, no certificate but the
/// one of this fingerprint (upper-case hex) counts.
///
/// Returns the fingerprint of the certificate's primary key in upper-case hex, else the reasons in one line.
pub(super) fn verify(
    data: &[u8],
    signature: &[u8],
    keyring: &[u8],
    only: Option<&str>,
    now: u64,
) -> Result<String, String> {
    let certificates = certificates(keyring, only)?;
    let (signatures, _) = DetachedSignature::from_reader_many(signature)
        .map_err(|error| format!("the signature cannot be read: {error}"))?;
    let mut reasons = Vec::new();
    for signature in signatures.take(MAX_SIGNATURES) {
        let verdict = signature
            .map_err(|error| format!("the signature cannot be read: {error}"))
            .and_then(|signature| check(&signature.signature, data, &certificates, now));
        match verdict {
            Ok(fingerprint) => return Ok(fingerprint),
            Err(reason) => reasons.push(reason),
        }
    }
    if reasons.is_empty() {
        reasons.push("the file holds no signature".into());
    }
    Err(reasons.join("; "))
}

fn certificates(keyring: &[u8], only: Option<&str>) -> Result<Vec<SignedPublicKey>, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("the key cannot be read: {error}");
    let mut dearmoured = Vec::new();
    let packets = match keyring.first() {
        // All binary packets begin with this bit, and no text does.
        Some(first) if first & 0x80 != 0 => keyring,
        _ => {
            let mut armoured = Dearmor::new(keyring);
            let read = armoured.read_to_end(&mut dearmoured);
            read.map_err(|error| unreadable(&error))?;
            &dearmoured
        }
    };
    // GnuPG's own keyrings, such as Ubuntu's, have its private notes between the packets. The parser of certificates
    // would take each for the end of a certificate, and overlook what follows: self-signatures, and revocations.
    let noise = |packet: &Result<Packet, _>| {
        matches!(
            packet,
            Ok(Packet::Trust(_) | Packet::Marker(_) | Packet::Padding(_))
                | Err(pgp::errors::Error::Unsupported { .. })
        )
    };
    let packets = PacketParser::new(packets).filter(|packet| !noise(packet));
    let all = SignedPublicKey::from_packets(packets.peekable());
    let all = all
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable(&error))?;
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|key| only.is_none_or(|only| fingerprint(&key.primary_key) == only))
        .collect();
    match only {
        _ if !chosen.is_empty() => Ok(chosen),
        Some(only) => Err(format!("the keyring does not have the key {only}")),
        None => Err("the key file holds no public key".into()),
    }
}

fn check(
    signature: &Signature,
    data: &[u8],
    certificates: &[SignedPublicKey],
    now: u64,
) -> Result<String, String> {
    let made = well_formed(signature, now)?;
    for certificate in certificates {
        let primary = &certificate.primary_key;
        let by_primary = signature.verify(primary, data).is_ok();
        let by_subkey = || {
            let mut subkeys = certificate.public_subkeys.iter();
            subkeys.find(|subkey| signature.verify(&subkey.key, data).is_ok())
        };
        let signer = match by_primary {
            true => None,
            false => match by_subkey() {
                Some(subkey) => Some(subkey),
                None => continue,
            },
        };
        good_primary(certificate, signer.is_none(), made, now)?;
        if let Some(subkey) = signer {
            good_subkey(certificate, subkey, made, now)?;
        }
        return Ok(fingerprint(primary));
    }
    let issuer = signature
        .issuer_fingerprint()
        .first()
        .map(|id| format!("{id:X}"));
    let issuer = issuer.or_else(|| {
        signature
            .issuer_key_id()
            .first()
            .map(|id| id.to_string().to_uppercase())
    });
    let trusted: Vec<_> = certificates
        .iter()
        .map(|key| fingerprint(&key.primary_key))
        .collect();
    Err(format!(
        "the signature, which names the key {}, was not made over this list by the trusted key {}",
        issuer.as_deref().unwrap_or("(none)"),
        trusted.join(" or "),
    ))
}

/// Checks what a signature over data says about itself; returns when it was made.
fn well_formed(signature: &Signature, now: u64) -> Result<u64, String> {
    let of_data = matches!(
        signature.typ(),
        Some(SignatureType::Binary | SignatureType::Text)
    );
    let modern = matches!(
        signature.version(),
        SignatureVersion::V4 | SignatureVersion::V6
    );
    if !of_data || !modern {
        return Err("it is not a signature over a file in a current format".into());
    }
    let hash = signature.hash_alg();
    let strong = matches!(
        hash,
        Some(
            HashAlgorithm::Sha256
                | HashAlgorithm::Sha384
                | HashAlgorithm::Sha512
                | HashAlgorithm::Sha3_256
                | HashAlgorithm::Sha3_512
        )
    );
    if !strong {
        let hash = hash.map_or("unknown".into(), |hash| hash.to_string());
        return Err(format!("the signature uses the weak hash {hash}"));
    }
    let ununderstood = signature.config().is_none_or(|config| {
        config.hashed_subpackets().any(|packet| {
            let known = !matches!(
                packet.data,
                SubpacketData::Other(..)
                    | SubpacketData::Experimental(..)
                    | SubpacketData::Notation(_)
            );
            packet.is_critical && !known
        })
    });
    if ununderstood {
        return Err("the signature has a critical part that is not understood".into());
    }
    let made = made(signature)?;
    if made > now + CLOCK_SKEW.as_secs() {
        return Err("the signature is from the future".into());
    }
    let lifetime = signature
        .signature_expiration_time()
        .map_or(0, |time| time.as_secs());
    if expired(made, lifetime, now) {
        return Err("the signature has expired".into());
    }
    Ok(made)
}

/// Checks the primary key: self-signed, not revoked, not expired, older than the signature; and allowed to sign data
/// where it `signs` itself.
fn good_primary(
    certificate: &SignedPublicKey,
    signs: bool,
    made_at: u64,
    now: u64,
) -> Result<(), String> {
    let key = &certificate.primary_key;
    let name = format!("the key {}", fingerprint(key));
    good_algorithm(key.public_params(), &name)?;
    let details = &certificate.details;
    if details
        .revocation_signatures
        .iter()
        .any(|revocation| revocation.verify_key(key).is_ok())
    {
        return Err(format!("{name} was revoked"));
    }
    let direct = details
        .direct_signatures
        .iter()
        .filter(|sig| sig.verify_key(key).is_ok());
    let of_users = details.users.iter().filter_map(|user| {
        let own = user
            .signatures
            .iter()
            .filter(|sig| sig.verify_certification(key, Tag::UserId, &user.id).is_ok());
        newest(own).filter(|sig| sig.typ() != Some(SignatureType::CertRevocation))
    });
    let newest = newest(direct.chain(of_users))
        .ok_or_else(|| format!("{name} has no acceptable self-signature"))?;
    let created = u64::from(key.created_at().as_secs());
    in_force(newest, created, made_at, now, &name)?;
    if signs && has_flags(newest) && !newest.key_flags().sign() {
        return Err(format!("{name} is not meant for signing files"));
    }
    Ok(())
}

/// Checks a signing subkey: bound to the primary key by both, not revoked, not expired, meant for signing.
fn good_subkey(
    certificate: &SignedPublicKey,
    subkey: &SignedPublicSubKey,
    made_at: u64,
    now: u64,
) -> Result<(), String> {
    let (primary, key) = (&certificate.primary_key, &subkey.key);
    let name = format!("the subkey {}", fingerprint(key));
    good_algorithm(key.public_params(), &name)?;
    let is = |typ| move |sig: &&Signature| sig.typ() == Some(typ);
    let own = || {
        let all = subkey.signatures.iter();
        all.filter(|sig| sig.verify_subkey_binding(primary, key).is_ok())
    };
    if own().any(|sig| is(SignatureType::SubkeyRevocation)(&sig)) {
        return Err(format!("{name} was revoked"));
    }
    let binding = newest(own().filter(is(SignatureType::SubkeyBinding)))
        .ok_or_else(|| format!("{name} is not bound to its certificate"))?;
    let created = u64::from(key.created_at().as_secs());
    in_force(binding, created, made_at, now, &name)?;
    // Without the subkey's own consent anybody could adopt a stranger's signing key into their certificate.
    let consents = binding.embedded_signature().is_some_and(|consent| {
        tolerable_hash(consent) && consent.verify_primary_key_binding(key, primary).is_ok()
    });
    if !binding.key_flags().sign() || !consents {
        return Err(format!("{name} is not meant for signing files"));
    }
    Ok(())
}

/// Checks a self-signature's times and those of the key that it is about.
fn in_force(
    own: &Signature,
    created: u64,
    made_at: u64,
    now: u64,
    name: &str,
) -> Result<(), String> {
    let lifetime = own.key_expiration_time().map_or(0, |time| time.as_secs());
    let of_signature = own
        .signature_expiration_time()
        .map_or(0, |time| time.as_secs());
    if expired(created, lifetime, now) || expired(made(own)?, of_signature, now) {
        return Err(format!("{name} has expired"));
    }
    if created > made_at {
        return Err(format!("the signature is older than {name}"));
    }
    Ok(())
}

/// The newest of some self-signatures that have a tolerable hash.
fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures
        .filter(|signature| tolerable_hash(signature))
        .max_by_key(|signature| made(signature).unwrap_or(0))
}

/// A key's own signatures may still use SHA-1: forging one takes a second preimage, which nobody can find, and Ubuntu's
/// key of 2009 has no other. Over data, where a collision is enough, SHA-1 is refused.
fn tolerable_hash(signature: &Signature) -> bool {
    !matches!(
        signature.hash_alg(),
        None | Some(HashAlgorithm::None | HashAlgorithm::Md5 | HashAlgorithm::Ripemd160)
    )
}

fn good_algorithm(params: &PublicParams, name: &str) -> Result<(), String> {
    /// Below this many bits, RSA is within reach of attackers (NIST SP 800-131A).
    const MIN_RSA_BITS: u16 = 2048;
    let good = match params {
        // The modulus comes first, as a number of bits and as many bits.
        PublicParams::RSA(rsa) => rsa.to_bytes().is_ok_and(|bytes| {
            let bits = bytes
                .first_chunk()
                .map_or(0, |bits| u16::from_be_bytes(*bits));
            bits >= MIN_RSA_BITS
        }),
        PublicParams::DSA(_) | PublicParams::Elgamal(_) | PublicParams::Unknown { .. } => false,
        _ => true,
    };
    match good {
        true => Ok(()),
        false => Err(format!("{name} is of a kind that is too weak")),
    }
}

fn has_flags(signature: &Signature) -> bool {
    signature.config().is_some_and(|config| {
        let mut packets = config.hashed_subpackets();
        packets.any(|packet| matches!(packet.data, SubpacketData::KeyFlags(_)))
    })
}

fn made(signature: &Signature) -> Result<u64, String> {
    let made = signature
        .created()
        .ok_or("the signature does not say when it was made")?;
    Ok(u64::from(made.as_secs()))
}

/// A lifetime of 0 means for ever.
fn expired(from: u64, lifetime: u32, now: u64) -> bool {
    lifetime != 0 && from + u64::from(lifetime) <= now
}

fn fingerprint(key: &impl KeyDetails) -> String {
    format!("{:X}", key.fingerprint())
}

/// Whether a keyring has the key with this fingerprint (upper-case hex).
pub(super) fn holds(keyring: &[u8], fingerprint: &str) -> bool {
    certificates(keyring, Some(fingerprint)).is_ok()
}
