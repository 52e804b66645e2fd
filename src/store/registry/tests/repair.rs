//! Files that cannot be used, and making one anew.

use super::*;
use crate::error::Kind;
use crate::store::registry::rebuild::keep_old;

fn refused(place: &Place) -> Error {
    let Err(error) = Registry::open(&place.dirs) else {
        panic!("it was opened");
    };
    error
}

#[test]
fn a_damaged_file_is_refused_with_what_to_do() {
    let place = Place::new();
    place.built("web");
    std::fs::write(
        place.dirs.registry(),
        "this is no database, but long enough",
    )
    .unwrap();
    let error = refused(&place);
    assert!(
        error.get_hint().unwrap().contains("registry rebuild"),
        "{error:?}"
    );
    Registry::check(&place.dirs).unwrap_err();
}

#[test]
fn an_empty_file_is_a_damaged_registry_and_no_new_one() {
    let place = Place::new();
    place.built("web");
    std::fs::write(place.dirs.registry(), "").unwrap();
    let error = refused(&place);
    assert!(
        error.get_hint().unwrap().contains("registry rebuild"),
        "{error:?}"
    );
    rebuild(&place.dirs, &[place.path("")]).unwrap();
    assert_eq!(place.names(), ["web@1"]);
}

#[test]
fn damage_that_opening_does_not_see_is_found_by_the_check() {
    let place = Place::new();
    for _ in 0..200 {
        place.built("web");
    }
    // All is in the one file, and nothing of it is read from elsewhere.
    let registry = place.registry();
    registry
        .db
        .pragma_update(None, "wal_checkpoint", "truncate")
        .unwrap();
    drop(registry);
    let path = place.dirs.registry();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 3 * 4096;
    bytes[at..at + 4096].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    let error = Registry::check(&place.dirs).unwrap_err();
    assert!(
        error.get_hint().unwrap().contains("registry rebuild"),
        "{error:?}"
    );
}

#[test]
fn a_file_of_a_newer_imgbuild_is_refused_and_stays() {
    let place = Place::new();
    place.built("web");
    let registry = place.registry();
    registry
        .db
        .pragma_update(None, "user_version", 1000)
        .unwrap();
    drop(registry);
    let error = refused(&place);
    assert!(
        error.to_string().contains("a newer imgbuild has made it"),
        "{error}"
    );
    assert!(error.get_hint().unwrap().contains("use the newer imgbuild"));
}

#[test]
fn the_registry_comes_back_from_the_records() {
    let place = Place::new();
    let base = place.built("base");
    place.built_on("web", &base.path);
    place.built("web");
    let before = place.registry().list(None).unwrap();
    std::fs::write(place.dirs.registry(), "damaged").unwrap();
    // Records that are of no version: an older imgbuild's, one without its image.
    let old = crate::record::path(&place.path("old.qcow2"));
    std::fs::write(&old, "{}").unwrap();
    let rebuilt = rebuild(&place.dirs, &[place.path("")]).unwrap();
    assert_eq!((rebuilt.versions, rebuilt.left_out.len()), (3, 1));
    assert_eq!(std::fs::read(rebuilt.old.unwrap()).unwrap(), b"damaged");
    std::fs::remove_file(old).unwrap();
    let known = |versions: &[Version]| -> Vec<_> {
        let known = versions.iter().map(|version| {
            (
                version.name(),
                version.path.clone(),
                version.link.clone(),
                version.sha256.clone(),
                version.size,
                version.parent.clone(),
            )
        });
        known.collect()
    };
    assert_eq!(known(&place.registry().list(None).unwrap()), known(&before));
    place.assert_agrees();
    assert_eq!(place.built("web").number, 3);
}

#[test]
fn there_is_a_registry_at_every_moment_while_it_is_made_anew() {
    let place = Place::new();
    place.built("web");
    let killed = Place::new();
    // As a process that was killed leaves it: most is in the log.
    let mut registry = place.registry();
    registry.promote(&reference("web"), "stable").unwrap();
    let (from, to) = (place.dirs.registry(), killed.dirs.registry());
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    for end in ["", "-wal"] {
        let with = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        std::fs::copy(with(&from), with(&to)).unwrap();
    }
    assert_ne!(
        std::fs::metadata(to.with_extension("db-wal"))
            .unwrap()
            .len(),
        0
    );
    drop(registry);

    let old = keep_old(&to).unwrap().unwrap();
    // Killed here.
    assert!(std::fs::read(old).unwrap() == std::fs::read(&to).unwrap());
    assert_eq!(killed.find("web@stable").number, 1, "all is in the file");
}

#[test]
fn nobody_rebuilds_what_somebody_uses() {
    let place = Place::new();
    let open = place.registry();
    let error = rebuild(&place.dirs, &[]).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Conflict);
    drop(open);
    rebuild(&place.dirs, &[]).unwrap();
    assert_eq!(place.names(), Vec::<String>::new());
}

#[test]
fn what_is_gone_from_the_disk_is_told() {
    let place = Place::new();
    let version = place.built("web");
    std::fs::remove_file(&version.path).unwrap();
    let checked = Registry::check(&place.dirs).unwrap().unwrap();
    assert_eq!(checked.versions, 1);
    assert!(
        checked.wrong[0].contains("imgbuild template rm web@1"),
        "{checked:?}"
    );
    let error = place
        .registry()
        .promote(&reference("web"), "stable")
        .unwrap_err();
    assert_eq!(error.get_kind(), Kind::Operation);
    place.registry().remove(&reference("web")).unwrap();
    place.assert_agrees();
}

#[test]
fn many_processes_at_once_get_a_number_each() {
    let place = Place::new();
    let reserve = || {
        for _ in 0..10 {
            place.reserve("web", Path::new("/x")).unwrap();
        }
    };
    let _alive = place.alive();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(reserve);
        }
    });
    let versions = place.registry().list(None).unwrap();
    let numbers: Vec<u32> = versions.iter().map(|version| version.number).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
}
