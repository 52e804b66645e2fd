//! A guest without a machine: the programs of a guest image in namespaces of their own, with an overlay over that image's root
//! file system. Over SSH and the agent it is hard to tell from the same image in QEMU, and it is there in a fraction of a second.
//!
//! - Its root file system is that of the image it was chosen with, whatever is on the VM's boot disk. What it writes is gone when
//!   the machine is, and is kept over a reboot from within. Nothing is written to the boot disk.
//! - It is in the host's network, where its sshd listens at the guest's address.
//! - Other SCSI disks are read-only, with the content that they had when they were attached.
//! - It has few capabilities, its `/proc` and `/sys` are read-only, and it has no control groups: it cannot change the host.
//!
//! Making one takes root.

mod disk;
mod root;
mod seed;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::ChildStdout;
use tokio::sync::Mutex;

use super::argv::{boot_index, has_agent};
use super::channel::Channel;
use super::{Network, Spec};
use crate::image;
use crate::process::{self, Mortal};
use crate::storage::Volume;
use crate::vm::disk::Drive;
use disk::Disk;
use root::Root;

/// The agent's socket, by the name of the port that it has in QEMU.
const AGENT: &str = "org.qemu.guest_agent.0";

/// How often it is looked whether the agent is there by now: a small part of a boot.
const BOOTING: Duration = Duration::from_millis(10);

/// A running sandbox.
pub struct Sandbox {
    folder: PathBuf,
    interfaces: Value,
    /// The agent talks with one at a time.
    asking: Mutex<()>,
    /// By their keys in the configuration.
    disks: Mutex<BTreeMap<String, Disk>>,
}

impl Sandbox {
    /// Starts one with the programs of `image`, with its files in `folder`.
    pub async fn start(
        image: &Path,
        folder: &Path,
        spec: &Spec,
    ) -> Result<(Sandbox, Mortal), String> {
        let failed = |error: String| format!("start failed: {error}");
        let sandbox = Sandbox {
            folder: folder.join("sandbox"),
            interfaces: interfaces(spec),
            asking: Mutex::default(),
            disks: Mutex::default(),
        };
        let root = Root::of(image).await.map_err(failed)?;
        let furnished = sandbox.furnish(spec);
        furnished.map_err(|error| failed(error.to_string()))?;
        for (key, path, format) in &spec.files {
            let is_cdrom = Drive::parse(spec.get(key)).is_cdrom();
            if !is_cdrom && boot_index(spec, key) != Some(1) {
                sandbox.plug(key, path, format).await.map_err(failed)?;
            }
        }
        let life = sandbox.enter(&root, folder, spec).await.map_err(failed)?;
        Ok((sandbox, life))
    }

    /// Makes the folders that host and sandbox share.
    fn furnish(&self, spec: &Spec) -> io::Result<()> {
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder)?;
        }
        for name in [
            "layer",
            "seed",
            "block",
            "dev/virtio-ports",
            "dev/disk/by-id",
        ] {
            std::fs::create_dir_all(self.folder.join(name))?;
        }
        seed::unpack(spec, &self.folder.join("seed"))
    }

    /// Starts its processes. It has its root file system when this returns, and boots.
    async fn enter(&self, root: &Root, folder: &Path, spec: &Spec) -> Result<Mortal, String> {
        let said = |error: io::Error| error.to_string();
        let Network { address, port } = spec.network;
        let stderr = folder.join("stderr");
        let mut child = process::command("unshare")
            .args([
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child",
            ])
            .args(["sh", "-c", include_str!("enter.sh"), "sandbox"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("FOLDER", &self.folder)
            .env("IMAGE", root.name())
            .env("OFFSET", root.offset.to_string())
            .env("BOOT", include_str!("boot.sh"))
            .env("INSIDE", include_str!("inside.sh"))
            .env("ADDRESS", address.to_string())
            .env("PORT", port.to_string())
            .env("AGENT", if has_agent(&spec.config) { AGENT } else { "" })
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&stderr).map_err(said)?)
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("its console is lost")?);
        let mut line = String::new();
        stdout.read_line(&mut line).await.map_err(said)?;
        let first = line.trim().parse().ok().and_then(Pid::from_raw);
        let Some(first) = first else {
            let said = std::fs::read_to_string(stderr).unwrap_or_default();
            return Err(format!("the sandbox cannot be made: {}", said.trim()));
        };
        let first = rustix::process::pidfd_open(first, PidfdFlags::empty());
        let first = first.map_err(|error| said(error.into()))?;
        let life = Mortal::of_namespace(child, first);
        let console = spec.config.get("serial0").map(|_| folder.join("serial0"));
        tokio::spawn(listen(stdout, console));
        Ok(life)
    }

    /// Presses the power button. Before the guest has booted nobody notices, as on a real one.
    pub fn power_down(&self) -> Result<(), String> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let button = self.folder.join("dev/virtio-ports/button");
        let pressed = rustix::fs::open(button, flags, Mode::empty())
            .and_then(|button| rustix::io::write(&button, b"\n"));
        match pressed {
            Ok(_) | Err(rustix::io::Errno::NXIO) => Ok(()),
            Err(error) => Err(format!("VM quit/powerdown failed - {error}")),
        }
    }

    /// Attaches a disk, if it is one that a guest would find by its name.
    pub async fn plug(&self, key: &str, path: &Path, format: &str) -> Result<(), String> {
        if let Some(disk) = Disk::attach(&self.folder, key, path, format).await? {
            self.disks.lock().await.insert(key.to_owned(), disk);
        }
        Ok(())
    }

    /// Takes a disk away.
    pub async fn unplug(&self, key: &str) -> Result<(), String> {
        let disk = self.disks.lock().await.remove(key);
        let gone = disk.map_or(Ok(()), Disk::detach);
        gone.map_err(|error| error.to_string())
    }

    /// Makes a volume longer, which the guest does not notice.
    pub async fn resize(&self, volume: &Volume, bytes: u64) -> Result<(), String> {
        image::resize(&volume.path, &volume.format, bytes).await
    }

    /// Waits for the agent, as what is sent to its port in QEMU would. None if it goes while it is asked.
    pub async fn agent(&self, name: &str, arguments: Value) -> Option<Result<Value, String>> {
        let _asking = self.asking.lock().await;
        let port = self.folder.join("dev/virtio-ports").join(AGENT);
        let stream = loop {
            match UnixStream::connect(&port).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(BOOTING).await,
            }
        };
        let mut agent = Channel::new(stream);
        agent.sync().await.ok()?;
        match name {
            // It would tell those of the host.
            "guest-network-get-interfaces" => Some(Ok(self.interfaces.clone())),
            name => agent.ask(name, arguments).await.ok(),
        }
    }
}

/// Keeps what is said on the console, until nobody is there to say anything.
async fn listen(mut said: BufReader<ChildStdout>, file: Option<PathBuf>) -> io::Result<()> {
    let Some(file) = file else {
        return tokio::io::copy_buf(&mut said, &mut tokio::io::sink())
            .await
            .map(drop);
    };
    let mut options = tokio::fs::File::options();
    let mut file = options.append(true).create(true).open(file).await?;
    tokio::io::copy_buf(&mut said, &mut file).await.map(drop)
}

/// What the agent says of a guest with one network card.
fn interfaces(spec: &Spec) -> Value {
    let card = spec.get("net0").split(',').next().unwrap_or_default();
    let mac = card.split_once('=').map_or("", |(_, mac)| mac);
    json!([
        interface("lo", "00:00:00:00:00:00", Ipv4Addr::LOCALHOST),
        interface("eth0", &mac.to_lowercase(), spec.network.address),
    ])
}

fn interface(name: &str, mac: &str, address: Ipv4Addr) -> Value {
    json!({
        "name": name,
        "hardware-address": mac,
        "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": address, "prefix": 8}],
    })
}
