//! Databases as rpm makes them, and as it does not.

use super::super::tests::{Guest, purls};
use super::*;

const PATH: &str = "/usr/lib/sysimage/rpm/rpmdb.sqlite";

/// The types of values in a header.
const INT32: u32 = 4;
const STRING: u32 = 6;

/// A header with these values.
fn header(texts: &[(Tag, &str)], epoch: Option<u32>) -> Vec<u8> {
    let (mut index, mut values) = (vec![], vec![]);
    let mut entry = |tag: Tag, kind: u32, value: &[u8]| {
        let at = values.len() as u32;
        index.extend([tag as u32, kind, at, 1].map(u32::to_be_bytes).concat());
        values.extend(value);
    };
    if let Some(epoch) = epoch {
        entry(Tag::Epoch, INT32, &epoch.to_be_bytes());
    }
    for (tag, text) in texts {
        entry(*tag, STRING, format!("{text}\0").as_bytes());
    }
    let lengths = [(index.len() / 16) as u32, values.len() as u32];
    [lengths.map(u32::to_be_bytes).concat(), index, values].concat()
}

fn named(name: &str) -> Vec<u8> {
    let texts = [(Tag::Name, name), (Tag::Version, "1"), (Tag::Release, "2")];
    header(&texts, None)
}

/// The bytes of a database that these statements have made.
fn made_by(statements: &str) -> Vec<u8> {
    let mut db = Connection::open_in_memory().unwrap();
    db.execute_batch(statements).unwrap();
    db.serialize(MAIN_DB).unwrap().to_vec()
}

const TABLE: &str =
    "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL);";

fn database(headers: &[Vec<u8>]) -> Vec<u8> {
    let rows = headers.iter().map(|header| {
        let header = crate::text::hex(header);
        format!("INSERT INTO Packages (blob) VALUES (x'{header}');")
    });
    made_by(&format!("{TABLE}{}", rows.collect::<String>()))
}

#[test]
fn rpms_packages_are_listed_and_its_keys_are_not() {
    let openssl = [
        (Tag::Name, "openssl-libs"),
        (Tag::Version, "3.0.7"),
        (Tag::Release, "28.el9"),
        (Tag::Arch, "x86_64"),
        (Tag::License, "Apache-2.0"),
        (Tag::Vendor, "Example Linux"),
        (Tag::SourceRpm, "openssl-3.0.7-28.el9.src.rpm"),
    ];
    let key = [
        (Tag::Name, KEY),
        (Tag::Version, "350d275d"),
        (Tag::Release, "6279464b"),
    ];
    let headers = [
        header(&openssl, Some(1)),
        header(&key, None),
        named("libstdc++"),
        named("lib^Caps"),
    ];
    let guest = Guest::default()
        .with("/etc/os-release", "ID=\"example\"\nVERSION_ID=\"9.4\"\n")
        .with(PATH, database(&headers));
    let inventory = Inventory::read(&guest);
    assert_eq!(
        purls(&inventory),
        [
            "pkg:rpm/example/lib%5ECaps@1-2?distro=example-9.4",
            "pkg:rpm/example/libstdc%2B%2B@1-2?distro=example-9.4",
            "pkg:rpm/example/openssl-libs@3.0.7-28.el9?arch=x86_64&distro=example-9.4&epoch=1&upstream=openssl-3.0.7-28.el9.src.rpm",
        ]
    );
    assert_eq!(inventory.unread, Vec::<String>::new());
    assert_eq!(inventory.modified, 1_700_000_000);
    let openssl = inventory.packages.into_values().last().unwrap();
    assert_eq!(openssl.version, "1:3.0.7-28.el9");
    assert_eq!(openssl.licence.unwrap(), "Apache-2.0");
    assert_eq!(openssl.supplier.unwrap(), "Example Linux");
}

#[test]
fn a_database_at_the_place_of_older_rpms_is_found() {
    let guest = Guest::default().with("/var/lib/rpm/rpmdb.sqlite", database(&[named("bash")]));
    assert_eq!(purls(&Inventory::read(&guest)), ["pkg:rpm/bash@1-2"]);
}

#[test]
fn a_database_in_another_format_is_told() {
    for (path, format) in [
        ("/var/lib/rpm/Packages", "Berkeley DB"),
        ("/usr/lib/sysimage/rpm/Packages.db", "ndb"),
    ] {
        let unread = Inventory::read(&Guest::default().with(path, "x")).unread;
        assert_eq!(unread.len(), 1, "{unread:?}");
        assert!(
            unread[0].starts_with(path) && unread[0].contains(format),
            "{unread:?}"
        );
    }
}

#[test]
fn what_rpm_was_killed_over_is_told() {
    let guest = |log: &str| {
        Guest::default()
            .with(PATH, database(&[named("bash")]))
            .with(&format!("{PATH}-wal"), log)
    };
    assert_eq!(Inventory::read(&guest("")).unread, Vec::<String>::new());
    let inventory = Inventory::read(&guest("x"));
    assert_eq!(inventory.packages.len(), 1);
    assert!(
        inventory.unread[0].contains("rpmdb.sqlite-wal"),
        "{:?}",
        inventory.unread
    );
}

#[test]
fn headers_that_cannot_be_are_told_and_the_rest_is_there() {
    let whole = named("bash");
    let mut far = whole.clone();
    // Where the name starts.
    far[16..20].fill(0xff);
    let mut many = whole.clone();
    many[..4].fill(0xff);
    let unended = header(
        &[(Tag::Version, "1"), (Tag::Release, "2"), (Tag::Name, "x")],
        None,
    );
    let unended = unended[..unended.len() - 1].to_vec();
    let headers = [
        vec![],
        far,
        many,
        unended,
        whole[..whole.len() - 3].to_vec(),
        whole,
    ];
    let inventory = Inventory::read(&Guest::default().with(PATH, database(&headers)));
    assert_eq!(purls(&inventory), ["pkg:rpm/bash@1-2"]);
    assert_eq!(inventory.unread.len(), 5, "{:?}", inventory.unread);
}

#[test]
fn a_database_is_no_program() {
    let whole = database(&[named("bash")]);
    let endless = "WITH RECURSIVE n(blob) AS (SELECT 1 UNION ALL SELECT blob + 1 FROM n)";
    for bytes in [
        made_by(&format!(
            "CREATE VIEW Packages AS {endless} SELECT max(blob) AS blob FROM n"
        )),
        made_by(
            "CREATE TABLE Packages (x, blob AS (zeroblob(900000000))); INSERT INTO Packages VALUES (1)",
        ),
        made_by("CREATE VIRTUAL TABLE Packages USING fts5(blob)"),
        made_by("CREATE TABLE Packages (hnum); INSERT INTO Packages VALUES (1)"),
        made_by("CREATE TABLE Names (blob)"),
        made_by(&format!("{TABLE}INSERT INTO Packages (blob) VALUES (1)")),
        whole[..whole.len() / 2].to_vec(),
        b"SQLite format 3\0".to_vec(),
        vec![],
    ] {
        let inventory = Inventory::read(&Guest::default().with(PATH, bytes));
        assert_eq!(inventory.packages.len(), 0);
        assert_eq!(inventory.unread.len(), 1, "{:?}", inventory.unread);
        assert!(
            inventory.unread[0].starts_with(PATH),
            "{:?}",
            inventory.unread
        );
    }
}
