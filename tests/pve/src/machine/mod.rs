//! The machine behind a running VM: a QEMU process, or a sandbox.

mod argv;
mod channel;
pub mod firmware;
mod qemu;
mod sandbox;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::storage::Volume;
use crate::vm::disk::Drive;
use qemu::Qemu;
use sandbox::Sandbox;

pub use argv::{Network, Spec, has_agent};

/// What guests are.
pub enum Kind {
    /// Whatever boots from the VM's disks.
    Qemu,
    /// The programs of this image, without a machine.
    Sandbox(PathBuf),
}

enum Guest {
    Qemu(Box<Qemu>),
    Sandbox(Sandbox),
}

/// A running machine. It is killed when the last handle is dropped.
pub struct Machine {
    guest: Guest,
    pub pid: u32,
    kill: CancellationToken,
    gone: CancellationToken,
}

impl Machine {
    /// Starts one, with its files in `folder`. `ended` is called once it is no more.
    pub async fn start(
        kind: &Kind,
        folder: PathBuf,
        spec: &Spec,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Arc<Machine>, String> {
        let (guest, mut life) = match kind {
            Kind::Qemu => {
                let (qemu, life) = Qemu::start(&folder, spec).await?;
                (Guest::Qemu(Box::new(qemu)), life)
            }
            Kind::Sandbox(image) => {
                let (sandbox, life) = Sandbox::start(image, &folder, spec).await?;
                (Guest::Sandbox(sandbox), life)
            }
        };
        let machine = Arc::new(Machine {
            guest,
            pid: life.pid(),
            kill: CancellationToken::new(),
            gone: CancellationToken::new(),
        });
        let (kill, gone) = (machine.kill.clone(), machine.gone.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = life.ended() => {}
                () = kill.cancelled() => life.kill().await,
            }
            ended();
            gone.cancel();
        });
        Ok(machine)
    }

    /// Presses the power button.
    pub async fn power_down(&self) -> Result<(), String> {
        match &self.guest {
            Guest::Qemu(qemu) => qemu.power_down().await,
            Guest::Sandbox(sandbox) => sandbox.power_down(),
        }
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

    /// Makes a drive's volume longer, and tells the guest.
    pub async fn resize(&self, key: &str, volume: &Volume, bytes: u64) -> Result<(), String> {
        match &self.guest {
            Guest::Qemu(qemu) => qemu.resize(key, bytes).await,
            Guest::Sandbox(sandbox) => sandbox.resize(volume, bytes).await,
        }
    }

    /// Gives the guest a drive.
    pub async fn plug(
        &self,
        key: &str,
        drive: &Drive,
        path: &Path,
        format: &str,
    ) -> Result<(), String> {
        match &self.guest {
            Guest::Qemu(qemu) => qemu.plug(key, drive, path, format).await,
            Guest::Sandbox(sandbox) => sandbox.plug(key, path, format).await,
        }
    }

    /// Takes a drive away from the guest.
    pub async fn unplug(&self, key: &str) -> Result<(), String> {
        match &self.guest {
            Guest::Qemu(qemu) => qemu.unplug(key).await,
            Guest::Sandbox(sandbox) => sandbox.unplug(key).await,
        }
    }

    /// Asks the agent. `None`: it said nothing in time.
    pub async fn agent(
        &self,
        name: &str,
        arguments: Value,
        patience: Duration,
    ) -> Option<Result<Value, String>> {
        let asked = async {
            match &self.guest {
                Guest::Qemu(qemu) => qemu.agent(name, arguments).await,
                Guest::Sandbox(sandbox) => sandbox.agent(name, arguments).await,
            }
        };
        tokio::time::timeout(patience, asked).await.ok().flatten()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}
