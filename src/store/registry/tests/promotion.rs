//! Channels and revocations.

use super::*;
use crate::error::Kind;

fn stable(place: &Place) -> String {
    place.find("web@stable").name()
}

fn promote(place: &Place, name: &str) -> Promoted {
    place
        .registry()
        .promote(&reference(name), "stable")
        .unwrap()
}

fn roll_back(place: &Place) -> Result<RolledBack> {
    place.registry().roll_back("web", "stable", None)
}

fn revoke(place: &Place, name: &str, descendants: bool) -> Vec<String> {
    let named = reference(name);
    let scope = Scope {
        reference: &named,
        since: None,
        descendants,
    };
    let revoked = place.registry().revoke(&scope, "leaks a key").unwrap();
    revoked.iter().map(Version::name).collect()
}

#[test]
fn a_channel_points_to_what_was_promoted_last_and_goes_back_step_by_step() {
    let place = Place::new();
    for _ in 0..3 {
        place.built("web");
    }
    assert_eq!(promote(&place, "web@1").previous, None);
    assert_eq!(promote(&place, "web@2").previous, Some(1));
    assert!(promote(&place, "web@2").same);
    promote(&place, "web@3");
    assert_eq!(stable(&place), "web@3");
    assert_eq!(roll_back(&place).unwrap().version.number, 2);
    assert_eq!(roll_back(&place).unwrap().version.number, 1);
    assert_eq!(stable(&place), "web@1");
    assert_eq!(roll_back(&place).unwrap_err().get_kind(), Kind::Usage);
    // Forward again from there: what was left behind is no way back.
    promote(&place, "web@3");
    assert_eq!(roll_back(&place).unwrap().version.number, 1);
}

#[test]
fn a_channel_can_be_removed_and_begins_anew_when_it_is_made_again() {
    let place = Place::new();
    for _ in 0..2 {
        place.built("web");
    }
    promote(&place, "web@1");
    promote(&place, "web@2");
    let removed = place.registry().unpromote("web", "stable").unwrap();
    assert_eq!(removed.number, 2);
    let again = place.registry().unpromote("web", "stable");
    assert_eq!(again.unwrap_err().get_kind(), Kind::Usage);
    place.registry().remove(&reference("web@2")).unwrap();
    assert_eq!(promote(&place, "web@1").previous, None);
    assert_eq!(roll_back(&place).unwrap_err().get_kind(), Kind::Usage);
}

#[test]
fn going_back_to_a_version_needs_it_to_have_been_there() {
    let place = Place::new();
    for _ in 0..4 {
        place.built("web");
    }
    for name in ["web@1", "web@2", "web@3"] {
        promote(&place, name);
    }
    let to = |number| {
        let wanted = Wanted::Number(number);
        place.registry().roll_back("web", "stable", Some(&wanted))
    };
    let refused = |number| {
        let error = to(number).unwrap_err();
        (error.get_kind(), error.to_string())
    };
    let (kind, said) = refused(4);
    assert_eq!(kind, Kind::Usage);
    assert!(
        said.contains("it has not pointed to web@4 before"),
        "{said}"
    );
    let (kind, said) = refused(3);
    assert_eq!(kind, Kind::Usage);
    assert!(said.contains("it points to web@3 already"), "{said}");
    revoke(&place, "web@2", false);
    let (kind, said) = refused(2);
    assert_eq!(kind, Kind::Verification);
    assert!(said.contains("leaks a key"), "{said}");
    assert_eq!(to(1).unwrap().version.number, 1);
    assert_eq!(stable(&place), "web@1");
}

#[test]
fn going_back_passes_over_what_cannot_be_used() {
    let place = Place::new();
    for _ in 0..4 {
        place.built("web");
        promote(&place, "web");
    }
    revoke(&place, "web@3", false);
    place.registry().remove(&reference("web@2")).unwrap();
    let back = roll_back(&place).unwrap();
    assert_eq!((back.version.number, back.skipped.len()), (1, 2));
}

#[test]
fn what_is_revoked_is_neither_promoted_nor_built_on_until_it_is_restored() {
    let place = Place::new();
    let base = place.built("web");
    assert_eq!(revoke(&place, "web@1", false), ["web@1"]);
    assert_eq!(revoke(&place, "web@1", false), Vec::<String>::new());
    let refused = place
        .registry()
        .promote(&reference("web"), "stable")
        .unwrap_err();
    assert_eq!(refused.get_kind(), Kind::Verification);
    assert!(refused.to_string().contains("leaks a key"), "{refused}");
    let refused = place.reserve("child", &base.path).unwrap_err();
    assert_eq!(refused.get_kind(), Kind::Verification);
    let registry = place.registry();
    let copied = Path::new("/a/copy");
    registry
        .refuse_revoked(copied, "sha256 of web@1")
        .unwrap_err();
    registry.refuse_revoked(copied, "another").unwrap();
    drop(registry);

    let named = reference("web@1");
    let scope = Scope {
        reference: &named,
        since: None,
        descendants: false,
    };
    assert_eq!(place.registry().restore(&scope).unwrap().len(), 1);
    promote(&place, "web@1");
    place.reserve("child", &base.path).unwrap();
}

#[test]
fn revoking_reaches_what_is_built_on_it_and_what_was_built_since() {
    let place = Place::new();
    let base = place.built("base");
    let middle = place.built_on("middle", &base.path);
    place.built_on("leaf", &middle.path);
    place.built("base");
    assert_eq!(
        revoke(&place, "base@1", true),
        ["base@1", "middle@1", "leaf@1"]
    );
    let named = reference("base");
    let scope = |since: Timestamp| Scope {
        reference: &named,
        since: Some(since),
        descendants: false,
    };
    let late = Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let none = place.registry().revoke(&scope(late), "x").unwrap_err();
    assert_eq!(none.get_kind(), Kind::Usage);
    let all = place
        .registry()
        .restore(&scope(Timestamp::UNIX_EPOCH))
        .unwrap();
    assert_eq!(all.len(), 1, "base@2 was not revoked");
    assert!(place.find("leaf").revoked.is_some());
}

#[test]
fn revoking_reaches_what_is_being_built_and_publishing_keeps_that() {
    let place = Place::new();
    let base = place.built("base");
    let _alive = place.alive();
    let middle = place.reserve("middle", &base.path).unwrap();
    let next = place.reserve("base", Path::new("/x")).unwrap();
    assert_eq!(revoke(&place, "base@1", true), ["base@1", "middle@1"]);
    let named = reference("base");
    let all = Scope {
        reference: &named,
        since: Some(Timestamp::UNIX_EPOCH),
        descendants: false,
    };
    let revoked = place.registry().revoke(&all, "since then").unwrap();
    assert_eq!(revoked.len(), 1, "{revoked:?}");
    for (reserved, reason) in [(middle, "leaks a key"), (next, "since then")] {
        let (sha256, size) = place.files(&reserved);
        let mut registry = place.registry();
        let published = registry.publish(&reserved, &sha256, size).unwrap();
        assert_eq!(published.state, State::Ready);
        let said = published.revocation().unwrap();
        assert!(said.ends_with(reason), "{said}");
    }
}

#[test]
fn the_history_tells_all_of_it_also_of_what_is_gone() {
    let place = Place::new();
    place.built("web");
    place.built("web");
    promote(&place, "web@1");
    promote(&place, "web@2");
    roll_back(&place).unwrap();
    revoke(&place, "web@2", false);
    place.registry().remove(&reference("web@2")).unwrap();
    let history = place.registry().history(Some("web")).unwrap();
    let told: Vec<_> = history
        .iter()
        .map(|event| (event.action.name(), event.number, event.previous))
        .collect();
    assert_eq!(
        told,
        [
            ("built", 1, None),
            ("built", 2, None),
            ("promoted", 1, None),
            ("promoted", 2, Some(1)),
            ("rolled-back", 1, Some(2)),
            ("revoked", 2, None),
            ("removed", 2, None),
        ]
    );
    assert_eq!(history[5].reason.as_deref(), Some("leaks a key"));
    assert!(history.iter().all(|event| !event.who.is_empty()));
    assert_eq!(place.registry().history(Some("other")).unwrap(), []);
}
