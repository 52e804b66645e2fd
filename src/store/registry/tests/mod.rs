mod history;
mod lifetime;
mod promotion;
mod removal;
mod repair;

use std::path::{Path, PathBuf};

use super::*;
use crate::store::artifact;

/// A registry's home, and a folder where images are.
pub(super) struct Place {
    folder: tempfile::TempDir,
    pub dirs: Dirs,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dirs = Dirs::under(&folder.path().join("home"));
        Place { folder, dirs }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn registry(&self) -> Registry {
        let registry = Registry::open(&self.dirs).unwrap();
        assert!(registry.unfinished.is_empty(), "{:?}", registry.unfinished);
        registry
    }

    pub fn reserve(&self, image: &str, base: &Path) -> Result<Reserved> {
        self.claim(&mut self.registry(), image, base)
    }

    fn claim(&self, registry: &mut Registry, image: &str, base: &Path) -> Result<Reserved> {
        registry.reserve(&Claim {
            image,
            label: None,
            build: "b",
            link: &self.path(&format!("{image}.qcow2")),
            base,
            base_sha256: "",
            asked: None,
        })
    }

    /// What says that the builds of this place live.
    pub fn alive(&self) -> Lock {
        let folder = self.dirs.builds().join("b");
        std::fs::create_dir_all(&folder).unwrap();
        Lock::try_acquire(&folder.join("lock")).unwrap().unwrap()
    }

    /// A file and its record at the place of a reserved version.
    pub fn files(&self, reserved: &Reserved) -> (String, u64) {
        let name = format!("{}@{}", reserved.image, reserved.number);
        std::fs::write(&reserved.path, &name).unwrap();
        let sha256 = format!("sha256 of {name}");
        let record = serde_json::json!({
            "image": {"name": reserved.image, "version": reserved.number, "label": reserved.label},
            "build": {"id": "b", "started": "2026-11-25T08:00:00Z",
                "finished": format!("2026-11-25T08:00:{:02}Z", reserved.number)},
            "source": {"origin": "o", "sha256": "s", "version": reserved.parent},
            "steps": [],
            "artifact": {"format": "qcow2", "size": name.len(), "sha256": sha256},
        });
        std::fs::write(crate::record::path(&reserved.path), record.to_string()).unwrap();
        (sha256, name.len() as u64)
    }

    /// A version as a build leaves it.
    pub fn built_on(&self, image: &str, base: &Path) -> Reserved {
        let mut registry = self.registry();
        let reserved = self.claim(&mut registry, image, base).unwrap();
        let (sha256, size) = self.files(&reserved);
        registry.link(&reserved.link, &reserved.path).unwrap();
        registry.publish(&reserved, &sha256, size).unwrap();
        reserved
    }

    pub fn built(&self, image: &str) -> Reserved {
        self.built_on(image, Path::new("/elsewhere"))
    }

    pub fn find(&self, name: &str) -> Version {
        self.registry().find(&reference(name)).unwrap()
    }

    pub fn names(&self) -> Vec<String> {
        let versions = self.registry().list(None).unwrap();
        versions.iter().map(Version::name).collect()
    }

    /// That registry and disk say the same.
    #[track_caller]
    pub fn assert_agrees(&self) {
        let checked = Registry::check(&self.dirs).unwrap().unwrap();
        assert_eq!(checked.wrong, Vec::<String>::new());
        let mut known: Vec<PathBuf> = vec![];
        for version in self.registry().list(None).unwrap() {
            assert_eq!(version.state, State::Ready, "{}", version.name());
            known.extend([crate::record::path(&version.path), version.path]);
            known.push(version.link);
        }
        known.sort();
        known.dedup();
        let mut there: Vec<PathBuf> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| !path.is_dir())
            .collect();
        there.sort();
        assert_eq!(there, known);
    }
}

pub(super) fn reference(name: &str) -> Reference {
    name.parse().unwrap()
}
