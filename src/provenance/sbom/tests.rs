//! Guests as maps from paths to what is in their files.

use super::*;
use crate::error::Error;

#[derive(Default)]
pub(super) struct Guest(BTreeMap<String, Vec<u8>>);

impl Guest {
    pub fn with(mut self, path: &str, text: impl Into<Vec<u8>>) -> Self {
        self.0.insert(path.into(), text.into());
        self
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            let mut ends = (0..=name.len()).filter(|at| name.is_char_boundary(*at));
            ends.any(|at| matches(rest, &name[at..]))
        }),
    }
}

impl Tree for Guest {
    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        match self.0.get(path).map(Vec::as_slice) {
            Some(b"unreadable") => Err(Error::new(format!("reading {path}")).cause("damaged")),
            text => Ok(text.map(|text| text[..text.len().min(limit)].to_vec())),
        }
    }

    fn glob(&self, pattern: &str) -> Result<Vec<String>> {
        let depth = pattern.matches('/').count();
        let prefixes = self.0.keys().filter_map(|path| {
            let parts: Vec<&str> = path.split('/').collect();
            let prefix = parts.get(..=depth)?.join("/");
            let mut pairs = pattern.split('/').zip(prefix.split('/'));
            pairs
                .all(|(pattern, name)| matches(pattern, name))
                .then_some(prefix)
        });
        let set: std::collections::BTreeSet<String> = prefixes.collect();
        Ok(set.into_iter().collect())
    }

    fn modified(&self, path: &str) -> Result<Option<i64>> {
        Ok(self.0.get(path).map(|_| 1_700_000_000))
    }
}

const STATUS: &str = "Package: libssl3
Status: install ok installed
Architecture: amd64
Source: openssl (3.0.11-1)
Version: 3.0.11-1~deb12u2
Maintainer: Debian OpenSSL Team <x@example.org>
Description: a library
 with more about it
Conffiles:
 /etc/x 0123

Package: removed
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: not-there
Status: install ok not-installed
Architecture: all
Version: 1

Package: half-there
Status: install reinstreq half-installed
Architecture: all
Version: 1

Package: g++
Status: hold ok installed
Architecture: amd64
Version: 4:12.2.0-3+b1
";

pub(super) fn purls(inventory: &Inventory) -> Vec<&str> {
    inventory.packages.keys().map(String::as_str).collect()
}

fn debian() -> Guest {
    Guest::default()
        .with(
            "/etc/os-release",
            "NAME=x\nID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='Debian 12'\n",
        )
        .with("/var/lib/dpkg/status", STATUS)
}

#[test]
fn debians_packages_are_those_that_are_installed_if_only_half() {
    let inventory = Inventory::read(&debian());
    assert_eq!(
        purls(&inventory),
        [
            "pkg:deb/debian/g%2B%2B@4:12.2.0-3%2Bb1?arch=amd64&distro=debian-12",
            "pkg:deb/debian/half-there@1?arch=all&distro=debian-12",
            "pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64&distro=debian-12&upstream=openssl",
        ]
    );
    assert_eq!(inventory.unread, Vec::<String>::new());
    assert_eq!(inventory.os.unwrap().name, "Debian 12");
    assert_eq!(inventory.modified, 1_700_000_000);
}

#[test]
fn an_image_without_dpkg_has_its_list_in_pieces() {
    let guest = Guest::default().with(
        "/var/lib/dpkg/status.d/base",
        "Package: base-files\nVersion: 12\nArchitecture: all\n",
    );
    let inventory = Inventory::read(&guest);
    assert_eq!(purls(&inventory), ["pkg:deb/debian/base-files@12?arch=all"]);
}

#[test]
fn alpines_packages_are_listed() {
    let guest = Guest::default()
        .with("/etc/os-release", "ID=alpine\nVERSION_ID=3.20.1\n")
        .with(
            "/lib/apk/db/installed",
            "C:Q1abc=\nP:busybox\nV:1.36.1-r29\nA:x86_64\nL:GPL-2.0-only\no:busybox\n\nP:ssl_client\nV:1.36.1-r29\nA:x86_64\no:busybox\n",
        );
    let inventory = Inventory::read(&guest);
    assert_eq!(
        purls(&inventory),
        [
            "pkg:apk/alpine/busybox@1.36.1-r29?arch=x86_64&distro=alpine-3.20.1",
            "pkg:apk/alpine/ssl_client@1.36.1-r29?arch=x86_64&distro=alpine-3.20.1&upstream=busybox",
        ]
    );
}

#[test]
fn npms_packages_are_found_with_those_within_them() {
    let root = "/usr/local/lib/node_modules";
    let manifest =
        |name: &str| format!(r#"{{"name": "{name}", "version": "1.0.0", "license": "MIT"}}"#);
    let guest = Guest::default()
        .with(&format!("{root}/npm/package.json"), manifest("npm"))
        .with(
            &format!("{root}/npm/node_modules/semver/package.json"),
            manifest("semver"),
        )
        .with(
            &format!("{root}/@openai/codex/package.json"),
            manifest("@openai/codex"),
        )
        .with(&format!("{root}/.bin/x"), "")
        .with(&format!("{root}/broken/package.json"), "{");
    let inventory = Inventory::read(&guest);
    assert_eq!(
        purls(&inventory),
        [
            "pkg:npm/%40openai/codex@1.0.0",
            "pkg:npm/npm@1.0.0",
            "pkg:npm/semver@1.0.0"
        ]
    );
    assert_eq!(
        inventory.unread,
        [format!("{root}/broken/package.json: it names no package")]
    );
}

#[test]
fn pythons_packages_are_found_whoever_has_installed_them() {
    let metadata = |name: &str| {
        format!(
            "Metadata-Version: 2.1\nName: {name}\nVersion: 6.0+x\nLicense: UNKNOWN\n\nName: no\n"
        )
    };
    let guest = Guest::default()
        .with(
            "/usr/lib/python3/dist-packages/PyYAML-6.0.dist-info/METADATA",
            metadata("PyYAML"),
        )
        .with(
            "/usr/local/lib/python3.11/dist-packages/a_b-1.dist-info/METADATA",
            metadata("a_b"),
        )
        .with(
            "/usr/lib/python3.12/site-packages/old.egg-info/PKG-INFO",
            metadata("old"),
        );
    let inventory = Inventory::read(&guest);
    assert_eq!(
        purls(&inventory),
        [
            "pkg:pypi/a-b@6.0%2Bx",
            "pkg:pypi/old@6.0%2Bx",
            "pkg:pypi/pyyaml@6.0%2Bx"
        ]
    );
    assert!(
        inventory
            .packages
            .values()
            .all(|package| package.licence.is_none())
    );
}

#[test]
fn nix_store_paths_with_a_version_are_packages() {
    let hash = "0123456789abcdfghijklmnpqrsvwxyz";
    let guest = Guest::default()
        .with(&format!("/nix/store/{hash}-openssl-3.0.13/lib"), "")
        .with(&format!("/nix/store/{hash}-python3.11-pip-24.0"), "")
        .with(&format!("/nix/store/{hash}-etc"), "")
        .with(&format!("/nix/store/{hash}-hello-2.12.drv"), "");
    let inventory = Inventory::read(&guest);
    assert_eq!(
        purls(&inventory),
        [
            "pkg:generic/openssl@3.0.13",
            "pkg:generic/python3.11-pip@24.0"
        ]
    );
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_there() {
    let guest = debian()
        .with("/lib/apk/db/installed", "unreadable")
        .with("/var/lib/pacman/local/glibc-2/desc", "x");
    let inventory = Inventory::read(&guest);
    assert_eq!(inventory.packages.len(), 3);
    let unread = inventory.unread.join("\n");
    assert!(
        unread.contains("/lib/apk/db/installed: damaged"),
        "{unread}"
    );
    assert!(unread.contains("pacman"), "{unread}");
}

#[test]
fn a_list_of_a_guest_whose_packages_are_not_known_is_not_complete() {
    let python = "/usr/lib/python3/site-packages/a.dist-info/METADATA";
    for (guest, why) in [
        (Guest::default(), "no database"),
        (
            Guest::default().with(python, "Name: a\nVersion: 1\n"),
            "no database",
        ),
        (
            debian().with("/var/lib/pacman/local/glibc-2/desc", "x"),
            "pacman",
        ),
        (debian().with("/var/lib/rpm/Packages", "unreadable"), "rpm"),
        (debian().with("/var/lib/rpm/rpmdb.sqlite", "x"), "rpm"),
    ] {
        let unread = Inventory::read(&guest).unread;
        assert_eq!(unread.len(), 1, "{unread:?}");
        assert!(unread[0].contains(why), "{unread:?}");
    }
}

#[test]
fn more_packages_than_any_guest_has_are_not_read() {
    let mut status = String::new();
    for number in 0..MAX_PACKAGES + 2 {
        status += &format!("Package: p{number}\nStatus: install ok installed\nVersion: 1\n\n");
    }
    let guest = Guest::default().with("/var/lib/dpkg/status", status.as_str());
    let read = dpkg::read(&guest, &Inventory::default()).unwrap();
    assert_eq!(read.packages.len(), MAX_PACKAGES);
    assert_eq!(read.unread, [TOO_MANY]);
    let nameless = "Version: 1\n\n".repeat(MOST_UNREAD + 5);
    let guest = Guest::default().with("/lib/apk/db/installed", nameless);
    let read = apk::read(&guest, &Inventory::default()).unwrap();
    assert_eq!((read.unread.len(), read.more), (MOST_UNREAD, 5));
    let told = Inventory::read(&guest).unread;
    assert_eq!(told.last().unwrap(), "and 5 more");
}

#[test]
fn a_guest_that_lies_is_not_believed() {
    let long = "x".repeat(10_000);
    let status = format!(
        "Package: {long}\nStatus: install ok installed\nVersion: 1\n\nPackage: a\nStatus: install ok installed\nVersion: 1\x1b[31m\n"
    );
    let guest = Guest::default().with("/var/lib/dpkg/status", status).with(
        "/usr/lib/node_modules/large/package.json",
        " ".repeat(LARGEST_MANIFEST + 1),
    );
    let inventory = Inventory::read(&guest);
    assert_eq!(purls(&inventory), ["pkg:deb/debian/a@1"]);
    assert_eq!(inventory.unread.len(), 2, "{:?}", inventory.unread);
    let mut guest = Guest::default();
    for number in 0..1000 {
        let path = format!("/usr/lib/node_modules/\x1b[31m{number}/package.json");
        guest = guest.with(&path, "{");
    }
    let unread = Inventory::read(&guest).unread;
    assert_eq!(unread.len(), MOST_UNREAD + 1);
    assert!(!unread.concat().contains('\x1b'));
    let future = Inventory {
        modified: i64::MAX,
        ..Inventory::default()
    };
    assert_eq!(created(&future, None), Timestamp::UNIX_EPOCH);
}

#[test]
fn the_same_image_gives_the_same_bytes_and_another_one_other_names() {
    let inventory = Inventory::read(&debian());
    let subject = |sha256| Subject {
        name: "web",
        sha256,
        created: created(&inventory, None),
    };
    let documents = |sha256| {
        let subject = subject(sha256);
        let cyclonedx = cyclonedx::document(&subject, &inventory).unwrap();
        [cyclonedx, spdx::document(&subject, &inventory).unwrap()]
    };
    assert_eq!(documents("00"), documents("00"));
    let value = |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).unwrap() };
    let [one, other] = [documents("00"), documents("01")];
    assert_ne!(
        value(&one[0])["serialNumber"],
        value(&other[0])["serialNumber"]
    );
    assert_ne!(
        value(&one[1])["documentNamespace"],
        value(&other[1])["documentNamespace"]
    );
    assert_eq!(
        value(&one[0])["metadata"]["timestamp"],
        "2023-11-14T22:13:20Z"
    );
    assert_eq!(
        value(&one[1])["creationInfo"]["created"],
        "2023-11-14T22:13:20Z"
    );
    assert_eq!(created(&inventory, Some(0)), Timestamp::UNIX_EPOCH);
}

#[test]
fn what_a_step_fetched_is_listed_by_its_digest() {
    let mut inventory = Inventory::default();
    let digest = ("sha512", "ab");
    inventory.extend(Package::fetched(
        "tool.tgz",
        "https://example.org/a/tool.tgz",
        digest,
    ));
    assert_eq!(
        purls(&inventory),
        ["pkg:generic/tool.tgz?checksum=sha512:ab&download_url=https://example.org/a/tool.tgz"]
    );
}
