use super::*;
use crate::error::Kind;

fn at(path: &std::path::Path, verify: Option<Verify>) -> Spec {
    Spec::File {
        path: path.into(),
        verify,
    }
}

/// Makes the file old enough for its times to be trusted.
async fn settle(path: &std::path::Path) {
    let changed = || {
        let metadata = std::fs::metadata(path).unwrap();
        crate::store::Stamp::of(&metadata).is_settled()
    };
    while !changed() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_local_image_is_used_in_place() {
    let world = World::new();
    let path = world.file("disk.img", &disk());
    let image = world.get(&at(&path, None)).await.unwrap();
    assert_eq!((&image.path, &image.sha256), (&path, &sha256(&disk())));
    assert_eq!(image.verified, Verified::Unverified);
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn its_digest_is_computed_once_for_each_state_of_the_file() {
    let world = World::new();
    let path = world.file("disk.img", &disk());
    settle(&path).await;
    let hashed = || world.told().matches("phase: \"verify\"").count();
    world.get(&at(&path, None)).await.unwrap();
    let once = hashed();
    world.get(&at(&path, None)).await.unwrap();
    assert_eq!(hashed(), once);
    std::fs::write(&path, disk_of(256 * 1024, 1)).unwrap();
    let image = world.get(&at(&path, None)).await.unwrap();
    assert_eq!(image.sha256, sha256(&disk_of(256 * 1024, 1)));
}

#[tokio::test]
async fn a_file_that_was_just_written_is_hashed_again_since_its_times_may_not_tell_a_change() {
    let world = World::new();
    let path = world.file("disk.img", &disk());
    let hashed = || world.told().matches("phase: \"verify\"").count();
    world.get(&at(&path, None)).await.unwrap();
    let once = hashed();
    world.get(&at(&path, None)).await.unwrap();
    assert!(hashed() > once);
}

#[tokio::test]
async fn a_local_image_is_verified_by_digest_or_by_a_list_beside_it() {
    let world = World::new();
    let path = world.file("disk.img", &disk());
    let list = world.file("SUMS", sums("disk.img", &disk()).as_bytes());
    let by_list = |list: &std::path::Path| Verify::Checksums {
        list: list.display().to_string(),
        signature: None,
    };
    let image = world.get(&at(&path, Some(by_list(&list)))).await.unwrap();
    let shown = list.display().to_string();
    assert_eq!(image.verified, Verified::Checksums { list: shown });
    world
        .get(&at(&path, Some(Verify::Sha256(sha256(&disk())))))
        .await
        .unwrap();

    let bad = world.file("BAD", sums("disk.img", b"other").as_bytes());
    for verify in [by_list(&bad), Verify::Sha256(sha256(b"other"))] {
        let error = world.refuse(&at(&path, Some(verify))).await;
        assert_eq!(error.get_kind(), Kind::Verification);
    }
}

#[tokio::test]
async fn a_compressed_local_image_goes_through_the_cache_and_stays_where_it_is() {
    let world = World::new();
    let packed = zstd::encode_all(&disk()[..], 1).unwrap();
    let path = world.file("disk.img.zst", &packed);
    let image = world.get(&at(&path, None)).await.unwrap();
    assert_eq!(std::fs::read(&image.path).unwrap(), disk());
    assert_eq!(image.sha256, sha256(&packed));
    assert_eq!(std::fs::read(&path).unwrap(), packed);
    assert_eq!(world.left(), [format!("sha256-{}", sha256(&packed))]);
    let again = world.get(&at(&path, None)).await.unwrap();
    assert_eq!(again.path, image.path);
}

#[tokio::test]
async fn a_path_without_an_image_is_a_fault_of_the_recipe() {
    let world = World::new();
    let page = world.file("disk.img", b"<html>");
    for path in [
        world.home.path().join("missing"),
        world.home.path().into(),
        page,
    ] {
        let error = world.refuse(&at(&path, None)).await;
        assert_eq!(error.get_kind(), Kind::Usage);
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
    }
}
