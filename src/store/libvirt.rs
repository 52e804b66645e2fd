//! Which files the machines use that libvirt knows, running or not: what they name as disks, and what lies beneath that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use roxmltree::{Document, Node};

use super::open_files::Id;
use crate::disk::backing_file;
use crate::text::printable;

/// The machines that were defined, by the files that they use.
#[derive(Debug, Default)]
pub struct Machines {
    uses: HashMap<Id, String>,
    /// What could not be looked into, and why: machines that nobody here sees may use anything.
    pub unseen: Vec<String>,
}

impl Machines {
    /// Reads what libvirt has defined below each of these folders: machines in `qemu` (libvirt.org/formatdomain.html), and
    /// pools of their disks in `storage` (libvirt.org/formatstorage.html).
    pub fn defined(folders: &[PathBuf]) -> Self {
        let mut machines = Machines::default();
        for folder in folders {
            let mut pools = HashMap::new();
            machines.each(&folder.join("storage"), |_, pool| {
                let path = child(pool, "target").and_then(|target| child(target, "path"));
                if let (Some(name), Some(path)) =
                    (text(pool, "name"), path.and_then(|path| path.text()))
                {
                    pools.insert(name.to_owned(), PathBuf::from(path.trim()));
                }
            });
            machines.each(&folder.join("qemu"), |machines, domain| {
                let name = printable(text(domain, "name").unwrap_or_default());
                for disk in disks(domain, &pools) {
                    machines.add(&name, disk);
                }
            });
        }
        machines
    }

    /// Which machine uses a file, if one does.
    pub fn user(&self, file: Id) -> Option<&str> {
        self.uses.get(&file).map(String::as_str)
    }

    /// Visits all definitions in a folder.
    fn each(&mut self, folder: &Path, mut visit: impl FnMut(&mut Self, Node<'_, '_>)) {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.not_seen(folder, &error),
        };
        let mut unread = vec![];
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "xml") {
                continue;
            }
            let definition = match std::fs::read_to_string(&path) {
                Ok(definition) => definition,
                Err(error) => {
                    unread.push(error);
                    continue;
                }
            };
            match Document::parse(&definition) {
                Ok(document) => visit(self, document.root_element()),
                Err(error) => self.not_seen(&path, &io::Error::other(error)),
            }
        }
        // To an ordinary user these are often all of the system's.
        if let Some(first) = unread.first() {
            let folder = folder.display();
            let told = format!(
                "{folder}: {} definitions cannot be read: {first}",
                unread.len()
            );
            self.unseen.push(printable(&told));
        }
    }

    /// Adds a disk and all that lies beneath it.
    fn add(&mut self, name: &str, mut path: PathBuf) {
        loop {
            let id = match std::fs::metadata(&path) {
                // A block device has no file beneath it that is ours.
                Ok(about) if !about.is_file() => return,
                Ok(about) => (about.dev(), about.ino()),
                Err(error) => return self.not_seen(&path, &error),
            };
            match self.uses.entry(id) {
                // What is beneath it is known, too; or it is a ring.
                Entry::Occupied(_) => return,
                Entry::Vacant(entry) => entry.insert(name.to_owned()),
            };
            match backing_file(&path) {
                Ok(Some(backing)) => path = path.parent().unwrap_or(&path).join(backing),
                Ok(None) => return,
                Err(error) => return self.not_seen(&path, &error),
            }
        }
    }

    fn not_seen(&mut self, path: &Path, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.unseen
                .push(printable(&format!("{}: {error}", path.display())));
        }
    }
}

fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Option<Node<'a, 'i>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn text<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name)?.text().map(str::trim)
}

/// The paths of a machine's disks, with those that the definition says are beneath them.
fn disks(domain: Node<'_, '_>, pools: &HashMap<String, PathBuf>) -> Vec<PathBuf> {
    let disks = domain
        .descendants()
        .filter(|node| node.has_tag_name("disk"));
    let sources = disks.flat_map(|disk| {
        disk.descendants()
            .filter(|node| node.has_tag_name("source"))
    });
    let paths = sources.filter_map(|source| match source.attribute("file") {
        Some(file) => Some(PathBuf::from(file)),
        None => Some(
            pools
                .get(source.attribute("pool")?)?
                .join(source.attribute("volume")?),
        ),
    });
    paths.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A place with images, and where libvirt keeps its definitions.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            Host(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// An image, or an overlay of one that is called so.
        fn image(&self, name: &str, beneath: Option<&str>) -> Id {
            let path = self.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut create = Command::new("qemu-img");
            create.args(["create", "-q", "-f", "qcow2"]);
            if let Some(beneath) = beneath {
                create.args(["-F", "qcow2", "-b", beneath]);
            }
            let made = create.arg(&path).arg("1M").output().unwrap();
            assert!(made.status.success(), "{made:?}");
            let about = std::fs::metadata(&path).unwrap();
            (about.dev(), about.ino())
        }

        fn define(&self, path: &str, content: impl AsRef<str>) {
            let path = self.path("libvirt").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content.as_ref()).unwrap();
        }

        fn machine(&self, name: &str, source: &str) {
            let text = format!(
                "<!--\nmade by hand\n-->\n<domain type='kvm'>\n  <name>{name}</name>\n  <devices>\n    <disk type='file' device='disk'>\n      {source}\n    </disk>\n  </devices>\n</domain>\n"
            );
            self.define(&format!("qemu/{name}.xml"), text);
        }

        fn defined(&self) -> Machines {
            Machines::defined(&[self.path("libvirt"), self.path("nothing")])
        }
    }

    #[test]
    fn a_machine_uses_its_disk_and_all_that_lies_beneath() {
        let host = Host::new();
        let base = host.image("base & more.qcow2", None);
        let middle = host.image("overlays/middle.qcow2", Some("../base & more.qcow2"));
        let top = host.image(
            "top.qcow2",
            Some(host.path("overlays/middle.qcow2").to_str().unwrap()),
        );
        let other = host.image("other.qcow2", None);
        let path = host.path("top.qcow2");
        host.machine("db", &format!("<source file='{}'/>", path.display()));
        host.machine(
            "web",
            &format!(
                "<source file=\"{}/base &amp; more.qcow2\"/>",
                host.0.path().display()
            ),
        );
        let machines = host.defined();
        assert_eq!(machines.user(top), Some("db"));
        assert_eq!(machines.user(middle), Some("db"));
        assert!(matches!(machines.user(base), Some("db" | "web")));
        assert_eq!(machines.user(other), None);
        assert_eq!(machines.unseen, Vec::<String>::new());
    }

    #[test]
    fn a_disk_may_be_named_by_its_pool() {
        let host = Host::new();
        let base = host.image("pool/base.qcow2", None);
        let pool = host.path("pool");
        host.define(
            "storage/images.xml",
            format!(
                "<pool type='dir'><name>images</name><target><path>{}</path></target></pool>",
                pool.display()
            ),
        );
        host.machine("web", "<source pool='images' volume='base.qcow2'/>");
        assert_eq!(host.defined().user(base), Some("web"));
    }

    #[test]
    fn what_is_not_there_any_more_is_no_use_and_a_ring_has_an_end() {
        let host = Host::new();
        host.image("a.qcow2", None);
        let b = host.image("b.qcow2", Some("a.qcow2"));
        std::fs::remove_file(host.path("a.qcow2")).unwrap();
        std::fs::hard_link(host.path("b.qcow2"), host.path("a.qcow2")).unwrap();
        host.machine(
            "ring",
            &format!("<source file='{}'/>", host.path("b.qcow2").display()),
        );
        host.machine(
            "gone",
            &format!("<source file='{}'/>", host.path("gone.qcow2").display()),
        );
        let machines = host.defined();
        assert_eq!(machines.user(b), Some("ring"));
        assert_eq!(machines.unseen, Vec::<String>::new());
    }

    #[test]
    fn what_cannot_be_looked_into_is_told() {
        let host = Host::new();
        host.define("qemu/broken.xml", "<domain>");
        host.define("qemu/binary.xml/x", "a folder");
        host.define("qemu/other.xml/x", "a folder");
        host.define("qemu/networks/default.xml", "not a machine");
        std::fs::write(
            host.path("odd.qcow2"),
            b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\xff\0\0\xff\xff",
        )
        .unwrap();
        host.machine(
            "odd",
            &format!("<source file='{}'/>", host.path("odd.qcow2").display()),
        );
        let mut unseen = host.defined().unseen;
        unseen.sort();
        let names = ["qemu/broken.xml: ", "qemu: 2 definitions", "odd.qcow2: "];
        assert_eq!(unseen.len(), names.len(), "{unseen:?}");
        for (unseen, name) in unseen.iter().zip(names) {
            assert!(unseen.contains(name), "{unseen}");
        }
    }
}
