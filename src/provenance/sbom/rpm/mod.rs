//! rpm's packages: `rpmdb.sqlite`. Of the formats of older and other rpms it is only said that they are there.

mod header;
#[cfg(test)]
mod tests;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB};

use self::header::{Header, Tag};
use super::{Inventory, Manager, Package, Read, Tree};
use crate::error::Result;

/// Where the database is: today, and before (often one is a link to the other).
const FOLDERS: &[&str] = &["/usr/lib/sysimage/rpm", "/var/lib/rpm"];

/// What the database is called in a format that is not read, and the format.
const NOT_READ: &[(&str, &str)] = &[("Packages", "Berkeley DB"), ("Packages.db", "ndb")];

/// It also has the names of all files and the history of each package, and is larger than the lists of others.
const LARGEST: usize = 256 << 20;

/// Keys that rpm trusts are kept among the packages, under this name.
const KEY: &str = "gpg-pubkey";

pub(super) fn read(files: &dyn Tree, found: &Inventory) -> Result<Read> {
    let mut read = Read::default();
    for folder in FOLDERS {
        let path = format!("{folder}/rpmdb.sqlite");
        let sqlite = read.bytes(files, &path, LARGEST)?;
        let mut is_there = files.modified(&path)?.is_some();
        if let Some(bytes) = sqlite {
            read.found_database(files, &path)?;
            not_written(files, &path, &mut read)?;
            packages(bytes, &path, found, &mut read);
        }
        for (name, format) in NOT_READ {
            let path = format!("{folder}/{name}");
            if files.modified(&path)?.is_some() {
                is_there = true;
                read.note(format!(
                    "{path}: rpm's database is in the format of {format}, which is not read"
                ));
            }
        }
        if is_there {
            break;
        }
    }
    Ok(read)
}

/// Notes what SQLite has not put into the database yet: rpm does that when it ends, unless it is killed.
fn not_written(files: &dyn Tree, path: &str, read: &mut Read) -> Result<()> {
    let log = format!("{path}-wal");
    if files.read(&log, 1)?.is_some_and(|start| !start.is_empty()) {
        read.note(format!(
            "{log}: it may have changes that are not in rpm's database yet"
        ));
    }
    Ok(())
}

fn packages(bytes: Vec<u8>, path: &str, found: &Inventory, read: &mut Read) {
    if let Err(error) = each_header(bytes, |header| match package(header, found) {
        Some(package) if package.name == KEY => true,
        Some(package) => read.push(package),
        None => {
            read.note(format!("{path}: a package without a name"));
            true
        }
    }) {
        read.note(format!("{path}: {error}"));
    }
}

/// Visits all headers of a database until `visit` does not want more.
fn each_header(bytes: Vec<u8>, mut visit: impl FnMut(&[u8]) -> bool) -> rusqlite::Result<()> {
    let mut room = bytes.len();
    let db = open(bytes)?;
    let mut headers = db.prepare("SELECT blob FROM Packages")?;
    let mut rows = headers.query([])?;
    while let Some(row) = rows.next()? {
        let header = row.get_ref(0)?.as_blob()?;
        // Rows of a crafted file can share their place, and so have no end.
        let taken = header.len().saturating_add(1);
        room = room.checked_sub(taken).ok_or_else(damaged)?;
        if !visit(header) {
            break;
        }
    }
    Ok(())
}

/// Opens a database that a guest has made, with SQLite's own precautions (sqlite.org/security.html).
fn open(mut bytes: Vec<u8>) -> rusqlite::Result<Connection> {
    // The version numbers (sqlite.org/fileformat.html, 1.3.3) say that there is a log, which takes files to read. What is in
    // memory has none.
    if let Some(versions) = bytes.get_mut(18..20) {
        versions.fill(1);
    }
    let mut db = Connection::open_in_memory()?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    db.deserialize_read_exact(MAIN_DB, bytes.as_slice(), bytes.len(), true)?;
    db.pragma_update(None, "cell_size_check", true)?;
    // A view, or a column that is computed, would be a program of the guest's.
    let text = "SELECT count(*) FROM pragma_table_list t, pragma_table_xinfo('Packages') c
        WHERE t.schema = 'main' AND t.name = 'Packages' AND t.type = 'table' AND c.name = 'blob' AND c.hidden = 0";
    match db.query_row(text, [], |row| row.get::<_, u32>(0))? {
        1 => Ok(db),
        _ => Err(damaged()),
    }
}

fn damaged() -> rusqlite::Error {
    use rusqlite::ffi;
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), None)
}

fn package(header: &[u8], found: &Inventory) -> Option<Package> {
    let header = Header::new(header)?;
    // None is the same as zero.
    let epoch = header.number(Tag::Epoch).filter(|epoch| *epoch != 0);
    let epoch = epoch.map(|epoch| epoch.to_string());
    let mut version = format!(
        "{}-{}",
        header.text(Tag::Version)?,
        header.text(Tag::Release)?
    );
    if let Some(epoch) = &epoch {
        version = format!("{epoch}:{version}");
    }
    let mut package = Package::new(Manager::Rpm, &header.text(Tag::Name)?, &version)?;
    let text = |tag| {
        let text = super::clean(&header.text(tag)?);
        text.filter(|text| !text.is_empty())
    };
    package.namespace = found.distribution();
    package.licence = text(Tag::License);
    package.supplier = text(Tag::Vendor);
    Some(
        package
            .with("arch", text(Tag::Arch))
            .with("distro", found.distro())
            .with("epoch", epoch)
            .with("upstream", text(Tag::SourceRpm)),
    )
}
