//! A lab with a Proxmox VE node, which the lab's `imgbuild.toml` calls `lab`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use imgbuild::backend::proxmox::machine::{Board, Extras, Hardware};
use imgbuild::project::{Project, Target};
use pve_lab::{Inventory, SECRET, Server, Setup, TOKEN};

use super::server::{Server as Web, sha256};
use super::{Ended, Lab};

/// The name of the variable with the token.
pub const VARIABLE: &str = "LAB_TOKEN";

/// One node and its project.
pub struct Node {
    pub lab: Lab,
    pub server: Server,
    before: Inventory,
}

impl Node {
    /// The node that `setup` describes, with the fingerprint pinned.
    pub fn start(name: &str, setup: Setup) -> Self {
        Node::with(name, setup, "")
    }

    /// As [`Node::start`], with more lines in the target.
    pub fn with(name: &str, setup: Setup, lines: &str) -> Self {
        let (lab, server) = (Lab::new(name), Server::start(setup));
        let before = server.inventory();
        let node = Node {
            lab,
            server,
            before,
        };
        node.project(&format!(
            "fingerprint = \"{}\"\n{lines}",
            node.server.fingerprint()
        ));
        node
    }

    /// Writes the project file, with these lines in the target.
    pub fn project(&self, lines: &str) {
        let text = format!(
            "[targets.lab]\nkind = \"proxmox\"\nendpoint = \"{}\"\nnode = \"pve\"\n\
             token = {{ env = \"{VARIABLE}\" }}\n{lines}\n[targets.lab.storages]\nimport = \"local\"\n",
            self.server.url()
        );
        self.lab.write("imgbuild.toml", text);
    }

    /// A node whose target names all that machines need, with these ids for them.
    pub fn whole(name: &str, setup: Setup, vmids: &str) -> Self {
        let node = Node::start(name, setup);
        let storages = "{ import = \"local\", images = \"local\", iso = \"local\" }";
        node.target(&format!(
            "node = \"pve\"\nvmid-range = \"{vmids}\"\nstorages = {storages}\n"
        ));
        node
    }

    /// Writes a project file whose target has these lines besides those that say how to reach the server.
    pub fn target(&self, lines: &str) {
        let text = format!(
            "[targets.lab]\nkind = \"proxmox\"\nendpoint = \"{}\"\ntoken = {{ env = \"{VARIABLE}\" }}\n\
             fingerprint = \"{}\"\nbridge = \"vmbr0\"\n{lines}",
            self.server.url(),
            self.server.fingerprint()
        );
        self.lab.write("imgbuild.toml", text);
    }

    /// The target as the library reads it. The token comes from a file from now on: a test's own environment is that of all.
    pub fn read_target(&self) -> Target {
        self.lab.write("token", format!("{TOKEN}={SECRET}"));
        let path = self.lab.path("imgbuild.toml");
        let project = std::fs::read_to_string(&path).unwrap();
        let by_file = project.replace(&format!("env = \"{VARIABLE}\""), "file = \"token\"");
        std::fs::write(&path, by_file).unwrap();
        Project::read(&path).unwrap().target("lab").unwrap()
    }

    /// `imgbuild` with the token in its environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.command(arguments);
        command.env(VARIABLE, format!("{TOKEN}={SECRET}"));
        command
    }

    pub fn imgbuild(&self, arguments: &[&str]) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    /// Brings the base image of a recipe to the node.
    pub fn pull(&self, recipe: &str) -> Ended {
        self.imgbuild(&["image", "pull", "--target", "lab", recipe])
    }

    /// Puts a file into the storage for imports, past imgbuild.
    pub fn put(&self, file: &str, content: &[u8]) {
        self.put_as("import", file, content);
    }

    /// Puts a file of this content type into the storage, past imgbuild.
    pub fn put_as(&self, kind: &str, file: &str, content: &[u8]) {
        let path = self.lab.write("put", content);
        let kind = format!("content={kind}");
        let file = format!("filename=@{};filename={file}", path.display());
        self.curl("storage/local/upload", &["-F", &kind, "-F", &file]);
    }

    /// Makes a VM without anything, past imgbuild.
    pub fn has_vm(&self, vmid: u32, name: &str, tags: &str) {
        self.has_vm_with(vmid, name, tags, &[]);
    }

    /// As [`Node::has_vm`], with more parameters.
    pub fn has_vm_with(&self, vmid: u32, name: &str, tags: &str, more: &[&str]) {
        let (vmid, name) = (format!("vmid={vmid}"), format!("name={name}"));
        let mut fields = [&["-d", &vmid, "-d", &name], more].concat();
        let tags = format!("tags={tags}");
        if tags != "tags=" {
            fields.extend(["--data-urlencode", &tags]);
        }
        self.curl("qemu", &fields);
    }

    /// Makes a template of an image that is there, past imgbuild.
    pub fn has_template(&self, vmid: u32, volume: &str) {
        let disk = format!("scsi0=local:0,import-from={volume}");
        let fields = ["-d", &format!("vmid={vmid}"), "--data-urlencode", &disk];
        self.curl("qemu", &fields);
        self.curl(&format!("qemu/{vmid}/template"), &["-X", "POST"]);
    }

    /// Stops a VM, past imgbuild.
    pub fn stop_vm(&self, vmid: u32) {
        self.curl(&format!("qemu/{vmid}/status/stop"), &["-X", "POST"]);
    }

    /// Calls the node, and waits until the task that this starts has ended.
    pub fn curl(&self, path: &str, fields: &[&str]) {
        self.curl_on("pve", path, fields);
    }

    /// The same with another node.
    pub fn curl_on(&self, on: &str, path: &str, fields: &[&str]) {
        let running = || self.server.inventory().running.len();
        let others = running();
        // Some tests look at what programs are started with, and others at the files of their lab.
        let header = format!("Authorization: {}\n", self.server.authorization());
        let mut curl = Command::new("curl")
            // A server in a hurry drops an upload that is held up for a moment.
            .args(["--retry", "5", "--retry-all-errors"])
            .args(["-sS", "--fail", "-k", "-H", "@-"])
            .args(fields)
            .arg(format!("{}/api2/json/nodes/{on}/{path}", self.server.url()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = curl.stdin.take().unwrap();
        stdin.write_all(header.as_bytes()).unwrap();
        drop(stdin);
        let sent = curl.wait_with_output().unwrap();
        assert!(sent.status.success(), "{sent:?}");
        while running() > others {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The calls of one method whose path ends so.
    pub fn calls(&self, method: &str, end: &str) -> usize {
        let requests = self.server.requests();
        let wanted = requests
            .iter()
            .filter(|request| request.method == method && request.path.ends_with(end));
        wanted.count()
    }

    /// The base images on the node, by their names without storage.
    pub fn images(&self) -> Vec<(String, u64)> {
        let volumes = self.server.inventory().volumes.into_iter();
        let images = volumes.filter_map(|(id, size)| {
            let (_, file) = id.split_once(":import/")?;
            Some((file.to_owned(), size))
        });
        images.collect()
    }

    /// The sha256 of a template's disk as a guest sees it.
    pub fn content(&self, vmid: u64) -> String {
        let name = format!("base-{vmid}-disk-*.qcow2");
        let found = Command::new("find")
            .arg(self.server.folder())
            .args(["-name", &name, "-printf", "%s %p\\n"])
            .output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        // The firmware's variables may be on one, too, which is smaller.
        let disks = found.lines().filter_map(|line| line.split_once(' '));
        let disk = disks.max_by_key(|(size, _)| size.parse::<u64>().unwrap());
        let (_, disk) = disk.unwrap_or_else(|| panic!("{vmid} has no disk"));
        let raw = self.lab.path("disk.raw");
        let made = Command::new("qemu-img")
            .args(["convert", "-O", "raw", disk])
            .arg(&raw)
            .status();
        assert!(made.unwrap().success(), "{found}");
        let said = Command::new("sha256sum").arg(&raw).output().unwrap().stdout;
        String::from_utf8(said).unwrap()[..64].to_owned()
    }

    /// Asserts that the server has what it had at the beginning, and the lab nothing unfinished.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.server.inventory(), self.before);
        self.lab.assert_nothing_left();
    }

    /// Asserts that nothing is there but this image, and nothing is going on.
    #[track_caller]
    pub fn assert_only(&self, file: &str, size: u64) {
        assert_eq!(self.images(), [(file.to_owned(), size)]);
        let now = self.server.inventory();
        assert_eq!((&now.strays, &now.running), (&vec![], &vec![]));
        self.lab.assert_nothing_left();
    }
}

/// A small disk image.
pub struct Disk {
    pub bytes: Vec<u8>,
    pub sha256: String,
    /// What the node calls it.
    pub file: String,
}

impl Disk {
    /// Makes one in the lab, of one of QEMU's formats.
    pub fn make(lab: &Lab, name: &str, format: &str) -> Self {
        let mut bytes: Vec<u8> = (0..2 << 20).map(|at: u32| (at % 251) as u8).collect();
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        let raw = lab.write("disk.source", bytes);
        let path = lab.path(name);
        let made = Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", format])
            .args([&raw, &path])
            .status();
        assert!(made.unwrap().success());
        Disk::of(&path)
    }

    /// One that is there.
    pub fn of(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let sha256 = sha256(&bytes);
        Disk {
            file: format!("imgbuild-{}.qcow2", &sha256[..12]),
            bytes,
            sha256,
        }
    }

    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// A vendor's server that has it as `/base.img`.
    pub fn served(&self) -> Web {
        Web::start(BTreeMap::from([(
            "/base.img".to_owned(),
            self.bytes.clone(),
        )]))
    }
}

/// A recipe on an image at an address.
pub fn recipe_by_url(lab: &Lab, web: &Web, sha256: &str) -> String {
    let source = format!("url = \"{}/base.img\"\nsha256 = \"{sha256}\"", web.address);
    recipe(lab, &source)
}

/// A recipe on an image in the lab.
pub fn recipe_by_file(lab: &Lab, name: &str) -> String {
    recipe(lab, &format!("file = \"{name}\""))
}

fn recipe(lab: &Lab, source: &str) -> String {
    let text = format!("[image]\nname = \"web\"\n[source]\n{source}\n");
    let path = lab.write("web.toml", text);
    path.to_str().unwrap().to_owned()
}

/// The hardware that a recipe asks for which says nothing.
pub fn plain_hardware() -> Hardware {
    Hardware {
        pool: None,
        storage: None,
        bridge: None,
        cpu: "host".into(),
        board: Board::Q35,
        secure_boot: false,
        tpm: false,
        scsi_controller: "virtio-scsi-single".into(),
        vga: "std".into(),
        rng: false,
        numa: false,
        template: Extras {
            disks: vec![],
            networks: None,
            hostpci: vec![],
            serial: true,
            balloon: None,
            on_boot: false,
            start_order: None,
            cloud_init_drive: true,
        },
    }
}
