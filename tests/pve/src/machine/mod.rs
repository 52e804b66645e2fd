//! The machine behind a running VM: a QEMU process.

mod argv;
mod channel;
pub mod firmware;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::process;
use crate::vm::disk::Drive;
use channel::Channel;

pub use argv::{Network, Spec, has_agent};

/// How long QEMU may take to connect to its control socket under a heavy load.
const STARTUP: Duration = Duration::from_secs(60);

/// How often it is looked whether a device is gone, and how often at most: as long as Proxmox looks.
const UNPLUG_PACE: Duration = Duration::from_millis(50);
const UNPLUG_TRIES: u32 = 100;

/// A running machine. It is killed when the last handle is dropped.
pub struct Machine {
    qmp: Mutex<Channel>,
    agent: Mutex<Channel>,
    pub pid: u32,
    kill: CancellationToken,
    gone: CancellationToken,
}

impl Machine {
    /// Starts QEMU, with its sockets in `folder`. `ended` is called once it is no more.
    pub async fn start(
        folder: PathBuf,
        spec: &Spec,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Arc<Machine>, String> {
        let failed = |error: std::io::Error| format!("start failed: {error}");
        // QEMU connects to sockets that are there: nothing has to be waited for.
        let (qmp_path, agent_path) = (folder.join("qmp"), folder.join("agent"));
        for path in [&qmp_path, &agent_path] {
            let _ = std::fs::remove_file(path);
        }
        let qmp = UnixListener::bind(&qmp_path).map_err(failed)?;
        let agent = UnixListener::bind(&agent_path).map_err(failed)?;
        let mut child = process::command("qemu-system-x86_64")
            .args(argv::argv(spec, &folder))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("stderr")).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let connected = async {
            let qmp = Channel::new(qmp.accept().await?.0);
            std::io::Result::Ok((qmp, Channel::new(agent.accept().await?.0)))
        };
        let (mut qmp, agent) = tokio::select! {
            connected = connected => connected.map_err(failed)?,
            _ = child.wait() => {
                let said = std::fs::read_to_string(folder.join("stderr")).unwrap_or_default();
                return Err(format!("start failed: QEMU exited with code 1: {}", said.trim()));
            }
            () = tokio::time::sleep(STARTUP) => return Err("start failed: got timeout".into()),
        };
        qmp.greet().await.map_err(failed)?;
        let machine = Arc::new(Machine {
            qmp: Mutex::new(qmp),
            agent: Mutex::new(agent),
            pid: child.id().unwrap_or_default(),
            kill: CancellationToken::new(),
            gone: CancellationToken::new(),
        });
        let (kill, gone) = (machine.kill.clone(), machine.gone.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = child.wait() => {}
                () = kill.cancelled() => {
                    let _ = child.kill().await;
                }
            }
            ended();
            gone.cancel();
        });
        Ok(machine)
    }

    /// Presses the power button.
    pub async fn power_down(&self) -> Result<(), String> {
        self.command("system_powerdown", json!({}))
            .await
            .map(|_| ())
    }

    /// Ends it at once.
    pub async fn stop(&self) {
        self.kill.cancel();
        self.gone().await;
    }

    /// When it is no more, and everybody knows.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Tells the guest that a disk is longer.
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
            tokio::time::sleep(UNPLUG_PACE).await;
        }
        Err(format!("error on hot-unplugging device '{key}'"))
    }

    async fn command(&self, name: &str, arguments: Value) -> Result<Value, String> {
        let mut qmp = self.qmp.lock().await;
        let answer = qmp.ask(name, arguments).await;
        answer.map_err(|error| format!("VM qmp command '{name}' failed - {error}"))?
    }

    /// Asks the agent. `None`: it said nothing in time.
    pub async fn agent(
        &self,
        name: &str,
        arguments: Value,
        patience: Duration,
    ) -> Option<Result<Value, String>> {
        let asked = async {
            let mut agent = self.agent.lock().await;
            agent.sync().await.ok()?;
            agent.ask(name, arguments).await.ok()
        };
        tokio::time::timeout(patience, asked).await.ok().flatten()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}
