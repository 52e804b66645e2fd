//! The file that has the history once more, and what comes back from it.

use std::io::Write;

use super::*;
use crate::store::registry::history::record;
use crate::store::registry::journal;
use crate::store::registry::schema::MIGRATIONS;

fn promote(place: &Place, version: &str) {
    let promoted = place.registry().promote(&reference(version), "stable");
    promoted.unwrap();
}

fn roll_back(place: &Place) -> u32 {
    let back = place.registry().roll_back("web", "stable", None);
    back.unwrap().version.number
}

fn revoke(place: &Place, version: &str, descendants: bool) {
    let scope = Scope {
        reference: &reference(version),
        since: None,
        descendants,
    };
    place.registry().revoke(&scope, "it leaks").unwrap();
}

/// Loses the registry, and makes it anew.
fn rebuilt(place: &Place) -> Rebuilt {
    std::fs::write(place.dirs.registry(), "damaged").unwrap();
    rebuild(&place.dirs, &[place.path("")]).unwrap()
}

/// The events that the file has.
fn written(place: &Place) -> Vec<Event> {
    journal::read(&place.dirs.history())
        .unwrap()
        .unwrap()
        .events
}

#[test]
fn channels_revocations_and_the_history_come_back() {
    let place = Place::new();
    for _ in 0..5 {
        place.built("web");
    }
    for version in ["web@1", "web@2", "web@3", "web@4"] {
        promote(&place, version);
    }
    assert_eq!(roll_back(&place), 3);
    assert_eq!(roll_back(&place), 2);
    promote(&place, "web@5");
    let beta = place.registry().promote(&reference("web@5"), "beta");
    beta.unwrap();
    place.registry().unpromote("web", "beta").unwrap();
    revoke(&place, "web@3", false);
    revoke(&place, "web@4", false);
    let restored = Scope {
        reference: &reference("web@3"),
        since: None,
        descendants: false,
    };
    place.registry().restore(&restored).unwrap();
    place.registry().remove(&reference("web@1")).unwrap();
    let before = (place.registry().list(None), place.registry().history(None));
    let before = (before.0.unwrap(), before.1.unwrap());

    let told = rebuilt(&place);
    assert_eq!((told.versions, told.channels, told.revoked), (4, 1, 1));
    assert_eq!(told.left_out, Vec::<String>::new());
    let known = |versions: &[Version]| -> Vec<_> {
        let known = versions.iter();
        let known = known.map(|version| {
            (
                version.name(),
                version.channels.clone(),
                version.revocation(),
            )
        });
        known.collect()
    };
    assert_eq!(
        known(&place.registry().list(None).unwrap()),
        known(&before.0)
    );
    assert_eq!(place.registry().history(None).unwrap(), before.1);
    assert_eq!(written(&place), before.1);
    // The channel goes back along its own past: not to what it was promoted to before it went back.
    assert_eq!(roll_back(&place), 2);
    assert_eq!(written(&place).len(), before.1.len() + 1);
    place.assert_agrees();
}

#[test]
fn a_number_whose_version_is_gone_is_not_used_again_after_that() {
    let place = Place::new();
    place.built("web");
    place.built("web");
    place.registry().remove(&reference("web@2")).unwrap();
    rebuilt(&place);
    assert_eq!(place.built("web").number, 3);
}

#[test]
fn what_was_cut_off_is_written_by_the_next_command() {
    let place = Place::new();
    let version = place.built("web");
    // Killed after the transaction.
    let registry = place.registry();
    record(&registry.db, &Event::new(Action::Revoked, "web", 1)).unwrap();
    drop(registry);
    assert_eq!(written(&place).len(), 1);
    place.registry();
    assert_eq!(written(&place).len(), 2);
    // Killed in the middle of a line, and before it was known that others are there.
    let line = std::fs::read_to_string(place.dirs.history()).unwrap();
    let line = line.lines().last().unwrap().to_owned();
    let file = std::fs::File::options()
        .append(true)
        .open(place.dirs.history());
    write!(file.unwrap(), "{line}\n{}", &line[..10]).unwrap();
    promote(&place, "web@1");
    let told = journal::read(&place.dirs.history()).unwrap().unwrap();
    let actions: Vec<Action> = told.events.iter().map(|event| event.action).collect();
    assert_eq!(actions, [Action::Built, Action::Revoked, Action::Promoted]);
    assert_eq!(told.unread, 1);
    let told = rebuilt(&place);
    assert!(told.left_out[0].contains("1 lines"), "{told:?}");
    assert!(version.path.exists());
}

#[test]
fn each_event_is_there_once_however_many_write() {
    let place = Place::new();
    for _ in 0..4 {
        place.built("web");
    }
    std::thread::scope(|scope| {
        for number in 1..=4 {
            let (place, channel) = (&place, format!("channel-{number}"));
            scope.spawn(move || {
                for version in ["web@1", "web@2", "web@3", "web@4"] {
                    let reference = reference(version);
                    place.registry().promote(&reference, &channel).unwrap();
                }
            });
        }
    });
    let text = std::fs::read_to_string(place.dirs.history()).unwrap();
    assert_eq!(text.lines().count(), 4 + 16);
    assert_eq!(written(&place), place.registry().history(None).unwrap());
}

#[test]
fn what_was_done_before_there_was_the_file_is_in_it() {
    let place = Place::new();
    std::fs::create_dir_all(&place.dirs.state).unwrap();
    let old = Connection::open(place.dirs.registry()).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    record(&old, &Event::new(Action::Promoted, "web", 1)).unwrap();
    old.close().unwrap();
    assert_eq!(place.registry().history(None).unwrap(), written(&place));
    assert_eq!(written(&place).len(), 1);
}

#[test]
fn what_does_not_come_back_is_told() {
    let place = Place::new();
    let version = place.built("web");
    promote(&place, "web@1");
    let record = crate::record::path(&version.path);
    let aside = place.path("aside");
    std::fs::rename(&record, &aside).unwrap();
    let told = rebuilt(&place);
    assert_eq!((told.versions, told.channels), (0, 0));
    assert!(told.left_out[0].starts_with("web@stable: "), "{told:?}");
    // It does when the version is there again.
    std::fs::rename(&aside, &record).unwrap();
    assert_eq!(rebuilt(&place).channels, 1);
    assert_eq!(place.find("web@stable").number, 1);

    std::fs::remove_file(place.dirs.history()).unwrap();
    let told = rebuilt(&place);
    assert_eq!((told.versions, told.channels), (1, 0));
    assert!(
        told.left_out[0].contains("history.jsonl is not there"),
        "{told:?}"
    );
}
