//! OpenPGP keys and signatures, made for each test.

use pgp::composed::{
    ArmorOptions, DetachedSignature, EncryptionCaps, KeyType, SecretKeyParamsBuilder,
    SignedPublicKey, SignedSecretKey, SubkeyParamsBuilder, SubpacketConfig,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{KeyFlags, Signature, SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize;
use pgp::types::{Duration, KeyDetails, Password, SigningKey, Tag, Timestamp};
use ssh_key::rand_core::OsRng;

/// When all keys of tests were made: 2023-11-14.
pub const BORN: u32 = 1_700_000_000;

pub struct Key(pub SignedSecretKey);

impl Key {
    /// A key that signs by itself.
    pub fn new() -> Self {
        Key::generate(true, false)
    }

    /// A key that leaves signing to a subkey.
    pub fn with_subkey() -> Self {
        Key::generate(false, true)
    }

    fn generate(primary_signs: bool, subkey: bool) -> Self {
        let born = Timestamp::from_secs(BORN);
        let mut params = SecretKeyParamsBuilder::default();
        params
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(primary_signs)
            .can_encrypt(EncryptionCaps::None)
            .created_at(born)
            .primary_user_id("Test <test@example.org>".into());
        if subkey {
            let mut signing = SubkeyParamsBuilder::default();
            signing
                .key_type(KeyType::Ed25519Legacy)
                .can_sign(true)
                .can_encrypt(EncryptionCaps::None)
                .created_at(born);
            params.subkeys(vec![signing.build().unwrap()]);
        }
        Key(params.build().unwrap().generate(OsRng).unwrap())
    }

    pub fn fingerprint(&self) -> String {
        format!("{:X}", self.0.primary_key.fingerprint())
    }

    pub fn public(&self) -> SignedPublicKey {
        self.0.to_public_key()
    }

    pub fn binary(&self) -> Vec<u8> {
        self.public().to_bytes().unwrap()
    }

    /// A certificate as GnuPG keeps it for itself: with a note of its trust after each packet.
    pub fn with_trust_packets(public: &[u8]) -> Vec<u8> {
        const TRUST: &[u8] = b"\xb0\x02\x00\x00";
        let mut kept = Vec::new();
        for packet in pgp::packet::PacketParser::new(public) {
            packet.unwrap().to_writer(&mut kept).unwrap();
            kept.extend_from_slice(TRUST);
        }
        kept
    }

    pub fn armoured(&self) -> Vec<u8> {
        self.public()
            .to_armored_bytes(ArmorOptions::default())
            .unwrap()
    }

    /// The public key with a self-signature that ends the key's life `seconds` after its birth.
    pub fn expiring_after(&self, seconds: u32) -> Vec<u8> {
        let mut flags = KeyFlags::default();
        flags.set_sign(true);
        let mut public = self.public();
        let user = &mut public.details.users[0];
        let config = self.config(
            SignatureType::CertPositive,
            HashAlgorithm::Sha256,
            vec![
                SubpacketData::KeyExpirationTime(Duration::from_secs(seconds)),
                SubpacketData::KeyFlags(flags),
            ],
        );
        let key = &self.0.primary_key;
        let signed = config.sign_certification(
            key,
            &public.primary_key,
            &Password::empty(),
            Tag::UserId,
            &user.id,
        );
        user.signatures = vec![signed.unwrap()];
        public.to_bytes().unwrap()
    }

    /// The public key with its own revocation.
    pub fn revoked(&self) -> Vec<u8> {
        let mut public = self.public();
        let config = self.config(SignatureType::KeyRevocation, HashAlgorithm::Sha256, vec![]);
        let key = &self.0.primary_key;
        let revocation = config.sign_key(key, &Password::empty(), &public.primary_key);
        public
            .details
            .revocation_signatures
            .push(revocation.unwrap());
        public.to_bytes().unwrap()
    }

    /// The public key with its subkey revoked.
    pub fn with_revoked_subkey(&self) -> Vec<u8> {
        let mut public = self.public();
        let config = self.config(
            SignatureType::SubkeyRevocation,
            HashAlgorithm::Sha256,
            vec![],
        );
        let revocation = config.sign_subkey_binding(
            &self.0.primary_key,
            &public.primary_key,
            &Password::empty(),
            &public.public_subkeys[0].key,
        );
        public.public_subkeys[0]
            .signatures
            .push(revocation.unwrap());
        public.to_bytes().unwrap()
    }

    fn config(
        &self,
        typ: SignatureType,
        hash: HashAlgorithm,
        extra: Vec<SubpacketData>,
    ) -> SignatureConfig {
        let mut config = SignatureConfig::v4(typ, self.0.primary_key.algorithm(), hash);
        let mut data = vec![
            SubpacketData::SignatureCreationTime(Timestamp::from_secs(BORN)),
            SubpacketData::IssuerFingerprint(self.0.primary_key.fingerprint()),
        ];
        data.extend(extra);
        let packets = data
            .into_iter()
            .map(|data| Subpacket::regular(data).unwrap());
        config.hashed_subpackets = packets.collect();
        config
    }

    /// A good signature, armoured.
    pub fn sign(&self, data: &[u8]) -> Vec<u8> {
        let signature = self.sign_with(data, HashAlgorithm::Sha512, BORN + 1000, None);
        armoured(signature)
    }

    /// A binary signature of the primary key, or of the subkey if there is one.
    pub fn sign_with(
        &self,
        data: &[u8],
        hash: HashAlgorithm,
        made: u32,
        lifetime: Option<u32>,
    ) -> Signature {
        match self.0.secret_subkeys.first() {
            Some(subkey) => sign(&subkey.key, data, hash, made, lifetime),
            None => sign(&self.0.primary_key, data, hash, made, lifetime),
        }
    }
}

fn sign(
    key: &impl SigningKey,
    data: &[u8],
    hash: HashAlgorithm,
    made: u32,
    lifetime: Option<u32>,
) -> Signature {
    let mut hashed = vec![
        SubpacketData::SignatureCreationTime(Timestamp::from_secs(made)),
        SubpacketData::IssuerFingerprint(key.fingerprint()),
    ];
    let lifetime = lifetime.map(Duration::from_secs);
    hashed.extend(lifetime.map(SubpacketData::SignatureExpirationTime));
    let hashed = hashed
        .into_iter()
        .map(|data| Subpacket::regular(data).unwrap());
    let subpackets = SubpacketConfig::UserDefined {
        hashed: hashed.collect(),
        unhashed: vec![],
    };
    let signed = DetachedSignature::sign_binary_data_with_subpackets(
        OsRng,
        key,
        &Password::empty(),
        hash,
        data,
        subpackets,
    );
    signed.unwrap().signature
}

pub fn armoured(signature: Signature) -> Vec<u8> {
    let signature = DetachedSignature::new(signature);
    signature.to_armored_bytes(ArmorOptions::default()).unwrap()
}

pub fn binary(signature: Signature) -> Vec<u8> {
    DetachedSignature::new(signature).to_bytes().unwrap()
}
