//! Machines on this host's QEMU.

pub mod accel;
mod argv;
mod cut;
pub mod firmware;
mod hang;
pub mod image;
mod memory;
mod qmp;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::json;

use super::{Backing, Firmware, Spec};
use crate::error::{Context, Error, Kind, Result};
use crate::proc::{self, Process, Program};
use crate::run::{Resource, Run};
use accel::Chosen;
pub use cut::{Cut, memory_key};
pub use memory::Saved;
use qmp::{Event, Qmp};

/// How much of the console and of QEMU's own messages an error shows.
const TAIL: u64 = 2048;

/// A machine that runs. Dropping it kills it.
pub struct Machine {
    process: Process,
    guard: Resource,
    qmp: Qmp,
    /// Held so that the guest agent's channel stays open.
    _agent: StdUnixStream,
    ssh: SocketAddr,
    /// What it writes to now.
    disk: PathBuf,
    /// How often it was cut.
    cuts: u32,
    /// UEFI's.
    variables: Option<PathBuf>,
    logs: Logs,
}

#[derive(Debug, Clone)]
struct Logs {
    console: PathBuf,
    qemu: PathBuf,
}

/// How a machine is started.
pub struct Start<'s> {
    /// Tells the machines of one build apart: `build`, `test`.
    pub role: &'s str,
    pub spec: &'s Spec,
    pub backing: &'s Backing,
    /// Where its disk, an overlay of the backing, is made.
    pub disk: &'s Path,
    pub seed: &'s [u8],
    /// UEFI's variables to begin with (in a copy); the firmware's own if not given.
    pub variables: Option<&'s Path>,
    /// RAM to go on with instead of booting. It must have been saved with this very backing, seed and hardware
    /// ([`memory_key`]): QEMU does not notice all that does not fit.
    pub memory: Option<(&'s Path, &'s Saved)>,
    pub accel: Chosen,
    /// Let it live on when imgbuild ends (`--on-error keep`).
    pub outlives_us: bool,
}

impl Machine {
    /// Starts a machine on a fresh overlay. What it needs on disk besides goes below `folder`, which the caller guards.
    pub async fn start(start: Start<'_>, folder: &Path, run: &Run) -> Result<Self> {
        let folder = folder.join(start.role);
        std::fs::create_dir_all(&folder).doing(|| format!("creating {}", folder.display()))?;
        image::overlay(start.backing, start.disk).await?;
        let seed = folder.join("seed.img");
        std::fs::write(&seed, start.seed).doing(|| format!("writing {}", seed.display()))?;
        let ovmf = match start.spec.firmware {
            Firmware::Bios => None,
            Firmware::Uefi => Some(copy_variables(start.variables, &folder)?),
        };
        let logs = Logs {
            console: run.folder.join(format!("console-{}.log", start.role)),
            qemu: run.folder.join(format!("qemu-{}.log", start.role)),
        };
        let word = format!("imgbuild-{}-{}", run.id, start.role);
        let (qmp, qmp_theirs) = socket_pair()?;
        let (agent, agent_theirs) = socket_pair()?;
        let args = argv::argv(&argv::Inputs {
            spec: start.spec,
            word: &word,
            accel: start.accel,
            ovmf: ovmf.as_ref().map(|(ovmf, vars)| (ovmf, vars.as_path())),
            disk: start.disk,
            seed: &seed,
            console: &logs.console,
            qmp_fd: qmp_theirs.as_raw_fd(),
            agent_fd: agent_theirs.as_raw_fd(),
            waits_for_memory: start.memory.is_some(),
        });
        let guard = run.guard(Resource::Process { word })?;
        let mut process = Program::new("qemu-system-x86_64")
            .args(args)
            .inherit(qmp_theirs)
            .inherit(agent_theirs)
            .outlives_us(start.outlives_us)
            .spawn(run.open_log(&format!("qemu-{}.log", start.role))?)?;
        let (qmp, ssh) = match hello(qmp, start.memory).await {
            Ok(ready) => ready,
            Err(error) => {
                // One that outlives us is not ended by being dropped.
                let status = process.kill().await?;
                return Err(did_not_start(error, status, &logs));
            }
        };
        Ok(Machine {
            process,
            guard,
            qmp,
            _agent: agent,
            ssh,
            disk: start.disk.to_owned(),
            cuts: 0,
            variables: ovmf.map(|(_, variables)| variables),
            logs,
        })
    }

    /// Where the guest's SSH port can be reached.
    pub fn ssh(&self) -> SocketAddr {
        self.ssh
    }

    /// The last of what the guest wrote to its serial console.
    pub fn console_tail(&self) -> String {
        tail(&self.logs.console)
    }

    /// Runs `work` while watching the machine: when the machine fails first, that is the error.
    pub async fn during<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => match result {
                Ok(done) => Ok(done),
                // A machine that dies takes the connection with it; which of the two is noticed first is chance.
                Err(error) => match tokio::time::timeout(Duration::from_millis(300), self.fault()).await {
                    Ok(fault) => Err(fault),
                    Err(_) => Err(error),
                },
            },
            fault = self.fault() => Err(fault),
        }
    }

    /// As [`Machine::during`], for the wait until a booting guest can be worked in; one that hangs is ended.
    pub async fn during_boot<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let console = self.logs.console.clone();
        let hangs = hang::hangs(self.process.id(), hang::IDLE, || tail(&console));
        tokio::select! {
            result = self.during(work) => return result,
            () = hangs => {}
        }
        self.process.kill().await?;
        Err(Error::new("booting the machine")
            .cause("the guest's kernel hangs")
            .kind(Kind::Crash)
            .detail("last lines of the serial console", tail(&console)))
    }

    /// Waits until the machine fails or ends, and says why.
    async fn fault(&mut self) -> Error {
        loop {
            match self.qmp.event().await {
                Ok(event) => {
                    if let Some(fault) = self.serious(&event) {
                        return fault;
                    }
                }
                Err(_) => {
                    let error = Error::new("running the machine")
                        .detail("QEMU's last messages", tail(&self.logs.qemu));
                    return match self.process.wait().await {
                        Ok(status) => error
                            .cause(format!("QEMU ended unexpectedly ({status})"))
                            .kind(ended_as(status)),
                        Err(unknown) => error.cause(unknown),
                    };
                }
            }
        }
    }

    fn serious(&self, event: &Event) -> Option<Error> {
        let text = |key: &str| event.data.get(key).and_then(|value| value.as_str());
        let error = Error::new("running the machine");
        match event.name.as_str() {
            "BLOCK_IO_ERROR" => {
                let reason = text("reason").unwrap_or("unknown");
                let place = self.disk.parent().unwrap_or(&self.disk).display();
                Some(
                    error
                        .cause(format!(
                            "its disk cannot be read or written on this host: {reason}"
                        ))
                        .hint(format!("the disk is in {place}")),
                )
            }
            "SHUTDOWN" if event.data.get("guest") == Some(&json!(true)) => {
                match text("reason").unwrap_or_default() {
                    "guest-reset" => None,
                    _ => Some(
                        error
                            .cause("the guest powered itself off")
                            .detail("last lines of the serial console", self.console_tail()),
                    ),
                }
            }
            "GUEST_PANICKED" => Some(
                error
                    .cause("the guest's kernel panicked")
                    .detail("last lines of the serial console", self.console_tail()),
            ),
            _ => None,
        }
    }

    /// Presses the power button and waits until the guest has powered off; stops it by force after `deadline`, and
    /// returns whether that was needed.
    pub async fn power_off(&mut self, deadline: Duration) -> Result<bool> {
        self.qmp.execute("system_powerdown", json!({})).await?;
        let ended = tokio::time::timeout(deadline, self.ended()).await;
        if let Ok(result) = ended {
            return result.map(|()| false);
        }
        self.process.kill().await?;
        Ok(true)
    }

    /// Waits for QEMU to end by itself.
    async fn ended(&mut self) -> Result<()> {
        while let Ok(event) = self.qmp.event().await {
            if event.name == "BLOCK_IO_ERROR"
                && let Some(fault) = self.serious(&event)
            {
                return Err(fault);
            }
        }
        let status = self.process.wait().await?;
        match status.success() {
            true => Ok(()),
            false => Err(Error::new("powering the machine off")
                .cause(format!("QEMU ended with {status}"))
                .detail("QEMU's last messages", tail(&self.logs.qemu))),
        }
    }

    /// The disk of a machine that has powered off.
    pub async fn into_disk(self, run: &Run) -> Result<PathBuf> {
        run.remove(&self.guard).await?;
        Ok(self.disk)
    }

    /// Ends the machine at once and throws its disk away with it.
    pub async fn destroy(mut self, run: &Run) -> Result<()> {
        self.process.kill().await?;
        run.remove(&self.guard).await
    }
}

fn socket_pair() -> Result<(StdUnixStream, OwnedFd)> {
    let (ours, theirs) = StdUnixStream::pair().doing(|| "making a socket for QEMU")?;
    Ok((ours, theirs.into()))
}

fn copy_variables(from: Option<&Path>, folder: &Path) -> Result<(firmware::Ovmf, PathBuf)> {
    let ovmf = firmware::find()?;
    let copy = folder.join("variables.fd");
    let from = from.unwrap_or(&ovmf.variables);
    std::fs::copy(from, &copy).doing(|| format!("copying {}", from.display()))?;
    Ok((ovmf, copy))
}

/// Makes QEMU's acquaintance, fills its memory and lets it go on if it waits for that, and finds the SSH port.
async fn hello(
    socket: StdUnixStream,
    memory: Option<(&Path, &Saved)>,
) -> Result<(Qmp, SocketAddr)> {
    let doing = || "opening QEMU's control socket";
    socket.set_nonblocking(true).doing(doing)?;
    let socket = tokio::net::UnixStream::from_std(socket).doing(doing)?;
    let mut qmp = Qmp::open(socket).await?;
    if let Some((path, saved)) = memory {
        memory::restore(&mut qmp, path, saved).await?;
        qmp.execute("cont", json!({})).await?;
    }
    let question = json!({"command-line": "info usernet"});
    let answer = qmp.execute("human-monitor-command", question).await?;
    let port = qmp::forwarded_port(answer.as_str().unwrap_or_default()).ok_or_else(|| {
        Error::new("finding the machine's SSH port").cause(format!("QEMU answered {answer}"))
    })?;
    Ok((qmp, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

/// What to make of QEMU's end when nobody asked for it.
fn ended_as(status: ExitStatus) -> Kind {
    match proc::crashed(status) {
        true => Kind::Crash,
        false => Kind::Operation,
    }
}

fn did_not_start(error: Error, status: ExitStatus, logs: &Logs) -> Error {
    Error::new("starting the machine")
        .cause(error)
        .kind(ended_as(status))
        .detail("QEMU's last messages", tail(&logs.qemu))
        .hint("`imgbuild doctor` checks this machine's QEMU")
}

/// The end of a log as text; an unreadable one is empty, since this goes into an error about something else.
fn tail(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = vec![];
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    crate::text::printable(&String::from_utf8_lossy(&read().unwrap_or_default()))
}
