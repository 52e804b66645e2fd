use super::keys::Key;
use super::server::Act;
use super::*;
use crate::error::Kind;

#[tokio::test]
async fn a_wrong_digest_is_refused() {
    let world = World::new();
    let url = world.server.put("disk.img", disk());
    let error = world.refuse(&pinned(&url, b"something else")).await;
    assert_eq!(error.get_kind(), Kind::Verification);
    assert!(error.to_string().contains(&sha256(&disk())), "{error}");
    assert!(
        error.to_string().contains(&sha256(b"something else")),
        "{error}"
    );
    assert_eq!(
        world.server.gets("disk.img").len(),
        1,
        "a whole wrong file is not asked for again"
    );
}

#[tokio::test]
async fn a_mirror_with_the_wrong_file_is_passed_over() {
    let world = World::new();
    let bad = world.server.put("bad/disk.img", disk_of(1024, 3));
    let good = world.server.put("good/disk.img", disk());
    let verify = Verify::Sha256(sha256(&disk()));
    let spec = Spec::Url {
        url: bad,
        mirrors: vec![good.clone()],
        verify,
    };
    assert_eq!(world.get(&spec).await.unwrap().origin, good);
}

#[tokio::test]
async fn a_truncated_body_is_never_taken_for_the_file() {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", &disk()[..1000]), &disk());
    let error = world.refuse(&spec).await;
    assert_eq!(error.get_kind(), Kind::Verification);
}

#[tokio::test]
async fn an_image_is_verified_by_a_list_of_sha256_or_sha512() {
    let world = World::new();
    let url = world.server.put("disk.img", disk());
    let list = world.server.put("SHA256SUMS", sums("disk.img", &disk()));
    let image = world.get(&listed(&url, &list)).await.unwrap();
    assert_eq!(image.verified, Verified::Checksums { list });

    let world = World::new();
    let url = world.server.put("disk.img", disk());
    let list = world
        .server
        .put("SHA512SUMS", format!("{}  disk.img\n", sha512(&disk())));
    let image = world.get(&listed(&url, &list)).await.unwrap();
    assert_eq!(image.sha256, sha256(&disk()));
    let before = world.server.gets("disk.img").len();
    world.get(&listed(&url, &list)).await.unwrap();
    assert_eq!(
        world.server.gets("disk.img").len(),
        before,
        "known by its sha512 as well"
    );
}

#[tokio::test]
async fn a_cached_image_is_said_to_be_verified_as_it_was_this_time() {
    let world = World::new();
    let url = world.server.put("disk.img", disk());
    let list = world.server.put("SUMS", sums("disk.img", &disk()));
    world.get(&pinned(&url, &disk())).await.unwrap();
    let image = world.get(&listed(&url, &list)).await.unwrap();
    assert_eq!(image.verified, Verified::Checksums { list });
    assert_eq!(world.server.gets("disk.img").len(), 1);
}

#[tokio::test]
async fn the_same_image_by_sha256_and_sha512_is_kept_once() {
    let world = World::new();
    let url = world.server.put("disk.img", disk());
    let list = world
        .server
        .put("SHA512SUMS", format!("{}  disk.img\n", sha512(&disk())));
    let (by_256, by_512) = (pinned(&url, &disk()), listed(&url, &list));
    let (one, two) = futures_util::future::join(world.get(&by_256), world.get(&by_512)).await;
    assert_eq!(one.unwrap().path, two.unwrap().path);
    assert_eq!(world.left(), [format!("sha256-{}", sha256(&disk()))]);
}

#[tokio::test]
async fn a_file_that_is_not_listed_is_refused() {
    let world = World::new();
    let url = world.server.put("disk.img", disk());
    let list = world.server.put("SHA256SUMS", sums("disk-2.img", &disk()));
    let error = world.refuse(&listed(&url, &list)).await;
    assert_eq!(error.get_kind(), Kind::Verification);
    assert!(error.to_string().contains(&list), "{error}");
    assert!(error.get_hint().unwrap().contains("disk-2.img"));
    assert!(world.server.gets("disk.img").is_empty());
}

#[tokio::test]
async fn a_list_that_cannot_be_fetched_is_an_error() {
    let world = World::new();
    let url = world.server.put("disk.img", disk());
    let error = world
        .refuse(&listed(&url, &world.server.url("SHA256SUMS")))
        .await;
    assert!(
        error
            .to_string()
            .contains("SHA256SUMS: the server answered 404"),
        "{error}"
    );
    let list = world.server.put("SHA256SUMS", sums("disk.img", &disk()));
    world
        .server
        .act("SHA256SUMS", [Act::Status(503), Act::Cut(3)]);
    world.get(&listed(&url, &list)).await.unwrap();
}

#[tokio::test]
async fn an_unsigned_list_over_plain_http_is_refused() {
    let world = World::new();
    let url = "http://example.org/disk.img";
    let error = world
        .refuse(&listed(url, "http://example.org/SHA256SUMS"))
        .await;
    assert_eq!(error.get_kind(), Kind::Usage);
    assert!(error.to_string().contains("plain http"), "{error}");
    assert!(error.get_hint().unwrap().contains("https"));
    let error = world.refuse(&pinned("http://127.0.0.1:1/x", b"")).await;
    assert_eq!(
        error.get_kind(),
        Kind::Operation,
        "a pinned digest makes the transport irrelevant"
    );
}

#[tokio::test]
async fn an_unsigned_list_must_not_be_redirected_to_plain_http() {
    let world = World::new();
    let url = world.server.put("disk.img", disk());
    // Linux answers on all of 127/8, but only 127.0.0.1 is taken for this machine.
    let elsewhere = Server::start_at("127.0.0.2:0");
    let real = elsewhere.put("SUMS", sums("disk.img", &disk()));
    let list = world.server.put("SUMS", "");
    world.server.act("SUMS", [Act::Redirect(real)]);
    let error = world.refuse(&listed(&url, &list)).await;
    assert_eq!(error.get_kind(), Kind::Usage);
    assert!(error.to_string().contains("127.0.0.2"), "{error}");
}

struct Signed {
    world: World,
    key: Key,
    url: String,
    list: String,
}

impl Signed {
    fn new() -> Self {
        let (world, key) = (World::new(), Key::new());
        let text = sums("disk.img", &disk());
        world.server.put("SUMS.sig", key.sign(text.as_bytes()));
        Signed {
            url: world.server.put("disk.img", disk()),
            list: world.server.put("SUMS", text),
            world,
            key,
        }
    }

    fn spec(&self, key: &[u8]) -> Spec {
        let signature = Signature {
            location: self.world.server.url("SUMS.sig"),
            key: self.world.file("key.asc", key),
        };
        Spec::Url {
            url: self.url.clone(),
            mirrors: vec![],
            verify: Verify::Checksums {
                list: self.list.clone(),
                signature: Some(signature),
            },
        }
    }
}

#[tokio::test]
async fn a_signed_list_is_verified_by_the_given_key() {
    let signed = Signed::new();
    let image = signed
        .world
        .get(&signed.spec(&signed.key.armoured()))
        .await
        .unwrap();
    let fingerprint = signed.key.fingerprint();
    let list = signed.list.clone();
    assert_eq!(image.verified, Verified::Signature { list, fingerprint });
}

#[tokio::test]
async fn a_list_signed_by_another_key_an_expired_or_a_revoked_one_is_refused() {
    let signed = Signed::new();
    let keys = [
        Key::new().binary(),
        signed.key.expiring_after(10_000),
        signed.key.revoked(),
    ];
    for key in keys {
        let error = signed.world.refuse(&signed.spec(&key)).await;
        assert_eq!(error.get_kind(), Kind::Verification);
    }
    assert!(signed.world.server.gets("disk.img").is_empty());
}

#[tokio::test]
async fn a_list_that_was_changed_after_signing_is_refused() {
    let signed = Signed::new();
    signed.world.server.put("SUMS", sums("disk.img", b"evil"));
    let error = signed
        .world
        .refuse(&signed.spec(&signed.key.binary()))
        .await;
    assert_eq!(error.get_kind(), Kind::Verification);
    assert!(error.to_string().contains("signature of"), "{error}");
}
