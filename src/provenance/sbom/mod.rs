//! What software is in an image: read from its disk, so that it describes what ships, and written in two formats. The same
//! disk gives the same bytes.

mod apk;
pub mod cyclonedx;
mod dpkg;
mod nix;
mod npm;
mod os;
mod purl;
mod python;
mod rpm;
pub mod spdx;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::error::Result;
use crate::text::printable;

/// A database of packages larger than this is not a guest's, but an attack.
const LARGEST_DATABASE: usize = 64 << 20;
/// The same for what describes one package.
const LARGEST_MANIFEST: usize = 1 << 20;
/// More packages than this are no guest's.
const MAX_PACKAGES: usize = 50_000;
/// So much of what could not be read is named.
const MOST_UNREAD: usize = 20;
/// A name or version that is longer is none.
const LONGEST: usize = 512;

/// A guest's tree of files, which may be anything.
pub trait Tree {
    /// Up to `limit` bytes of the regular file that `path` leads to; `None` if there is none.
    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>>;
    /// The paths that match a pattern with `*` within its parts, sorted.
    fn glob(&self, pattern: &str) -> Result<Vec<String>>;
    /// When the file at `path` was written, in seconds since 1970.
    fn modified(&self, path: &str) -> Result<Option<i64>>;
}

/// Who manages a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manager {
    Deb,
    Rpm,
    Apk,
    Npm,
    Pypi,
    Nix,
    /// Nobody: a file that a step fetched.
    None,
}

/// One package, or one file that a step fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub manager: Manager,
    /// The distribution, or npm's scope.
    pub namespace: Option<String>,
    pub name: String,
    /// Empty where nobody says.
    pub version: String,
    /// What the package URL says besides.
    pub qualifiers: BTreeMap<&'static str, String>,
    /// In the words of the package.
    pub licence: Option<String>,
    pub supplier: Option<String>,
    /// `sha256` or `sha512`, and its hex digits.
    pub digest: Option<(String, String)>,
    /// Where it was fetched from.
    pub url: Option<String>,
}

impl Package {
    /// A package of which only name and version are known. `None` if these cannot be one's.
    pub fn new(manager: Manager, name: &str, version: &str) -> Option<Self> {
        let (name, version) = (clean(name)?, clean(version)?);
        (!name.is_empty()).then(|| Package {
            manager,
            namespace: None,
            name,
            version,
            qualifiers: BTreeMap::new(),
            licence: None,
            supplier: None,
            digest: None,
            url: None,
        })
    }

    /// A file that a step fetched.
    pub fn fetched(name: &str, url: &str, digest: (&str, &str)) -> Option<Self> {
        let mut package = Package::new(Manager::None, name, "")?;
        let (algorithm, hex) = digest;
        package
            .qualifiers
            .insert("checksum", format!("{algorithm}:{hex}"));
        package.qualifiers.insert("download_url", url.to_owned());
        package.digest = Some((algorithm.to_owned(), hex.to_owned()));
        package.url = Some(url.to_owned());
        Some(package)
    }

    fn with(mut self, qualifier: &'static str, value: Option<String>) -> Self {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.qualifiers.insert(qualifier, value);
        }
        self
    }

    /// The package URL (github.com/package-url/purl-spec).
    pub fn purl(&self) -> String {
        purl::of(self)
    }
}

/// A text of the guest's that goes into documents: one line, not too long.
fn clean(text: &str) -> Option<String> {
    let text = printable(text.trim());
    (text.len() <= LONGEST && !text.contains('\n')).then_some(text)
}

/// The operating system that an image says it has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Os {
    /// `debian`, for instance.
    pub id: String,
    pub version: String,
    pub name: String,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    pub os: Option<Os>,
    /// By package URL.
    pub packages: BTreeMap<String, Package>,
    /// What is there, but could not be read, and why.
    pub unread: Vec<String>,
    /// When the list of packages was last written, in seconds since 1970; 0 if there is none.
    pub modified: i64,
}

impl Inventory {
    /// Looks for packages. What cannot be read is noted: half of a list, called that, is better than none.
    pub fn read(files: &dyn Tree) -> Self {
        let mut found = Inventory::default();
        match os::read(files) {
            Ok(os) => found.os = os,
            Err(error) => found.unread.push(error.to_string()),
        }
        let (mut more, mut database) = (0, false);
        for reader in READERS {
            match reader(files, &found) {
                Ok(read) => {
                    more += read.more;
                    database |= read.database;
                    found.add(read);
                }
                Err(error) => found.unread.push(error.to_string()),
            }
        }
        for (manager, pattern) in NOT_READ {
            match files.glob(pattern).as_deref() {
                Ok([]) => {}
                Ok([path, ..]) => {
                    let why = format!("{path}: the database of {manager} cannot be read yet");
                    found.unread.push(why);
                }
                Err(error) => found.unread.push(error.to_string()),
            }
        }
        // To have found nothing proves nothing.
        if !database && found.unread.is_empty() {
            let why = "there is no database of packages that is known";
            found.unread.push(why.into());
        }
        more += found.unread.len().saturating_sub(MOST_UNREAD);
        found.unread.truncate(MOST_UNREAD);
        if more > 0 {
            found.unread.push(format!("and {more} more"));
        }
        for unread in &mut found.unread {
            // The names of files are the guest's.
            *unread = crate::provenance::one_line(unread);
        }
        found
    }

    /// Adds packages.
    pub fn extend(&mut self, packages: impl IntoIterator<Item = Package>) {
        for package in packages {
            self.packages.entry(package.purl()).or_insert(package);
        }
    }

    fn add(&mut self, read: Read) {
        let room = MAX_PACKAGES.saturating_sub(self.packages.len());
        if read.packages.len() > room {
            self.unread.push(TOO_MANY.into());
        }
        self.extend(read.packages.into_iter().take(room));
        self.unread.extend(read.unread);
        self.modified = self.modified.max(read.modified);
    }

    /// The namespace of the distribution's own packages.
    fn distribution(&self) -> Option<String> {
        let os = self.os.as_ref().map(|os| os.id.clone());
        os.filter(|id| !id.is_empty())
    }

    /// What package URLs say of the distribution.
    fn distro(&self) -> Option<String> {
        let os = self.os.as_ref()?;
        Some(format!("{}-{}", os.id, os.version))
    }
}

/// Looks for the packages of one manager; what was found so far has the operating system.
type Reader = fn(&dyn Tree, &Inventory) -> Result<Read>;

const READERS: [Reader; 6] = [
    dpkg::read,
    rpm::read,
    apk::read,
    npm::read,
    python::read,
    nix::read,
];

/// Where managers keep their lists that have no reader.
const NOT_READ: &[(&str, &str)] = &[("pacman", "/var/lib/pacman/local/*")];

/// What is said where there are more than [`MAX_PACKAGES`].
const TOO_MANY: &str = "there are absurdly many packages";

/// What one reader found.
#[derive(Debug, Default)]
struct Read {
    packages: Vec<Package>,
    /// At most [`MOST_UNREAD`].
    unread: Vec<String>,
    /// How much more could not be read.
    more: usize,
    /// Whether there is a list of everything that the manager has installed.
    database: bool,
    modified: i64,
}

impl Read {
    /// Adds a package. Returns whether there may be another.
    fn push(&mut self, package: Package) -> bool {
        if self.packages.len() >= MAX_PACKAGES {
            self.note(TOO_MANY.into());
            return false;
        }
        self.packages.push(package);
        true
    }

    /// Notes what could not be read.
    fn note(&mut self, what: String) {
        match self.unread.len() < MOST_UNREAD {
            true => self.unread.push(what),
            false => self.more += 1,
        }
    }

    /// The content of a file; noted if it is too large, `None` if it is not there.
    fn bytes(&mut self, files: &dyn Tree, path: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        let bytes = files.read(path, limit + 1)?;
        if bytes.as_ref().is_some_and(|bytes| bytes.len() > limit) {
            self.note(format!("{path}: it is absurdly large"));
            return Ok(None);
        }
        Ok(bytes)
    }

    /// The same for a text.
    fn text(&mut self, files: &dyn Tree, path: &str, limit: usize) -> Result<Option<String>> {
        let bytes = self.bytes(files, path, limit)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The same for a list of packages in words.
    fn database(&mut self, files: &dyn Tree, path: &str) -> Result<Option<String>> {
        let text = self.text(files, path, LARGEST_DATABASE)?;
        if text.is_some() {
            self.found_database(files, path)?;
        }
        Ok(text)
    }

    /// Tells that the file at `path` is a list of packages, whose time counts.
    fn found_database(&mut self, files: &dyn Tree, path: &str) -> Result<()> {
        self.database = true;
        let modified = files.modified(path)?.unwrap_or_default();
        self.modified = self.modified.max(modified);
        Ok(())
    }
}

/// What a document is about.
#[derive(Debug, Clone)]
pub struct Subject<'s> {
    /// What the recipe calls the image. Neither its version nor its file are here: the same image may get another.
    pub name: &'s str,
    pub sha256: &'s str,
    /// When the document says that it was made. For the same image it must be the same.
    pub created: Timestamp,
}

/// The time that documents about this inventory are given: what `SOURCE_DATE_EPOCH` says (in seconds), else when the list of
/// packages was last written.
pub fn created(inventory: &Inventory, source_date_epoch: Option<i64>) -> Timestamp {
    let seconds = source_date_epoch.unwrap_or(inventory.modified);
    Timestamp::from_second(seconds).unwrap_or_default()
}

/// The fields of `KEY: value` or `K:value` paragraphs. Lines that go on from the one before are left out.
fn paragraphs(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    text.split("\n\n").map(|paragraph| {
        let lines = paragraph.lines();
        let lines = lines.filter(|line| !line.starts_with([' ', '\t']));
        lines
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key, value.trim()))
            .collect()
    })
}
