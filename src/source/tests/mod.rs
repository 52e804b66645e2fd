//! Specifications of `source`, against a real server on this machine.

mod compressed;
mod distributions;
mod downloads;
mod files;
mod kept;
mod keys;
mod local_files;
mod server;
mod signed;
mod verified;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::server::Server;
use super::digest::sha256;
use super::resolve::resolve_with;
use super::ubuntu::Anchors;
use super::*;
use crate::error::{Error, Result};
use crate::run::events::{Event, Observer, What};

/// A machine with its own cache, a server, and a record of what was told.
struct World {
    home: tempfile::TempDir,
    dirs: Dirs,
    http: Http,
    events: Events,
    told: Arc<Told>,
    server: Server,
    offline: bool,
    anchors: Anchors,
}

#[derive(Default)]
struct Told(Mutex<Vec<What>>);

impl Observer for Told {
    fn observe(&self, event: &Event) {
        self.0.lock().unwrap().push(event.what.clone());
    }
}

/// Long enough for a busy machine to answer; tests about stalls use [`World::impatient`].
fn options() -> Options {
    Options {
        stall_timeout: Duration::from_secs(60),
        attempts: 3,
        backoff: Duration::from_millis(1),
        proxies: false,
        ..Options::default()
    }
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let told = Arc::<Told>::default();
        World {
            dirs: Dirs::under(home.path()),
            home,
            http: Http::with(options()).unwrap(),
            events: Events::new("test", vec![told.clone()]),
            told,
            server: Server::start(),
            offline: false,
            anchors: Anchors {
                keyrings: vec![],
                fingerprint: String::new(),
            },
        }
    }

    /// Takes a silence of 200 ms for a stall, and has attempts to spare where a busy machine is silent by itself.
    fn impatient() -> Self {
        let mut world = World::new();
        world.http = Http::with(Options {
            stall_timeout: Duration::from_millis(200),
            attempts: 30,
            ..options()
        })
        .unwrap();
        world
    }

    fn cx(&self) -> Context<'_> {
        Context {
            dirs: &self.dirs,
            events: &self.events,
            http: &self.http,
            offline: self.offline,
        }
    }

    async fn resolve(&self, spec: &Spec) -> Result<Resolved> {
        resolve_with(spec, &self.cx(), &self.anchors).await
    }

    async fn get(&self, spec: &Spec) -> Result<BaseImage> {
        let resolved = self.resolve(spec).await?;
        fetch(&resolved, &self.cx()).await
    }

    /// Fetches what must fail, and checks that nothing is left in the cache.
    async fn refuse(&self, spec: &Spec) -> Error {
        let error = self.get(spec).await.unwrap_err();
        assert_eq!(self.left(), Vec::<String>::new(), "after: {error}");
        error
    }

    /// The names in the cache that take space: entries, downloads, work in progress.
    fn left(&self) -> Vec<String> {
        let notes = ["resolved", "files", "index", "origin"];
        let items = std::fs::read_dir(self.dirs.images()).into_iter().flatten();
        let names = items.map(|item| item.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names
            .filter(|name| !notes.contains(&name.as_str()))
            .collect();
        names.sort();
        names
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn told(&self) -> String {
        format!("{:?}", self.told.0.lock().unwrap())
    }
}

/// A raw disk of `size` bytes whose bytes are not all alike; different seeds give different disks.
fn disk_of(size: usize, seed: u8) -> Vec<u8> {
    let mut disk: Vec<u8> = (0..size)
        .map(|at| (at / 251) as u8 ^ at as u8 ^ seed)
        .collect();
    disk[510..512].copy_from_slice(b"\x55\xaa");
    disk
}

fn disk() -> Vec<u8> {
    disk_of(256 * 1024, 0)
}

/// An image at a URL with its sha256 pinned.
fn pinned(url: &str, content: &[u8]) -> Spec {
    Spec::Url {
        url: url.into(),
        mirrors: vec![],
        verify: Verify::Sha256(sha256(content)),
    }
}

fn listed(url: &str, list: &str) -> Spec {
    Spec::Url {
        url: url.into(),
        mirrors: vec![],
        verify: Verify::Checksums {
            list: list.into(),
            signature: None,
        },
    }
}

fn sums(name: &str, content: &[u8]) -> String {
    format!(
        "{}  other.img\n{} *{name}\n",
        sha256(b"other"),
        sha256(content)
    )
}

fn sha512(content: &[u8]) -> String {
    let expected = Digest::new(Algorithm::Sha512, &"0".repeat(128));
    let mut hasher = super::digest::Hasher::for_expected(expected.as_ref());
    hasher.update(content);
    hasher.finish().sha512.unwrap()
}

/// Puts another content in a file's place. Within one tick of the kernel's clock the file's times would not tell.
fn replace(path: &std::path::Path, content: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    let stamp = || crate::store::Stamp::of(&std::fs::metadata(path).unwrap());
    let before = stamp();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    while stamp() == before {
        std::fs::write(path, content).unwrap();
    }
    std::fs::write(path, content).unwrap();
}
