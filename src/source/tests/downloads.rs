use super::server::{Act, File};
use super::*;
use crate::error::Kind;

#[tokio::test]
async fn an_image_is_downloaded_verified_and_kept_read_only() {
    let world = World::new();
    let url = world.server.put("disk.img", disk());
    let image = world.get(&pinned(&url, &disk())).await.unwrap();
    assert_eq!(std::fs::read(&image.path).unwrap(), disk());
    assert_eq!(
        (image.format, image.virtual_size),
        (Format::Raw, 256 * 1024)
    );
    assert_eq!(image.sha256, sha256(&disk()));
    assert_eq!(
        (image.origin.as_str(), image.verified),
        (url.as_str(), Verified::Digest)
    );
    assert!(
        std::fs::metadata(&image.path)
            .unwrap()
            .permissions()
            .readonly()
    );
    assert_eq!(world.left(), [format!("sha256-{}", sha256(&disk()))]);
    let entry = image.path.parent().unwrap();
    assert_eq!(std::fs::read_dir(entry).unwrap().count(), 2);
    assert!(world.told().contains("phase: \"download\""));
}

#[tokio::test]
async fn a_second_fetch_asks_nobody() {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", disk()), &disk());
    world.get(&spec).await.unwrap();
    let before = world.server.requests().len();
    world.get(&spec).await.unwrap();
    assert_eq!(world.server.requests().len(), before);
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_was_cut() {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", disk()), &disk());
    world.server.act("disk.img", [Act::Cut(100_000)]);
    let image = world.get(&spec).await.unwrap();
    assert_eq!(std::fs::read(&image.path).unwrap(), disk());
    let gets = world.server.gets("disk.img");
    assert_eq!(gets.len(), 2);
    assert_eq!(gets[1].headers["range"], "bytes=100000-");
    assert_eq!(gets[1].headers["if-range"], "\"one\"");
}

#[tokio::test]
async fn a_download_goes_on_in_the_next_run() {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", disk()), &disk());
    world.server.act(
        "disk.img",
        [Act::Cut(50_000), Act::Cut(0), Act::Cut(10_000)],
    );
    let error = world.get(&spec).await.unwrap_err();
    assert!(
        error.get_hint().unwrap().contains("goes on from there"),
        "{error}"
    );
    let partial = format!("sha256-{}.partial", sha256(&disk()));
    assert_eq!(world.left(), [partial.clone(), format!("{partial}.json")]);
    world.get(&spec).await.unwrap();
    assert_eq!(
        world.server.gets("disk.img")[3].headers["range"],
        "bytes=60000-"
    );
    assert_eq!(world.left(), [format!("sha256-{}", sha256(&disk()))]);
}

#[tokio::test]
async fn a_partial_file_that_was_damaged_is_downloaded_again() {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", disk()), &disk());
    world.server.act(
        "disk.img",
        [Act::Cut(50_000), Act::Status(503), Act::Status(503)],
    );
    world.get(&spec).await.unwrap_err();
    let partial = world
        .dirs
        .images()
        .join(format!("sha256-{}.partial", sha256(&disk())));
    std::fs::write(&partial, vec![0; 50_000]).unwrap();
    let image = world.get(&spec).await.unwrap();
    assert_eq!(std::fs::read(&image.path).unwrap(), disk());
}

#[tokio::test]
async fn a_partial_file_that_is_complete_needs_no_request() {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", disk()), &disk());
    world.server.act(
        "disk.img",
        [Act::Cut(50_000), Act::Status(503), Act::Status(503)],
    );
    world.get(&spec).await.unwrap_err();
    let partial = world
        .dirs
        .images()
        .join(format!("sha256-{}.partial", sha256(&disk())));
    std::fs::write(&partial, disk()).unwrap();
    let before = world.server.requests().len();
    world.get(&spec).await.unwrap();
    assert_eq!(world.server.requests().len(), before);
}

#[tokio::test]
async fn a_server_that_ignores_ranges_serves_the_file_from_its_beginning() {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", disk()), &disk());
    world
        .server
        .change("disk.img", |file| file.ignores_ranges = true);
    world.server.act("disk.img", [Act::Cut(100_000)]);
    let image = world.get(&spec).await.unwrap();
    assert_eq!(std::fs::read(&image.path).unwrap(), disk());
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_not_spliced() {
    let world = World::new();
    let new = disk_of(256 * 1024, 7);
    let spec = pinned(&world.server.put("disk.img", disk()), &new);
    world.server.act(
        "disk.img",
        [Act::Cut(50_000), Act::Status(503), Act::Status(503)],
    );
    world.get(&spec).await.unwrap_err();
    world.server.put_file(
        "disk.img",
        File {
            body: new.clone(),
            etag: Some("\"two\"".into()),
            ..File::default()
        },
    );
    let image = world.get(&spec).await.unwrap();
    assert_eq!(std::fs::read(&image.path).unwrap(), new);
    assert_eq!(world.server.gets("disk.img").len(), 4);
}

#[tokio::test]
async fn pieces_that_do_not_fit_are_downloaded_again_even_without_validators() {
    let world = World::new();
    let new = disk_of(256 * 1024, 7);
    let spec = pinned(&world.server.put("disk.img", disk()), &new);
    world.server.change("disk.img", |file| file.etag = None);
    world.server.act(
        "disk.img",
        [Act::Cut(50_000), Act::Status(503), Act::Status(503)],
    );
    world.get(&spec).await.unwrap_err();
    world
        .server
        .change("disk.img", |file| file.body = new.clone());
    let image = world.get(&spec).await.unwrap();
    assert_eq!(std::fs::read(&image.path).unwrap(), new);
}

#[tokio::test]
async fn a_wrong_file_in_pieces_is_asked_for_once_more_as_a_whole() {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", disk()), b"something else");
    world.server.act("disk.img", [Act::Cut(50_000)]);
    let options = Options {
        attempts: 9,
        ..options()
    };
    let world = World {
        http: Http::with(options).unwrap(),
        ..world
    };
    assert_eq!(world.refuse(&spec).await.get_kind(), Kind::Verification);
    assert_eq!(world.server.gets("disk.img").len(), 3);
}

#[tokio::test]
async fn a_stalled_connection_counts_as_failure_and_is_resumed() {
    let world = World::impatient();
    let spec = pinned(&world.server.put("disk.img", disk()), &disk());
    world.server.act("disk.img", [Act::Stall(70_000)]);
    world.get(&spec).await.unwrap();
    assert_eq!(
        world.server.gets("disk.img")[1].headers["range"],
        "bytes=70000-"
    );
}

#[tokio::test]
async fn a_dying_mirror_hands_over_to_the_next_which_goes_on() {
    let world = World::new();
    let bad = world.server.put("bad/disk.img", disk());
    let good = world.server.put("good/disk.img", disk());
    world.server.act(
        "bad/disk.img",
        [Act::Cut(90_000), Act::Cut(0), Act::Status(502)],
    );
    let Spec::Url { verify, .. } = pinned(&bad, &disk()) else {
        unreachable!()
    };
    let spec = Spec::Url {
        url: bad.clone(),
        mirrors: vec![good.clone()],
        verify,
    };
    let image = world.get(&spec).await.unwrap();
    assert_eq!(image.origin, good);
    let get = &world.server.gets("good/disk.img")[0];
    assert_eq!(get.headers["range"], "bytes=90000-");
    // The other server's validator means nothing to this one.
    assert!(!get.headers.contains_key("if-range"));
    assert!(world.told().contains(&bad), "the failing mirror is told");
}

#[tokio::test]
async fn the_final_error_tells_what_each_mirror_answered() {
    let world = World::new();
    world.server.put("b/disk.img", disk());
    world.server.act(
        "b/disk.img",
        [Act::Status(503), Act::Status(503), Act::Status(500)],
    );
    world.server.put("c/disk.img", disk());
    world.server.act("c/disk.img", [Act::Status(403)]);
    let spec = Spec::Url {
        url: world.server.url("a/disk.img"),
        mirrors: vec![
            world.server.url("b/disk.img"),
            world.server.url("c/disk.img"),
        ],
        verify: Verify::Sha256(sha256(&disk())),
    };
    let error = world.refuse(&spec).await;
    let lines = &error.get_detail().unwrap().text;
    assert_eq!(lines.lines().count(), 3);
    for said in [
        "a/disk.img: the server answered 404",
        "b/disk.img: the server answered 500",
        "403",
    ] {
        assert!(lines.contains(said), "{lines}");
    }
    assert_eq!(
        world.server.gets("a/disk.img").len(),
        1,
        "what is missing is not asked for again"
    );
    assert_eq!(world.server.gets("b/disk.img").len(), 3);
    assert_eq!(world.server.gets("c/disk.img").len(), 1);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_told() {
    let world = World::new();
    let error = world
        .refuse(&pinned("http://127.0.0.1:1/disk.img", &disk()))
        .await;
    assert!(
        error.to_string().contains("http://127.0.0.1:1/disk.img"),
        "{error}"
    );
    assert!(
        error.to_string().to_lowercase().contains("refused"),
        "{error}"
    );
}

#[tokio::test]
async fn two_fetches_at_once_download_once() {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", disk()), &disk());
    let (one, two) = futures_util::future::join(world.get(&spec), world.get(&spec)).await;
    assert_eq!(one.unwrap().path, two.unwrap().path);
    assert_eq!(world.server.gets("disk.img").len(), 1);
    assert_eq!(world.told().matches("waiting for it").count(), 1);
}

#[tokio::test]
async fn a_dropped_fetch_leaves_only_what_can_be_resumed() {
    let world = World::new();
    let spec = pinned(&world.server.put("disk.img", disk()), &disk());
    world.server.act("disk.img", [Act::Stall(70_000)]);
    let partial = format!("sha256-{}.partial", sha256(&disk()));
    let path = world.dirs.images().join(&partial);
    let has_all = async {
        while std::fs::metadata(&path).map_or(0, |file| file.len()) < 70_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = world.get(&spec) => panic!("{ended:?}"),
        () = has_all => {}
    }
    assert_eq!(world.left(), [partial.clone(), format!("{partial}.json")]);
    world.get(&spec).await.unwrap();
    assert_eq!(
        world.server.gets("disk.img")[1].headers["range"],
        "bytes=70000-"
    );
}

#[tokio::test]
async fn redirects_are_followed() {
    let world = World::new();
    let real = world.server.put("real", disk());
    let url = world.server.put("disk.img", "");
    world.server.act("disk.img", [Act::Redirect(real)]);
    world.get(&pinned(&url, &disk())).await.unwrap();
}

#[tokio::test]
async fn credentials_are_sent_but_never_shown() {
    let world = World::new();
    world.server.put("disk.img", disk());
    let url = world
        .server
        .url("disk.img?sig=s3cret")
        .replace("http://", "http://me:hunter2@");
    let missing = url.replace("disk.img", "gone.img");
    let error = world.refuse(&pinned(&missing, &disk())).await;
    world.server.put_file(
        "disk.img?sig=s3cret",
        File {
            body: disk(),
            ..File::default()
        },
    );
    let image = world.get(&pinned(&url, &disk())).await.unwrap();
    let sent = world.server.requests().pop().unwrap();
    assert!(sent.headers["authorization"].starts_with("Basic "));
    let meta = std::fs::read_to_string(image.path.with_file_name("meta.json")).unwrap();
    let shown = format!("{error:?} {image:?} {meta} {}", world.told());
    assert!(
        !shown.contains("hunter2") && !shown.contains("s3cret"),
        "{shown}"
    );
}

#[tokio::test]
async fn other_schemes_are_faults_of_the_recipe() {
    let world = World::new();
    let error = world
        .refuse(&pinned("ftp://example.org/disk.img", &disk()))
        .await;
    assert_eq!(error.get_kind(), Kind::Usage);
}
