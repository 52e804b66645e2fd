//! What the registry says, by the real binary.

use std::path::PathBuf;

use serde_json::Value;

use super::Lab;

/// The endings of what may lie beside an image.
const BESIDE: &[&str] = &[
    ".provenance.json",
    ".dsse.json",
    ".sigstore.json",
    ".sbom.cdx.json",
    ".sbom.spdx.json",
];

/// The result of a command, as JSON.
pub fn json(lab: &Lab, arguments: &[&str]) -> Value {
    let all = [arguments, &["--format", "json"]].concat();
    let said = lab.imgbuild(&all).with_code(0).stdout;
    serde_json::from_str(said.lines().last().unwrap()).unwrap()
}

/// The names of all versions, with their channels.
pub fn list(lab: &Lab) -> Vec<String> {
    let versions = json(lab, &["template", "list"])["versions"].clone();
    let line = |version: &Value| {
        let channels = version["channels"].as_array().unwrap().iter();
        let channels = channels.map(|channel| format!(" {}", channel.as_str().unwrap()));
        let name = version["name"].as_str().unwrap();
        format!("{name}{}", channels.collect::<String>())
    };
    versions.as_array().unwrap().iter().map(line).collect()
}

/// That the registry opens, that it and the disk agree, and that `doctor` is content with it.
#[track_caller]
pub fn assert_agrees(lab: &Lab) {
    let doctor = json(lab, &["doctor"]);
    let findings = doctor["findings"].as_array().unwrap();
    let registry = findings
        .iter()
        .find(|finding| finding["what"] == "registry");
    assert_eq!(registry.unwrap()["state"], "ok", "{registry:?}");
    assert_same_on_disk(lab);
}

/// That what is listed is what lies in `out`, that nothing else does, and that links point to the newest.
#[track_caller]
pub fn assert_same_on_disk(lab: &Lab) {
    let versions = json(lab, &["template", "list"])["versions"].clone();
    let mut known = vec![];
    let mut links = std::collections::BTreeMap::new();
    for version in versions.as_array().unwrap() {
        assert_eq!(version["state"], "ready", "{version}");
        assert_eq!(version["there"], true, "{version}");
        let path = PathBuf::from(version["path"].as_str().unwrap());
        known.push(PathBuf::from(format!("{}.build.json", path.display())));
        let image = version["image"].as_str().unwrap();
        // In the order of numbers.
        links.insert(lab.link(image), path.clone());
        known.push(path);
    }
    known.sort();
    let there = std::fs::read_dir(lab.path("out")).into_iter().flatten();
    let there = there.map(|entry| entry.unwrap().path());
    let (there_links, mut there): (Vec<_>, Vec<_>) = there.partition(|path| path.is_symlink());
    // What else is said of a version goes with its image.
    there.retain(|path| {
        let beside = BESIDE
            .iter()
            .find_map(|end| path.to_str().unwrap().strip_suffix(end));
        !beside.is_some_and(|name| known.contains(&PathBuf::from(format!("{name}.qcow2"))))
    });
    there.sort();
    assert_eq!(there, known);
    for link in there_links {
        let target = link.with_file_name(std::fs::read_link(&link).unwrap());
        assert_eq!(links.remove(&link), Some(target), "{}", link.display());
    }
    assert!(links.is_empty(), "no links: {links:?}");
}
