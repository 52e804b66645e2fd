//! Calls about one machine.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::hardware;
use super::lease::{self, Lease};
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::{Call, Path};
use crate::backend::proxmox::error::Failure;
use crate::backend::proxmox::number;
use crate::backend::proxmox::task::{Ended, Upid};
use crate::error::Result;

/// How long changing, starting or stopping a machine may take.
pub const OPERATION: Duration = Duration::from_secs(5 * 60);

/// How often it is tried when nobody knows whether it was heard, the first time included.
const ATTEMPTS: u32 = 3;

/// The same when somebody else has the machine's lock, for which the server itself waits 10 s: after a machine has ended,
/// `qm cleanup` may have it for 30 s (seen on the daemons of 9.2).
const LOCK_ATTEMPTS: u32 = 5;

/// The pause before it is tried again.
pub const PAUSE: Duration = Duration::from_secs(1);

/// How Proxmox VE ends what it says of a lock that somebody else has had for too long.
pub const LOCKED: &str = "got timeout";

/// How it ends what it says of a machine that is to be started, and was: by a call whose answer was lost.
const RUNNING: &str = "already running";

/// The part of a configuration that is of interest.
#[derive(Debug, Deserialize)]
pub struct Config {
    pub name: Option<String>,
    tags: Option<String>,
    /// What is being done with the machine.
    pub lock: Option<String>,
    scsi0: Option<String>,
    #[serde(default, deserialize_with = "number::maybe")]
    template: Option<u8>,
    pub description: Option<String>,
    /// Changes with each change of it.
    pub digest: Option<String>,
}

impl Config {
    /// Whether this build made the machine. A clone has its name from the beginning, but its source's tags.
    pub fn is_of(&self, build: &str) -> bool {
        self.name.as_deref() == Some(&Lease::name(build)) || self.has(&Lease::tag(build))
    }

    pub fn tags(&self) -> impl Iterator<Item = &str> {
        lease::split(self.tags.as_deref().unwrap_or_default())
    }

    /// Whether it has this tag.
    pub fn has(&self, tag: &str) -> bool {
        self.tags().any(|other| other == tag)
    }

    /// Whether it is a template.
    pub fn is_template(&self) -> bool {
        self.template == Some(1)
    }

    /// The bytes of the machine's disk.
    pub fn disk(&self) -> Option<u64> {
        hardware::size(self.scsi0.as_deref()?)
    }
}

/// Whether that is what the server says of a machine that is not there: it has no 404.
fn is_missing(failure: &Failure) -> bool {
    failure.why.says("Configuration file") && failure.why.says("does not exist")
}

impl Proxmox {
    pub(super) fn machine_path(&self, vmid: u32, rest: &[&str]) -> Path {
        self.node_path(&["qemu", &vmid.to_string()]).join(rest)
    }

    /// The configuration of a machine; `None` if there is none of this id.
    pub async fn machine_config(&self, vmid: u32) -> Result<Option<Config>, Failure> {
        self.config_as(vmid).await
    }

    /// Of the same as much as `T` reads.
    pub(super) async fn config_as<T: DeserializeOwned>(
        &self,
        vmid: u32,
    ) -> Result<Option<T>, Failure> {
        let call = Call::get(self.machine_path(vmid, &["config"]));
        match self.client.call(call).await {
            Ok(config) => Ok(Some(config)),
            Err(failure) if is_missing(&failure) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Asks for something that a task then does, and waits for its end. It is asked for again if nobody knows whether it was
    /// heard, or somebody else has had the machine's lock for too long, so it must be something that does no harm twice.
    pub(super) async fn operate(&self, call: Call, doing: &str, deadline: Duration) -> Result<()> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (error, attempts) = match self.client.call::<Upid>(call.clone()).await {
                Ok(upid) => match self.follow(&upid, deadline).await {
                    Ok(()) => return Ok(()),
                    Err(Ended::Untold(error)) => return Err(error),
                    Err(Ended::Task(failed)) if failed.exit.ends_with(RUNNING) => return Ok(()),
                    Err(Ended::Task(failed)) => {
                        let attempts = match failed.exit.ends_with(LOCKED) {
                            true => LOCK_ATTEMPTS,
                            false => 1,
                        };
                        (failed.during(doing, &upid), attempts)
                    }
                },
                Err(failure) => {
                    let attempts = match failure.why.is_uncertain() {
                        _ if failure.why.says(LOCKED) => LOCK_ATTEMPTS,
                        true => ATTEMPTS,
                        false => 1,
                    };
                    (failure.during(doing), attempts)
                }
            };
            if attempt >= attempts {
                return Err(error);
            }
            tracing::debug!("{error}; trying again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What the guest agent answers to a question.
    pub(super) async fn ask_agent<T: DeserializeOwned>(
        &self,
        vmid: u32,
        what: &str,
    ) -> Result<T, Failure> {
        let call = Call::get(self.machine_path(vmid, &["agent", what]));
        self.client.call(call).await
    }
}
