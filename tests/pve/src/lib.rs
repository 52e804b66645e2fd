//! A Proxmox VE API for tests: an HTTPS server on loopback that speaks the part of the API which imgbuild uses, with the
//! behaviours that were observed on Proxmox VE 8.4 and on the daemons of 9.2 ([`BEHAVIOURS`] is the list), and that runs real QEMU guests, or sandboxes
//! in their place.
//!
//! # Starting one
//!
//! ```no_run
//! use pve_lab::{Fault, Server, Setup, Storage, What};
//!
//! // One node `pve`, one storage `local` for iso, import and images, one bridge `vmbr0`, one token with all that a build needs.
//! let server = Server::start(Setup::new());
//!
//! // Or more of everything. `pace` divides the server's own waits (5 s idle, 10 s for a lock, 30 s for a proxied call).
//! let setup = Setup::new()
//!     .node("pve2")
//!     .storage(Storage::new("fast").holding(&["images"]).on(&["pve2"]).of_bytes(64 << 20))
//!     .bridge("vmbr1")
//!     .token("poor@pve!ci", "11111111-2222-3333-4444-555555555555")
//!     .grant("/vms", "poor@pve!ci", &["VM.Audit"])
//!     .pace(20)
//!     .release(9); // other privileges for the agent than 8.x
//! let server = Server::start(setup);
//!
//! server.url();            // https://127.0.0.1:PORT, without /api2/json
//! server.certificate();    // PEM, signed by itself, for 127.0.0.1 and localhost
//! server.fingerprint();    // SHA-256 of it, AA:BB:…, as Proxmox's interface shows it
//! server.authorization();  // PVEAPIToken=USER@REALM!NAME=SECRET of the token that `Setup::new` makes
//! ```
//!
//! `Server::start` returns when the server listens. It has a thread of its own, so tests with and without a runtime can use
//! it. Dropping it ends the guests and removes its files. SIGKILL of the process ends the guests too.
//!
//! # What happened
//!
//! [`Server::requests`] are the calls so far, with times, bytes and connection, and never a header or a body.
//! [`Server::tasks`] are the tasks, with their times. [`Server::inventory`] is all that is there now, for a look at what was
//! left: compare what it was before a build with what it is afterwards.
//!
//! # Faults
//!
//! ```no_run
//! # use pve_lab::{Fault, Server, Setup, What};
//! # let server = Server::start(Setup::new());
//! // The second GET of any task's status is cut off after half of the answer.
//! server.inject(Fault::on("GET", "/nodes/*/tasks/*/status").nth(2).with(What::CutAnswer));
//! // The next create is told to have ended after 30 s, and goes on.
//! server.inject(Fault::on("POST", "/nodes/*/qemu").with(What::GatewayTimeout));
//! // The agent never answers.
//! server.inject(Fault::on("*", "/nodes/*/qemu/*/agent/*").always().with(What::AgentSilent));
//! ```
//!
//! # Guests
//!
//! `status/start` starts QEMU with the disks of the configuration. All guests are behind QEMU's user network, where each
//! believes to be 10.0.2.15. Each has a loopback address of its own, [`Server::address`], which is known before the VM is made,
//! and `agent/network-get-interfaces` gives it in the place of 10.0.2.15. At this address the port [`Setup::ssh_port`] (2222, so
//! that nobody must be root) leads to port 22 of the guest. A recipe for such a guest says `[ssh] port = 2222`.
//!
//! The guest that `scripts/make-tiny-image` makes has an agent, boots from SCSI and virtio, and reads a seed from a CD-ROM drive.
//!
//! What stands for "the guest" is `machine` alone.
//!
//! # Sandboxes
//!
//! ```no_run
//! # use pve_lab::{Server, Setup};
//! let server = Server::start(Setup::new().sandboxes("out/base/tiny-amd64.qcow2"));
//! ```
//!
//! Guests of this server are the tiny guest's programs in namespaces of their own, under the host's kernel. One costs a tenth of
//! a second of processor time from `status/start` to its end, and is reached by SSH after a quarter of a second where there is
//! little else to do: for tests that start hundreds. It has the keys, the user and the name that
//! the seed in its CD-ROM drive gives it, an agent, and a new boot id at each boot. It goes down and reboots when it is told to, over
//! the API and from within. What is another than in QEMU:
//!
//! - **Only root can make one**: [`Setup::sandboxes`] panics for others. Mounts are of namespaces that go with the guest.
//! - The root file system is that of the image. What is on the boot disk does not matter (it may be small and empty), and
//!   nothing is written to it: a clone of a guest's disk does not have what its steps did. A reboot from within keeps what was
//!   written, a stop does not.
//! - Other SCSI disks are read-only and have the raw content that they had when they were attached. They are in `/sys/block` and
//!   under `/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_drive-scsiN`, without their partitions. They become loop devices of the host.
//! - The network is the host's, and cannot be changed. sshd listens at the guest's address only; 10.0.2.2 is nowhere.
//! - root has few capabilities: mounting, setting the clock, making devices and loading modules fail. `/proc` and `/sys`
//!   are read-only, there are no control groups, and `sync` does nothing.
//! - There is no firmware and no kernel of its own, and memory and CPUs are the host's.
//!
//! # What is not as on the real one
//!
//! - TPM, firewall, VLANs and MTU stay in the configuration: nothing comes of them. There are no PCI devices to map.
//! - Drives and network cards of a VM that runs are not plugged or unplugged, but pending until it stops.
//! - There are no snapshots, no migration of what runs, and no storages but folders.
//! - Consoles are serial ones only, and what a client types goes nowhere. In what a guest says there, its address is the one
//!   at which it is reached, as the agent tells it.
//! - Checksums are SHA-2's. A 401 comes at once, and not after 3 s.

mod access;
mod behaviour;
mod body;
mod calls;
mod cluster;
mod content;
mod context;
mod dispatch;
mod fault;
mod http;
mod image;
mod incoming;
mod info;
mod inventory;
mod lock;
mod machine;
mod options;
mod params;
mod pool;
mod process;
mod property;
mod random;
mod record;
mod reply;
mod schema;
mod server;
mod setup;
mod storage;
mod task;
mod tls;
mod upload;
mod vm;
mod volumes;
mod websocket;

pub use behaviour::{BEHAVIOURS, Behaviour, Known};
pub use fault::{Fault, What};
pub use record::{Inventory, Request, TaskRecord};
pub use server::Server;
pub use setup::{BUILDER, SECRET, Setup, Storage, TOKEN};
