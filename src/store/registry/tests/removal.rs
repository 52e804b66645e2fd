//! What goes, what stays, and how it goes.

use super::*;
use crate::error::Kind;
use crate::store::registry::removal::condemn;

fn names(versions: &[Version]) -> Vec<String> {
    versions.iter().map(Version::name).collect()
}

/// What pruning does.
fn pruned(place: &Place, image: Option<&str>, keep: usize) -> Pruned {
    let mut registry = place.registry();
    let chosen = registry.prunable(image, keep).unwrap();
    registry.remove_all(chosen).unwrap()
}

/// A version whose removal was decided, and no more.
fn condemned(place: &Place, name: &str) -> Version {
    let mut registry = place.registry();
    let version = registry.find(&reference(name)).unwrap();
    let tx = registry.begin().unwrap();
    condemn(&tx, &version).unwrap();
    tx.commit().unwrap();
    version
}

/// A process that has a file open, until it is dropped.
struct Holder(std::process::Child);

impl Holder {
    fn of(path: &Path) -> Self {
        let mut sleep = std::process::Command::new("sleep");
        let file = std::fs::File::open(path).unwrap();
        Holder(sleep.arg("1000").stdin(file).spawn().unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn pruning_leaves_the_newest_and_all_that_is_needed() {
    let place = Place::new();
    let mut versions = vec![];
    for _ in 0..6 {
        versions.push(place.built("web"));
    }
    place
        .registry()
        .promote(&reference("web@2"), "stable")
        .unwrap();
    place.built_on("child", &versions[2].path);
    place.built("child");
    let wanted = place.registry().prunable(None, 1).unwrap();
    assert_eq!(
        names(&wanted.removed),
        ["child@1", "web@1", "web@4", "web@5"]
    );
    assert_eq!(place.names().len(), 8, "nothing was done");
    let done = pruned(&place, Some("web"), 2);
    assert_eq!(names(&done.removed), ["web@1", "web@4"]);
    let needed: Vec<_> = done
        .needed
        .iter()
        .map(|(version, uses)| (version.name(), uses.clone()))
        .collect();
    let expected = [
        ("web@2".to_owned(), vec![Use::Channel("stable".into())]),
        ("web@3".to_owned(), vec![Use::Version("child@1".into())]),
    ];
    assert_eq!(needed, expected);
    assert!(!versions[0].path.exists() && versions[1].path.exists());
    place.assert_agrees();
    let unknown = place.registry().prunable(Some("wep"), 1).unwrap_err();
    assert_eq!(unknown.get_hint(), Some("did you mean `web`?"));
}

#[test]
fn what_a_process_has_open_stays() {
    let place = Place::new();
    let old = place.built("web");
    place.built("web");
    let holder = Holder::of(&old.path);
    let kept = pruned(&place, None, 1);
    let refused = place.registry().remove(&reference("web@1"));
    drop(holder);
    assert_eq!(kept.removed, []);
    assert!(matches!(&kept.needed[0].1[..], [Use::Open(who)] if who.starts_with("sleep")));
    assert_eq!(refused.unwrap_err().get_kind(), Kind::Conflict);
    assert_eq!(pruned(&place, None, 1).removed.len(), 1);
    place.assert_agrees();
}

#[test]
fn what_a_machine_that_is_not_running_needs_stays() {
    let mut place = Place::new();
    let libvirt = place.path("libvirt");
    std::fs::create_dir_all(libvirt.join("qemu")).unwrap();
    place.dirs.libvirt = vec![libvirt.clone()];
    let old = place.built("web");
    place.built("web");
    let path = old.path.display();
    let definition = format!(
        "<domain><name>db</name><devices><disk><source file='{path}'/></disk></devices></domain>"
    );
    let defined = libvirt.join("qemu/db.xml");
    std::fs::write(&defined, definition).unwrap();
    let kept = pruned(&place, None, 1);
    assert_eq!(kept.removed, []);
    assert_eq!(kept.needed[0].1, [Use::Machine("db".into())]);
    let refused = place.registry().remove(&reference("web@1")).unwrap_err();
    assert!(refused.to_string().contains("the machine db"), "{refused}");
    // One that was defined after its removal was decided.
    condemned(&place, "web@1");
    let state = place.registry().list(None).unwrap()[0].state;
    assert_eq!(state, State::Removing);
    assert!(old.path.exists());

    std::fs::write(&defined, "no definition").unwrap();
    let pruned = pruned(&place, None, 1);
    assert!(pruned.unseen[0].contains("db.xml"), "{:?}", pruned.unseen);
    assert!(!old.path.exists());
}

#[test]
fn what_is_opened_after_its_removal_was_decided_stays_until_it_is_closed() {
    let place = Place::new();
    let old = place.built("web");
    place.built("web");
    condemned(&place, "web@1");
    let holder = Holder::of(&old.path);
    let state = place.registry().list(None).unwrap()[0].state;
    let is_there = old.path.exists();
    drop(holder);
    assert_eq!((state, is_there), (State::Removing, true));
    assert_eq!(place.names(), ["web@2"]);
    place.assert_agrees();
}

#[test]
fn pruning_goes_on_after_what_cannot_be_removed_and_tells_both() {
    let place = Place::new();
    let first = place.built("web");
    place.built("web");
    place.built("web");
    std::fs::remove_file(&first.path).unwrap();
    std::fs::create_dir(&first.path).unwrap();
    let pruned = pruned(&place, None, 1);
    assert_eq!(names(&pruned.removed), ["web@2"]);
    let [(version, error)] = &pruned.left[..] else {
        panic!("{pruned:?}");
    };
    assert_eq!(version.name(), "web@1");
    assert!(error.to_string().contains("web-1.qcow2"), "{error}");
    std::fs::remove_dir(&first.path).unwrap();
    assert_eq!(place.names(), ["web@3"]);
    place.assert_agrees();
}

#[test]
fn what_is_promoted_after_it_was_chosen_stays() {
    let place = Place::new();
    for _ in 0..3 {
        place.built("web");
    }
    let mut registry = place.registry();
    let chosen = registry.prunable(None, 1).unwrap();
    registry.promote(&reference("web@1"), "stable").unwrap();
    let done = registry.remove_all(chosen).unwrap();
    assert_eq!(names(&done.removed), ["web@2"]);
    assert_eq!(done.needed[0].1, [Use::Channel("stable".into())]);
    place.assert_agrees();
}

#[test]
fn removing_the_newest_leaves_the_link_on_the_one_before_or_takes_it_along() {
    let place = Place::new();
    let first = place.built("web");
    place.built("web");
    place.registry().remove(&reference("web")).unwrap();
    assert_eq!(artifact::current(&first.link), first.path);
    place.assert_agrees();
    place.registry().remove(&reference("web")).unwrap();
    assert!(!first.link.is_symlink());
    place.assert_agrees();
    assert_eq!(place.built("web").number, 3, "numbers are not used again");
}

#[test]
fn what_is_needed_is_not_removed() {
    let place = Place::new();
    let base = place.built("base");
    // One that is only being built counts as well.
    let alive = place.alive();
    place.reserve("child", &base.path).unwrap();
    let refused = place.registry().remove(&reference("base")).unwrap_err();
    assert_eq!(refused.get_kind(), Kind::Conflict);
    assert!(
        refused.to_string().contains("child@1 is built on it"),
        "{refused}"
    );
    drop(alive);
    place.registry().remove(&reference("base")).unwrap();
    place.assert_agrees();
}

#[test]
fn a_removal_that_was_cut_off_is_finished_by_the_next_command() {
    let place = Place::new();
    let version = place.built("web");
    place.built("web");
    for cut in [0, 1, 2] {
        let condemned = condemned(&place, "web");
        // So much was done before the kill.
        for path in artifact::files(&condemned.path).into_iter().take(cut) {
            let _ = std::fs::remove_file(path);
        }
        assert!(place.registry().at(&condemned.path).unwrap().is_none());
        place.assert_agrees();
        place.built("web");
    }
    assert!(version.path.exists());
}
