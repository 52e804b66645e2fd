//! A guest in a QEMU process, and what is said to it over QEMU's sockets.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::Mutex;

use super::Spec;
use super::argv;
use super::channel::Channel;
use crate::process::{self, Mortal};
use crate::vm::disk::Drive;

/// How long QEMU may take to connect to its control socket under a heavy load.
const STARTUP: Duration = Duration::from_secs(60);

/// How often it is looked whether something is there, or gone.
const PACE: Duration = Duration::from_millis(50);

/// How often at most it is looked whether a device is gone: as long as Proxmox looks.
const UNPLUG_TRIES: u32 = 100;

/// A running QEMU.
pub struct Qemu {
    _tpm: Option<Mortal>,
    qmp: Mutex<Channel>,
    agent: Mutex<Channel>,
}

/// Starts a TPM that knows nothing of an earlier start: its state is not kept in the volume.
async fn start_tpm(folder: &Path, socket: &Path) -> std::io::Result<Mortal> {
    let state = folder.join("tpm-state");
    std::fs::create_dir_all(&state)?;
    let _ = std::fs::remove_file(socket);
    let child = process::command("swtpm")
        .args(["socket", "--tpm2", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("tpm-stderr"))?)
        .spawn()?;
    let mut life = Mortal::new(child);
    let there = async {
        while !socket.exists() {
            tokio::time::sleep(PACE).await;
        }
    };
    tokio::select! {
        () = there => Ok(life),
        () = life.ended() => {
            let said = std::fs::read_to_string(folder.join("tpm-stderr"))?;
            Err(std::io::Error::other(format!("swtpm: {}", said.trim())))
        }
        () = tokio::time::sleep(STARTUP) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

impl Qemu {
    /// Starts QEMU, with its sockets in `folder`.
    pub async fn start(folder: &Path, spec: &Spec) -> Result<(Qemu, Mortal), String> {
        let failed = |error: std::io::Error| format!("start failed: {error}");
        // QEMU connects to sockets that are there: nothing has to be waited for.
        let (qmp_path, agent_path) = (folder.join("qmp"), folder.join("agent"));
        for path in [&qmp_path, &agent_path] {
            let _ = std::fs::remove_file(path);
        }
        let qmp = UnixListener::bind(&qmp_path).map_err(failed)?;
        let agent = UnixListener::bind(&agent_path).map_err(failed)?;
        let tpm = match argv::tpm(spec, folder) {
            Some(socket) => Some(start_tpm(folder, &socket).await.map_err(failed)?),
            None => None,
        };
        let child = process::command("qemu-system-x86_64")
            .args(argv::argv(spec, folder))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("stderr")).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let mut life = Mortal::new(child);
        let connected = async {
            let qmp = Channel::new(qmp.accept().await?.0);
            std::io::Result::Ok((qmp, Channel::new(agent.accept().await?.0)))
        };
        let (mut qmp, agent) = tokio::select! {
            connected = connected => connected.map_err(failed)?,
            () = life.ended() => {
                let said = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
                return Err(format!("start failed: QEMU exited with code 1: {}", said.trim()));
            }
            () = tokio::time::sleep(STARTUP) => return Err("start failed: got timeout".into()),
        };
        qmp.greet().await.map_err(failed)?;
        let qemu = Qemu {
            _tpm: tpm,
            qmp: Mutex::new(qmp),
            agent: Mutex::new(agent),
        };
        Ok((qemu, life))
    }

    pub async fn power_down(&self) -> Result<(), String> {
        self.command("system_powerdown", json!({}))
            .await
            .map(|_| ())
    }

    pub async fn resize(&self, key: &str, bytes: u64) -> Result<(), String> {
        let arguments = json!({"node-name": argv::node(key), "size": bytes});
        self.command("block_resize", arguments).await.map(|_| ())
    }

    /// Gives the guest a drive.
    pub async fn plug(
        &self,
        key: &str,
        drive: &Drive,
        path: &Path,
        format: &str,
    ) -> Result<(), String> {
        let device = argv::device(key, drive, false).ok_or("no such bus")?;
        let block = argv::block(key, drive, path, format);
        self.command("blockdev-add", block).await?;
        let added = self.command("device_add", device).await;
        if added.is_err() {
            self.forget(key).await?;
        }
        added.map(|_| ())
    }

    /// Takes a drive away from the guest.
    pub async fn unplug(&self, key: &str) -> Result<(), String> {
        self.command("device_del", json!({"id": key})).await?;
        self.forget(key).await
    }

    /// Closes a drive's file once the device that has it is gone: QEMU answers before that.
    async fn forget(&self, key: &str) -> Result<(), String> {
        let node = json!({"node-name": argv::node(key)});
        for _ in 0..UNPLUG_TRIES {
            if self.command("blockdev-del", node.clone()).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(PACE).await;
        }
        Err(format!("error on hot-unplugging device '{key}'"))
    }

    async fn command(&self, name: &str, arguments: Value) -> Result<Value, String> {
        let mut qmp = self.qmp.lock().await;
        let answer = qmp.ask(name, arguments).await;
        answer.map_err(|error| format!("VM qmp command '{name}' failed - {error}"))?
    }

    /// None if the agent goes while it is asked.
    pub async fn agent(&self, name: &str, arguments: Value) -> Option<Result<Value, String>> {
        let mut agent = self.agent.lock().await;
        agent.sync().await.ok()?;
        agent.ask(name, arguments).await.ok()
    }
}
