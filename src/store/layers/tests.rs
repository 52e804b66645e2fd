use super::*;

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

struct Lab {
    _home: tempfile::TempDir,
    layers: Layers,
}

impl Lab {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        Lab {
            layers: Layers::new(&Dirs::under(home.path())),
            _home: home,
        }
    }

    /// A layer of `size` that was used `days` ago.
    fn layer(&self, id: &str, parent: Option<&str>, size: u64, days: u32) -> Held {
        let draft = self.layers.draft(id.into());
        draft.create().unwrap();
        std::fs::write(draft.file(files::DISK), id).unwrap();
        let (facts, _) = draft.facts().unwrap();
        let manifest = Manifest {
            key: format!("key of {id}"),
            parent: parent.map(str::to_owned),
            root: "root".into(),
            base: "/base".into(),
            image: "x".into(),
            name: id.into(),
            inputs: BTreeMap::new(),
            parent_key: None,
            created: Timestamp::now(),
            took: 1.0,
            recorded: BTreeMap::new(),
            files: facts,
            memory: None,
            size,
        };
        let held = self.layers.publish(&draft, &manifest).unwrap();
        let file = File::options()
            .write(true)
            .open(draft.file(MANIFEST))
            .unwrap();
        file.set_modified(SystemTime::now() - DAY * days).unwrap();
        held
    }

    fn ids(&self) -> Vec<String> {
        self.layers.list().unwrap().into_keys().collect()
    }
}

#[test]
fn the_layer_that_was_not_used_for_the_longest_time_goes_first_and_never_one_below_another() {
    let lab = Lab::new();
    drop(lab.layer("a", None, 10, 9));
    drop(lab.layer("a-1", Some("a"), 10, 1));
    drop(lab.layer("b", None, 10, 5));
    let evicted = lab.layers.evict(25).unwrap();
    assert_eq!(
        evicted,
        Evicted {
            layers: 1,
            size: 10
        }
    );
    assert_eq!(lab.ids(), ["a", "a-1"], "`a` is older, but `a-1` needs it");
    assert_eq!(
        lab.layers.evict(5).unwrap().layers,
        2,
        "then both, in order"
    );
    assert_eq!(lab.ids(), Vec::<String>::new());
}

#[test]
fn a_layer_in_use_stays_with_its_chain_whatever_the_limit() {
    let lab = Lab::new();
    drop(lab.layer("a", None, 10, 9));
    let _held = lab.layer("a-1", Some("a"), 10, 9);
    drop(lab.layer("a-2", Some("a"), 10, 1));
    assert_eq!(lab.layers.evict(0).unwrap().layers, 1);
    assert_eq!(lab.ids(), ["a", "a-1"]);
    assert!(lab.layers.hold("a-1").unwrap().is_some());
    assert!(lab.layers.hold("a-2").unwrap().is_none(), "it is gone");
}

#[test]
fn pruning_takes_what_lies_above_along() {
    let lab = Lab::new();
    drop(lab.layer("a", None, 10, 0));
    drop(lab.layer("a-1", Some("a"), 10, 0));
    drop(lab.layer("a-2", Some("a-1"), 10, 0));
    drop(lab.layer("orphan", Some("gone"), 10, 0));
    let pruned = lab.layers.prune(|layer| layer.id == "a-1").unwrap();
    assert_eq!(pruned.layers, 3);
    assert_eq!(lab.ids(), ["a"]);
}

#[test]
fn what_is_unused_goes_but_not_from_under_what_is_used() {
    let lab = Lab::new();
    drop(lab.layer("a", None, 10, 9));
    drop(lab.layer("a-1", Some("a"), 10, 1));
    drop(lab.layer("a-2", Some("a"), 10, 8));
    let old = |layer: &Layer| layer.used.elapsed().is_ok_and(|unused| unused > DAY * 5);
    assert_eq!(lab.layers.prune_unused(old).unwrap().layers, 1);
    assert_eq!(lab.ids(), ["a", "a-1"]);
}

#[test]
fn a_draft_is_no_layer_and_what_was_half_removed_is_removed() {
    let lab = Lab::new();
    lab.layers.draft("draft".into()).create().unwrap();
    std::fs::create_dir_all(lab.layers.folder.join(".removed-x/deep")).unwrap();
    assert_eq!(lab.ids(), Vec::<String>::new());
    assert_eq!(lab.layers.evict(0).unwrap(), Evicted::default());
    assert!(!lab.layers.folder.join(".removed-x").exists());
    assert!(
        lab.layers.folder.join("draft").exists(),
        "its build may be alive"
    );
}

#[test]
fn a_changed_file_is_noticed_a_touched_one_is_not_taken_for_changed() {
    let lab = Lab::new();
    drop(lab.layer("a", None, 10, 0));
    let layer = &lab.layers.list().unwrap()["a"];
    layer.check().unwrap();
    let disk = layer.file(files::DISK);
    std::fs::write(&disk, "a").unwrap();
    layer.check().unwrap();
    std::fs::write(&disk, "b").unwrap();
    layer.check().unwrap_err();
    std::fs::remove_file(&disk).unwrap();
    layer.check().unwrap_err();
}

#[test]
fn a_chain_without_its_beginning_is_an_error() {
    let lab = Lab::new();
    drop(lab.layer("a", None, 10, 0));
    drop(lab.layer("a-1", Some("a"), 10, 0));
    drop(lab.layer("c", Some("b"), 10, 0));
    let all = lab.layers.list().unwrap();
    let ids: Vec<&str> = chain(&all, &all["a-1"])
        .unwrap()
        .into_iter()
        .map(|layer| layer.id.as_str())
        .collect();
    assert_eq!(ids, ["a", "a-1"]);
    chain(&all, &all["c"]).unwrap_err();
}

#[test]
fn the_limit_is_remembered_and_nonsense_is_refused() {
    let lab = Lab::new();
    assert_eq!(lab.layers.limit().unwrap(), DEFAULT_LIMIT);
    lab.layers.set_limit(7).unwrap();
    assert_eq!(lab.layers.limit().unwrap(), 7);
    std::fs::write(lab.layers.folder.join(".limit"), "much").unwrap();
    lab.layers.limit().unwrap_err();
}
