use super::*;
use crate::error::Kind;

async fn one() -> (World, Spec, BaseImage) {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", disk()), &disk());
    let image = world.get(&spec).await.unwrap();
    (world, spec, image)
}

#[tokio::test]
async fn a_touched_image_is_hashed_once_and_trusted_again() {
    let (world, spec, image) = one().await;
    replace(&image.path, &disk());
    drop(image);
    let hashed = |world: &World| world.told().matches("phase: \"verify\"").count();
    let before = hashed(&world);
    world.get(&spec).await.unwrap();
    let after = hashed(&world);
    assert!(after > before);
    world.get(&spec).await.unwrap();
    assert_eq!(hashed(&world), after);
    assert_eq!(world.server.gets("disk.img").len(), 1);
}

#[tokio::test]
async fn a_changed_image_is_dropped_and_fetched_again() {
    let (world, spec, image) = one().await;
    replace(&image.path, &disk_of(256 * 1024, 9));
    drop(image);
    let image = world.get(&spec).await.unwrap();
    assert_eq!(std::fs::read(&image.path).unwrap(), disk());
    assert!(world.told().contains("changed or damaged"));
}

#[tokio::test]
async fn an_entry_without_its_parts_is_fetched_again() {
    let (world, spec, image) = one().await;
    std::fs::remove_file(image.path.with_file_name("meta.json")).unwrap();
    drop(image);
    let image = world.get(&spec).await.unwrap();
    std::fs::remove_file(&image.path).unwrap();
    drop(image);
    world.get(&spec).await.unwrap();
    assert_eq!(world.server.gets("disk.img").len(), 3);
}

#[tokio::test]
async fn a_changed_image_is_an_error_offline() {
    let (mut world, spec, image) = one().await;
    replace(&image.path, b"something else");
    drop(image);
    world.offline = true;
    world.refuse(&spec).await;
}

#[tokio::test]
async fn a_changed_image_in_use_is_a_conflict() {
    let (world, spec, image) = one().await;
    replace(&image.path, b"something else");
    assert_eq!(
        world.get(&spec).await.unwrap_err().get_kind(),
        Kind::Conflict
    );
}

#[tokio::test]
async fn images_are_listed_with_the_time_of_their_last_use() {
    let (world, spec, image) = one().await;
    let listed = list(&world.dirs).unwrap().pop().unwrap();
    assert_eq!(listed.sha256, image.sha256);
    assert_eq!(
        (listed.origin, listed.format),
        (image.origin.clone(), image.format)
    );
    assert_eq!(
        (listed.virtual_size, listed.allocated),
        (image.virtual_size, image.allocated)
    );
    let meta = std::fs::File::open(image.path.with_file_name("meta.json")).unwrap();
    meta.set_modified(std::time::UNIX_EPOCH).unwrap();
    world.get(&spec).await.unwrap();
    assert!(list(&world.dirs).unwrap()[0].last_used >= listed.last_used);
}

#[test]
fn an_empty_cache_lists_nothing() {
    let home = tempfile::tempdir().unwrap();
    assert!(list(&Dirs::under(home.path())).unwrap().is_empty());
}

#[tokio::test]
async fn an_image_in_use_is_not_removed() {
    let (world, _, image) = one().await;
    let clone = image.clone();
    drop(image);
    assert_eq!(
        remove(&world.dirs, &clone.sha256).unwrap_err().get_kind(),
        Kind::Conflict
    );
    assert!(clone.path.exists());
    let sha256 = clone.sha256.clone();
    drop(clone);
    remove(&world.dirs, &format!("sha256:{sha256}")).unwrap();
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn removing_takes_a_prefix_that_must_be_unambiguous() {
    let (world, _, image) = one().await;
    let sha256 = image.sha256.clone();
    drop(image);
    let mut other = sha256.clone();
    other.replace_range(63.., if sha256.ends_with('0') { "1" } else { "0" });
    std::fs::create_dir(world.dirs.images().join(format!("sha256-{other}"))).unwrap();
    for (prefix, said) in [
        (&sha256[..8], "2 digests begin so"),
        ("", "not the beginning"),
        ("../..", "not the beginning"),
        (
            if sha256.starts_with('0') { "1" } else { "0" },
            "nothing like that",
        ),
    ] {
        let error = remove(&world.dirs, prefix).unwrap_err();
        assert_eq!(error.get_kind(), Kind::Usage);
        assert!(error.to_string().contains(said), "{error}");
    }
    remove(&world.dirs, &sha256).unwrap();
}

#[tokio::test]
async fn a_removed_image_is_fetched_again_also_by_sha512() {
    let world = World::new();
    let url = world.server.put("disk.img", disk());
    let list = world
        .server
        .put("SUMS", format!("{}  disk.img\n", sha512(&disk())));
    let spec = listed(&url, &list);
    let image = world.get(&spec).await.unwrap();
    let sha256 = image.sha256.clone();
    drop(image);
    remove(&world.dirs, &sha256).unwrap();
    world.get(&spec).await.unwrap();
    assert_eq!(world.server.gets("disk.img").len(), 2);
}

#[tokio::test]
async fn sweeping_removes_what_was_left_but_nothing_that_somebody_works_on() {
    let (world, _, image) = one().await;
    let images = world.dirs.images();
    let key = |digit: &str| format!("sha256-{}", digit.repeat(64));
    std::fs::write(images.join(format!("{}.partial", key("1"))), disk()).unwrap();
    std::fs::write(images.join(format!("{}.partial.json", key("1"))), "{}").unwrap();
    std::fs::create_dir(images.join(format!(".staging-{}", key("2")))).unwrap();
    std::fs::write(images.join(format!(".staging-{}/image", key("2"))), disk()).unwrap();
    std::fs::create_dir(images.join(format!(".staging-removed-{}", "4".repeat(64)))).unwrap();
    let busy = format!("{}.partial", key("3"));
    std::fs::write(images.join(&busy), disk()).unwrap();
    let lock = world
        .dirs
        .locks()
        .join(format!("image-fetch-{}.lock", key("3")));
    let held = Lock::try_acquire(&lock).unwrap();
    assert!(sweep(&world.dirs).unwrap() >= 2 * disk().len() as u64);
    let mut left = vec![busy, format!("sha256-{}", image.sha256)];
    left.sort();
    assert_eq!(world.left(), left);
    drop(held);
    sweep(&world.dirs).unwrap();
    assert_eq!(world.left(), [format!("sha256-{}", image.sha256)]);
}
