//! What a server has when it starts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::access::Access;
use crate::machine::Kind;

/// The token that [`Setup::new`] makes.
pub const TOKEN: &str = "builder@pve!lab";
/// Its secret. It guards nothing but test guests.
pub const SECRET: &str = "5ec2e7e5-0000-4000-8000-1ab1ab1ab1ab";

/// All privileges that a build can need, on 8.x.
pub const BUILDER: &[&str] = &[
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
    "Mapping.Use",
    "Pool.Allocate",
    "Pool.Audit",
    "SDN.Use",
    "Sys.AccessNetwork",
    "Sys.Audit",
    "VM.Allocate",
    "VM.Audit",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.Console",
    "VM.Migrate",
    "VM.Monitor",
    "VM.PowerMgmt",
];

/// The memory of a node that nobody uses while no guest runs, in bytes.
pub(crate) const FREE: u64 = 62 << 30;

/// Nodes, storages, bridges, and who may do what. See the [crate's documentation](crate).
pub struct Setup {
    pub(crate) nodes: Vec<String>,
    /// Bytes that nobody uses while no guest runs, where it is not [`FREE`].
    pub(crate) memory: BTreeMap<String, u64>,
    pub(crate) storages: Vec<Storage>,
    pub(crate) bridges: Vec<String>,
    pub(crate) pools: Vec<String>,
    pub(crate) access: Access,
    pub(crate) pace: u32,
    pub(crate) ssh_port: u16,
    pub(crate) guests: Kind,
    pub(crate) release: u32,
    pub(crate) port: u16,
}

/// A storage of the type `dir`.
#[derive(Clone, Debug)]
pub struct Storage {
    pub(crate) name: String,
    pub(crate) content: Vec<String>,
    /// All nodes if empty.
    pub(crate) nodes: Vec<String>,
    pub(crate) shared: bool,
    /// Bytes.
    pub(crate) size: u64,
}

impl Storage {
    /// A local storage of 1 TiB on all nodes that holds nothing yet.
    pub fn new(name: &str) -> Self {
        Storage {
            name: name.into(),
            content: vec![],
            nodes: vec![],
            shared: false,
            size: 1 << 40,
        }
    }

    /// The content types: `iso`, `import`, `images`.
    pub fn holding(mut self, content: &[&str]) -> Self {
        self.content = content.iter().map(|&name| name.into()).collect();
        self
    }

    /// Only these nodes have it.
    pub fn on(mut self, nodes: &[&str]) -> Self {
        self.nodes = nodes.iter().map(|&name| name.into()).collect();
        self
    }

    /// All its nodes see the same files.
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// What would be more than this does not fit: uploads, downloads, imports and clones end with "No space left on device".
    pub fn of_bytes(mut self, size: u64) -> Self {
        self.size = size;
        self
    }
}

impl Default for Setup {
    fn default() -> Self {
        Setup::new()
    }
}

impl Setup {
    /// One node `pve`, one storage `local` for everything, one bridge `vmbr0`, and [`TOKEN`] with [`BUILDER`] on all paths.
    pub fn new() -> Self {
        let mut access = Access::default();
        access.tokens.insert(TOKEN.into(), SECRET.into());
        access.grant("/", TOKEN, BUILDER, true);
        Setup {
            nodes: vec!["pve".into()],
            memory: BTreeMap::new(),
            storages: vec![Storage::new("local").holding(&["iso", "import", "images"])],
            bridges: vec!["vmbr0".into()],
            pools: vec![],
            access,
            pace: 1,
            ssh_port: 2222,
            guests: Kind::Qemu,
            release: 8,
            port: 0,
        }
    }

    /// Which release it is: 8, or 9, which has other privileges for the agent ([`TOKEN`] gets those).
    pub fn release(mut self, release: u32) -> Self {
        self.release = release;
        if release >= 9 {
            self.access.rename(
                "VM.Monitor",
                &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"],
            );
        }
        self
    }

    /// One more node.
    pub fn node(mut self, name: &str) -> Self {
        self.nodes.push(name.into());
        self
    }

    /// How many bytes of memory a node has free while no guest runs; 62 GiB if it is not said.
    pub fn memory(mut self, node: &str, free: u64) -> Self {
        self.memory.insert(node.into(), free);
        self
    }

    /// One more storage, or another one of the same name.
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storages.retain(|other| other.name != storage.name);
        self.storages.push(storage);
        self
    }

    /// One more bridge, on all nodes.
    pub fn bridge(mut self, name: &str) -> Self {
        self.bridges.push(name.into());
        self
    }

    /// One more pool, without members.
    pub fn pool(mut self, name: &str) -> Self {
        self.pools.push(name.into());
        self
    }

    /// A token `USER@REALM!NAME`. It has the privileges that are granted to it, as if its user had all of them.
    pub fn token(mut self, id: &str, secret: &str) -> Self {
        self.access.tokens.insert(id.into(), secret.into());
        self
    }

    /// A user who logs in with a password. `root@pam` may do everything.
    pub fn user(mut self, id: &str, password: &str) -> Self {
        self.access.users.insert(id.into(), password.into());
        self
    }

    /// Gives privileges on a path and all below it. A grant on a longer path takes the place of what came from above.
    pub fn grant(mut self, path: &str, who: &str, privileges: &[&str]) -> Self {
        self.access.grant(path, who, privileges, true);
        self
    }

    /// Takes away all that was granted to somebody, that of [`TOKEN`] as well.
    pub fn revoke(mut self, who: &str) -> Self {
        self.access.revoke(who);
        self
    }

    /// Divides the server's own waits by this: 5 s for an idle connection, 5 and 10 s for locks, 30 s for a proxied call.
    pub fn pace(mut self, pace: u32) -> Self {
        self.pace = pace.max(1);
        self
    }

    /// Where, at its own address, a guest's port 22 is reached.
    pub fn ssh_port(mut self, port: u16) -> Self {
        self.ssh_port = port;
        self
    }

    /// Guests are sandboxes with the root file system of this image, which `scripts/make-tiny-image` made, and not what the disks
    /// of the VMs would boot. See the [crate's documentation](crate#sandboxes).
    ///
    /// # Panics
    ///
    /// When this process is not root's.
    pub fn sandboxes(mut self, image: impl Into<PathBuf>) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "sandboxes are made of mounts and namespaces: run this as root, or with guests in QEMU"
        );
        self.guests = Kind::Sandbox(image.into());
        self
    }

    /// Where the server listens, for use by hand; any free port if it is not said.
    pub fn listen(mut self, port: u16) -> Self {
        self.port = port;
        self
    }
}
