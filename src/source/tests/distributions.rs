use super::keys::Key;
use super::*;
use crate::error::Kind;

const INDEX: &str = "streams/v1/com.ubuntu.cloud:released:download.json";
const FOLDER: &str = "server/releases/noble/release-20240423";
const IMAGE: &str = "server/releases/noble/release-20240423/ubuntu-24.04-server-cloudimg-amd64.img";

/// An index in the shape of Ubuntu's, with two versions of noble and one of jammy.
fn index(image: &str, sha256: &str) -> String {
    let old = "1".repeat(64);
    serde_json::json!({
        "format": "products:1.0",
        "products": {
            "com.ubuntu.cloud:server:22.04:amd64": {
                "arch": "amd64", "release": "jammy", "version": "22.04",
                "release_title": "22.04 LTS", "aliases": "22.04,jammy",
                "versions": { "20240101": { "items": { "disk1.img": { "path": "j.img", "sha256": old } } } }
            },
            "com.ubuntu.cloud:server:24.04:amd64": {
                "arch": "amd64", "release": "noble", "version": "24.04",
                "release_title": "24.04 LTS", "aliases": "24.04,default,lts,noble",
                "versions": {
                    "20240423": { "items": { "disk1.img": { "path": "old.img", "sha256": old } } },
                    "20240423.10": { "items": {
                        "disk1.img": { "ftype": "disk1.img", "path": image, "sha256": sha256, "size": 1 },
                        "manifest": { "path": "x.manifest" }
                    } },
                    "20240423.9": { "items": { "disk1.img": { "path": "older.img", "sha256": old } } },
                    "20240501": { "items": { "lxd.tar.xz": { "path": "lxd.tar.xz", "sha256": old } } }
                }
            },
            "com.ubuntu.cloud:server:24.04:arm64": {
                "arch": "arm64", "release": "noble", "version": "24.04", "aliases": "24.04,noble",
                "versions": { "20250101": { "items": { "disk1.img": { "path": "arm.img", "sha256": old } } } }
            }
        }
    })
    .to_string()
}

/// Ubuntu's tree under a folder of the server.
fn tree(world: &World, under: &str) -> String {
    world
        .server
        .put(&format!("{under}/{INDEX}"), index(IMAGE, &sha256(&disk())));
    world.server.put(&format!("{under}/{IMAGE}"), disk());
    world.server.url(under)
}

fn ubuntu(release: &str, mirrors: &[&str]) -> Spec {
    Spec::Ubuntu {
        release: release.into(),
        mirrors: mirrors.iter().map(|root| (*root).to_owned()).collect(),
    }
}

#[tokio::test]
async fn ubuntus_newest_image_is_found_by_version_codename_or_alias() {
    for release in ["24.04", "noble", "Noble", "lts"] {
        let world = World::new();
        let root = tree(&world, "u");
        let image = world.get(&ubuntu(release, &[&root])).await.unwrap();
        assert_eq!(image.sha256, sha256(&disk()), "{release}");
        assert_eq!(image.origin, format!("{root}/{IMAGE}"));
        let list = format!("{root}/{INDEX}");
        assert_eq!(image.verified, Verified::Checksums { list });
    }
}

#[tokio::test]
async fn an_unknown_ubuntu_release_is_a_fault_of_the_recipe() {
    let world = World::new();
    let root = tree(&world, "u");
    let error = world.refuse(&ubuntu("24.05", &[&root])).await;
    assert_eq!(error.get_kind(), Kind::Usage);
    assert!(
        error
            .get_hint()
            .unwrap()
            .contains("24.04 (noble), 22.04 (jammy)")
    );
}

#[tokio::test]
async fn a_stale_index_is_told_as_such_and_the_next_mirror_is_asked() {
    let world = World::new();
    let stale = world.server.put(
        &format!("stale/{INDEX}"),
        index("gone.img", &"2".repeat(64)),
    );
    let stale = stale.trim_end_matches(INDEX).to_owned();
    let error = world.refuse(&ubuntu("24.04", &[&stale])).await;
    assert!(
        error.to_string().contains("gone.img, which is not there"),
        "{error}"
    );
    assert!(error.get_hint().unwrap().contains("outdated"));

    let good = tree(&world, "good");
    let image = world.get(&ubuntu("24.04", &[&stale, &good])).await.unwrap();
    assert_eq!(image.origin, format!("{good}/{IMAGE}"));
    assert!(
        world.told().contains("gone.img"),
        "the stale mirror is told"
    );
}

#[tokio::test]
async fn a_dead_mirror_is_passed_over_and_all_dead_ones_are_named() {
    let world = World::new();
    let good = tree(&world, "good");
    let dead = "http://127.0.0.1:1/ubuntu";
    world.get(&ubuntu("24.04", &[dead, &good])).await.unwrap();
    let missing = world.server.url("missing");
    let error = world
        .get(&ubuntu("24.04", &[dead, &missing]))
        .await
        .unwrap_err();
    let lines = &error.get_detail().unwrap().text;
    assert!(lines.contains(dead) && lines.contains("404"), "{lines}");
}

#[tokio::test]
async fn an_index_cannot_lead_out_of_its_tree() {
    for path in [
        "../x.img",
        "/x.img",
        "https://evil.example/x.img",
        "a/../../x.img",
        "x.img?y",
        "a//b",
        "",
    ] {
        let world = World::new();
        let index = index(path, &sha256(&disk()));
        let root = world.server.put(&format!("u/{INDEX}"), index);
        let error = world
            .refuse(&ubuntu("24.04", &[root.trim_end_matches(INDEX)]))
            .await;
        assert!(
            error.to_string().contains("no proper path"),
            "{path}: {error}"
        );
    }
}

#[tokio::test]
async fn with_ubuntus_keyring_the_image_is_verified_by_signature() {
    let (mut world, key) = (World::new(), Key::new());
    let root = tree(&world, "u");
    world.anchors.keyrings = vec!["/nonexistent".into(), world.file("ring.gpg", &key.binary())];
    world.anchors.fingerprint = key.fingerprint();
    let spec = ubuntu("24.04", &[&root]);

    let error = world.refuse(&spec).await;
    assert!(
        error.to_string().contains("SHA256SUMS"),
        "an absent signature is not passed over: {error}"
    );

    let name = IMAGE.rsplit('/').next().unwrap();
    let good = sums(name, &disk());
    let list = world
        .server
        .put(&format!("u/{FOLDER}/SHA256SUMS"), good.clone());
    world.server.put(
        &format!("u/{FOLDER}/SHA256SUMS.gpg"),
        Key::new().sign(good.as_bytes()),
    );
    assert_eq!(world.refuse(&spec).await.get_kind(), Kind::Verification);

    world.server.put(
        &format!("u/{FOLDER}/SHA256SUMS.gpg"),
        key.sign(good.as_bytes()),
    );
    world
        .server
        .put(&format!("u/{INDEX}"), index(IMAGE, &sha256(b"evil")));
    let error = world.refuse(&spec).await;
    assert_eq!(error.get_kind(), Kind::Verification);
    assert!(
        error.to_string().contains("the signed list says"),
        "{error}"
    );

    tree(&world, "u");
    let image = world.get(&spec).await.unwrap();
    let fingerprint = key.fingerprint();
    assert_eq!(image.verified, Verified::Signature { list, fingerprint });
}

fn debian(release: &str, root: &str) -> Spec {
    Spec::Debian {
        release: release.into(),
        mirrors: vec![root.into()],
    }
}

#[tokio::test]
async fn debians_latest_image_is_found_by_version_or_codename() {
    for release in ["12", "bookworm"] {
        let world = World::new();
        let name = "debian-12-genericcloud-amd64.qcow2";
        let text = format!(
            "{}  {name}\n{}  other.qcow2\n",
            sha512(&disk()),
            sha512(b"other")
        );
        let list = world.server.put("d/bookworm/latest/SHA512SUMS", text);
        let url = world
            .server
            .put(&format!("d/bookworm/latest/{name}"), disk());
        let image = world
            .get(&debian(release, &world.server.url("d/")))
            .await
            .unwrap();
        assert_eq!((image.sha256, image.origin), (sha256(&disk()), url));
        assert_eq!(image.verified, Verified::Checksums { list });
    }
}

#[tokio::test]
async fn an_unknown_debian_release_is_a_fault_of_the_recipe() {
    let world = World::new();
    let error = world.refuse(&debian("7", "https://example.org")).await;
    assert_eq!(error.get_kind(), Kind::Usage);
    assert!(error.get_hint().unwrap().contains("13 (trixie)"));
}

#[tokio::test]
async fn what_was_resolved_and_fetched_online_works_offline() {
    let mut world = World::new();
    let root = tree(&world, "u");
    let name = "debian-12-genericcloud-amd64.qcow2";
    let text = format!("{}  {name}\n", sha512(&disk_of(4096, 9)));
    world.server.put("d/bookworm/latest/SHA512SUMS", text);
    world
        .server
        .put(&format!("d/bookworm/latest/{name}"), disk_of(4096, 9));
    let specs = [
        ubuntu("24.04", &[&root]),
        debian("12", &world.server.url("d")),
    ];
    let mut online = Vec::new();
    for spec in &specs {
        online.push(world.get(spec).await.unwrap());
    }
    world.offline = true;
    let before = world.server.requests().len();
    for (spec, online) in specs.iter().zip(online) {
        let image = world.get(spec).await.unwrap();
        assert_eq!((image.path, image.verified), (online.path, online.verified));
    }
    assert_eq!(world.server.requests().len(), before);
}

#[tokio::test]
async fn offline_a_miss_says_what_is_missing_and_what_to_do() {
    let mut world = World::new();
    world.offline = true;
    let url = world.server.put("disk.img", disk());
    for (spec, named) in [
        (pinned(&url, &disk()), url.clone()),
        (pinned(&url, &disk()), sha256(&disk())),
        (ubuntu("24.04", &[]), "Ubuntu 24.04".to_owned()),
    ] {
        let error = world.refuse(&spec).await;
        assert!(error.to_string().contains(&named), "{error}");
        assert!(error.get_hint().unwrap().contains("imgbuild image pull"));
    }
    assert!(world.server.requests().is_empty());
}
