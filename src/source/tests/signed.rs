use pgp::crypto::hash::HashAlgorithm;
use pgp::ser::Serialize;

use super::keys::{BORN, Key, armoured, binary};
use crate::source::signature::verify;

const LIST: &[u8] = b"0000  disk.img\n";

/// A day after all keys were made.
const NOW: u64 = BORN as u64 + 86_400;

fn check(signature: &[u8], keyring: &[u8]) -> Result<String, String> {
    verify(LIST, signature, keyring, None, NOW)
}

fn reason(signature: &[u8], keyring: &[u8]) -> String {
    check(signature, keyring).unwrap_err()
}

#[test]
fn a_good_signature_gives_the_fingerprint_of_its_key() {
    let key = Key::new();
    let signature = key.sign_with(LIST, HashAlgorithm::Sha256, BORN + 5, None);
    for signature in [armoured(signature.clone()), binary(signature)] {
        for keyring in [key.armoured(), key.binary()] {
            assert_eq!(check(&signature, &keyring), Ok(key.fingerprint()));
        }
    }
}

#[test]
fn a_signing_subkey_signs_for_its_certificate() {
    let key = Key::with_subkey();
    assert_eq!(check(&key.sign(LIST), &key.binary()), Ok(key.fingerprint()));
}

#[test]
fn keyrings_that_gnupg_keeps_for_itself_are_read_without_overlooking_revocations() {
    let key = Key::with_subkey();
    let signature = key.sign(LIST);
    let keyring = Key::with_trust_packets(&key.binary());
    assert_eq!(check(&signature, &keyring), Ok(key.fingerprint()));
    for revoked in [key.revoked(), key.with_revoked_subkey()] {
        let error = reason(&signature, &Key::with_trust_packets(&revoked));
        assert!(error.contains("was revoked"), "{error}");
    }
}

#[test]
fn a_changed_list_is_refused() {
    let key = Key::new();
    let error = verify(
        b"0000  Disk.img\n",
        &key.sign(LIST),
        &key.binary(),
        None,
        NOW,
    )
    .unwrap_err();
    assert!(error.contains("was not made over this list"), "{error}");
}

#[test]
fn another_key_is_refused_and_both_are_named() {
    let (trusted, other) = (Key::new(), Key::new());
    let error = reason(&other.sign(LIST), &trusted.binary());
    assert!(error.contains(&trusted.fingerprint()), "{error}");
    assert!(error.contains(&other.fingerprint()), "{error}");
}

#[test]
fn of_a_keyring_only_the_chosen_key_counts() {
    let (trusted, other) = (Key::new(), Key::new());
    let keyring = [trusted.binary(), other.binary()].concat();
    let only = trusted.fingerprint();
    let verify = |key: &Key| verify(LIST, &key.sign(LIST), &keyring, Some(&only), NOW);
    assert_eq!(verify(&trusted), Ok(only.clone()));
    verify(&other).unwrap_err();
}

#[test]
fn one_good_signature_among_strangers_is_enough() {
    let (trusted, other) = (Key::new(), Key::new());
    let sign = |key: &Key| binary(key.sign_with(LIST, HashAlgorithm::Sha512, BORN + 1, None));
    let both = [sign(&other), sign(&trusted)].concat();
    assert_eq!(check(&both, &trusted.binary()), Ok(trusted.fingerprint()));
}

#[test]
fn an_expired_key_is_refused() {
    let key = Key::new();
    let signature = key.sign(LIST);
    check(&signature, &key.expiring_after(86_401)).unwrap();
    let error = reason(&signature, &key.expiring_after(86_400));
    assert!(error.contains("has expired"), "{error}");
}

#[test]
fn a_revoked_key_or_subkey_is_refused() {
    let key = Key::new();
    let error = reason(&key.sign(LIST), &key.revoked());
    assert!(error.contains("was revoked"), "{error}");
    let key = Key::with_subkey();
    let error = reason(&key.sign(LIST), &key.with_revoked_subkey());
    assert!(error.contains("was revoked"), "{error}");
}

#[test]
fn a_subkey_that_its_certificate_does_not_bind_is_refused() {
    let (victim, thief) = (Key::with_subkey(), Key::new());
    let mut public = thief.public();
    public.public_subkeys = victim.public().public_subkeys;
    let error = reason(&victim.sign(LIST), &public.to_bytes().unwrap());
    assert!(error.contains("not bound"), "{error}");
}

#[test]
fn a_key_that_is_not_meant_for_signing_is_refused() {
    let mut key = Key::with_subkey();
    key.0.secret_subkeys.clear();
    let error = reason(&key.sign(LIST), &key.binary());
    assert!(error.contains("not meant for signing"), "{error}");
}

#[test]
fn times_of_signatures_are_checked() {
    let key = Key::new();
    let sign = |made, lifetime| binary(key.sign_with(LIST, HashAlgorithm::Sha256, made, lifetime));
    let reason = |signature: Vec<u8>| reason(&signature, &key.binary());
    check(&sign(BORN + 10, Some(86_400)), &key.binary()).unwrap();
    assert!(reason(sign(BORN + 10, Some(86_390))).contains("signature has expired"));
    assert!(reason(sign(BORN + 90_000, None)).contains("from the future"));
    assert!(reason(sign(BORN - 10, None)).contains("older than"));
}

/// `pgp` makes no such signatures, so one is made to say that it is of another hash; GnuPG's below is real.
#[test]
fn weak_hashes_are_refused_before_anything_is_computed_with_them() {
    /// Where a signature packet of a one-byte length says its hash, and the numbers of MD5, SHA-1 and RIPEMD-160.
    const AT: usize = 5;
    let key = Key::new();
    let good = binary(key.sign_with(LIST, HashAlgorithm::Sha256, BORN + 5, None));
    assert_eq!(good[AT], 8, "sha256");
    for hash in [1, 2, 3] {
        let mut weak = good.clone();
        weak[AT] = hash;
        let error = reason(&weak, &key.binary());
        assert!(error.contains("weak hash"), "{error}");
    }
}

#[test]
fn garbage_is_an_error_and_nothing_worse() {
    let key = Key::new();
    let good = key.sign(LIST);
    for garbage in [
        &b""[..],
        b"\n",
        b"<html>",
        b"\x89",
        &good[..good.len() / 2],
        &[0xff; 500],
    ] {
        check(garbage, &key.binary()).unwrap_err();
        check(&good, garbage).unwrap_err();
    }
}

/// Signed by GnuPG where it is there: another implementation's idea of the format.
#[test]
fn signatures_of_gnupg_are_understood() {
    let home = tempfile::tempdir().unwrap();
    let gpg = |args: &[&str]| {
        let mut command = std::process::Command::new("gpg");
        command
            .arg("--homedir")
            .arg(home.path())
            .args(["--batch", "--quiet"])
            .args(args);
        command.current_dir(home.path()).output()
    };
    let make = [
        "--passphrase",
        "",
        "--quick-gen-key",
        "a@example.org",
        "rsa2048",
        "sign",
        "never",
    ];
    match gpg(&make) {
        Err(_) => return eprintln!("skipped: there is no gpg"),
        Ok(made) => assert!(made.status.success(), "{made:?}"),
    }
    std::fs::write(home.path().join("list"), LIST).unwrap();
    gpg(&["--passphrase", "", "--armor", "--detach-sign", "list"]).unwrap();
    let keyring = gpg(&["--export", "a@example.org"]).unwrap().stdout;
    let signature = std::fs::read(home.path().join("list.asc")).unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let fingerprint = verify(LIST, &signature, &keyring, None, now.as_secs()).unwrap();
    assert_eq!(fingerprint.len(), 40);

    let sha1 = "--digest-algo=SHA1";
    gpg(&[
        "--yes",
        "--passphrase",
        "",
        sha1,
        "--armor",
        "--detach-sign",
        "list",
    ])
    .unwrap();
    let signature = std::fs::read(home.path().join("list.asc")).unwrap();
    let error = verify(LIST, &signature, &keyring, None, now.as_secs()).unwrap_err();
    assert!(error.contains("weak hash"), "{error}");

    let _ = std::process::Command::new("gpgconf")
        .arg("--homedir")
        .arg(home.path())
        .args(["--kill", "all"])
        .status();
}
