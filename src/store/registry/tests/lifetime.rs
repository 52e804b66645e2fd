//! Versions from being reserved to being there.

use super::*;
use crate::error::Kind;

#[test]
fn versions_count_up_and_gaps_stay() {
    let place = Place::new();
    assert_eq!(place.built("web").number, 1);
    let lost = place.reserve("web", Path::new("/x")).unwrap();
    assert_eq!(lost.number, 2);
    assert_eq!(place.built("web").number, 3);
    assert_eq!(place.built("other").number, 1);
    assert_eq!(place.names(), ["other@1", "web@1", "web@3"]);
    assert_eq!(place.find("web").number, 3);
    place.assert_agrees();
}

#[test]
fn a_number_is_not_given_again_when_the_registry_was_lost() {
    let place = Place::new();
    for name in ["web-4.qcow2", "web-x.qcow2", "wep-9.qcow2"] {
        std::fs::write(place.path(name), "").unwrap();
    }
    assert_eq!(place.reserve("web", Path::new("/x")).unwrap().number, 5);
}

#[test]
fn two_formats_of_one_name_do_not_share_what_lies_beside_them() {
    let place = Place::new();
    let mut registry = place.registry();
    let numbers =
        [("one", "x.qcow2"), ("two", "x.raw"), ("one", "x.qcow2")].map(|(image, link)| {
            let claim = Claim {
                image,
                label: None,
                build: "b",
                link: &place.path(link),
                base: Path::new("/x"),
                base_sha256: "",
                asked: None,
            };
            registry.reserve(&claim).unwrap().number
        });
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn a_label_that_is_taken_gets_a_number_behind_it() {
    let place = Place::new();
    let labelled = |image: &'static str| {
        let link = place.path("web.qcow2");
        let claim = Claim {
            image,
            label: Some("2026.11.25"),
            build: "b",
            link: &link,
            base: Path::new("/x"),
            base_sha256: "",
            asked: None,
        };
        let mut registry = place.registry();
        let reserved = registry.reserve(&claim).unwrap();
        let (sha256, size) = place.files(&reserved);
        registry.publish(&reserved, &sha256, size).unwrap();
        reserved.label.unwrap()
    };
    assert_eq!(labelled("web"), "2026.11.25");
    assert_eq!(labelled("web"), "2026.11.25-2");
    assert_eq!(labelled("web"), "2026.11.25-3");
    assert_eq!(place.find("web@2026.11.25-2").number, 2);
}

#[test]
fn an_image_cannot_take_the_place_of_anothers_version() {
    let place = Place::new();
    place.built("web");
    let error = place.reserve("web-1", Path::new("/x")).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Usage);
    assert!(
        error
            .to_string()
            .contains("web-1.qcow2 is the image of web@1"),
        "{error}"
    );
}

#[test]
fn a_version_cannot_take_the_place_of_the_link_of_an_image_that_is_being_built() {
    let place = Place::new();
    let _alive = place.alive();
    let link = place.reserve("web-1", Path::new("/x")).unwrap().link;
    let reserved = place.reserve("web", Path::new("/x")).unwrap();
    assert_eq!(reserved.number, 2);
    assert_ne!(reserved.path, link);
    // Nor the other way round, also while nothing is there yet.
    let error = place.reserve("web-2", Path::new("/x")).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Usage);
}

#[test]
fn the_link_never_replaces_a_version() {
    let place = Place::new();
    let version = place.built("web");
    let other = place.path("web-1-1.qcow2");
    let error = place.registry().link(&version.path, &other).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("web-1.qcow2 is the image of web@1"),
        "{error}"
    );
    place.assert_agrees();
}

#[test]
fn a_number_is_looked_for_when_nobody_else_can_take_one() {
    let place = Place::new();
    place.built("other");
    let registry = place.registry();
    registry.db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (tell, thread) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let reserving = scope.spawn(|| {
            let mut registry = place.registry();
            tell.send(std::fs::read_link("/proc/thread-self").unwrap())
                .unwrap();
            place
                .claim(&mut registry, "web", Path::new("/x"))
                .unwrap()
                .number
        });
        // It waits for the lock: SQLite sleeps between attempts.
        let state = Path::new("/proc")
            .join(thread.recv().unwrap())
            .join("wchan");
        while !std::fs::read_to_string(&state)
            .unwrap()
            .contains("nanosleep")
        {
            std::thread::yield_now();
        }
        std::fs::write(place.path("web-1.raw"), "").unwrap();
        registry.db.execute_batch("ROLLBACK").unwrap();
        assert_eq!(reserving.join().unwrap(), 2);
    });
}

#[test]
fn a_folder_cannot_be_made_a_link() {
    let place = Place::new();
    std::fs::create_dir(place.path("web.qcow2")).unwrap();
    let error = place.reserve("web", Path::new("/x")).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Usage);
    assert!(
        error.to_string().contains("web.qcow2 is a folder"),
        "{error}"
    );
}

#[test]
fn what_a_dead_build_has_finished_is_there_and_what_not_is_not() {
    let place = Place::new();
    place.built("web");
    let finished = place.reserve("web", Path::new("/x")).unwrap();
    place.files(&finished);
    assert_eq!(
        place.find("web").number,
        2,
        "all but the registry's word was there"
    );
    assert_eq!(artifact::current(&finished.link), finished.path);
    place.assert_agrees();

    let begun = place.reserve("web", Path::new("/x")).unwrap();
    place.files(&begun);
    // Killed when the record had its name, and the image not yet.
    std::fs::remove_file(&begun.path).unwrap();
    assert_eq!(place.names(), ["web@1", "web@2"]);
    place.assert_agrees();
}

#[test]
fn a_build_that_lives_is_left_alone() {
    let place = Place::new();
    let alive = place.alive();
    let reserved = place.reserve("web", Path::new("/x")).unwrap();
    place.files(&reserved);
    assert_eq!(
        place.registry().list(None).unwrap()[0].state,
        State::Building
    );
    assert!(reserved.path.exists());
    drop(alive);
    assert_eq!(place.find("web").number, 1);
}

#[test]
fn a_version_knows_what_it_is_built_on_and_whether_that_is_outdated() {
    let place = Place::new();
    let base = place.built("base");
    place
        .registry()
        .promote(&reference("base"), "stable")
        .unwrap();
    let child = place.built_on("child", &base.path);
    assert_eq!(child.parent.as_deref(), Some("base@1"));
    let version = place.find("child");
    assert_eq!(version.parent.as_deref(), Some("base@1"));
    assert_eq!(place.registry().newer_parent(&version).unwrap(), None);
    place.built("base");
    assert_eq!(
        place.registry().newer_parent(&version).unwrap(),
        None,
        "not promoted"
    );
    place
        .registry()
        .promote(&reference("base"), "stable")
        .unwrap();
    let newer = place.registry().newer_parent(&version).unwrap().unwrap();
    assert_eq!(newer.name(), "base@2");
}
