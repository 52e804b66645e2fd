//! Making a machine of a template: its disks lie on those of the template.

use std::time::Duration;

use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::Call;
use crate::backend::proxmox::leftover::What;
use crate::backend::proxmox::machine::claim::{TAKEN, is_taken};
use crate::backend::proxmox::machine::lease::Lease;
use crate::backend::proxmox::machine::operate::{LOCKED, PAUSE};
use crate::backend::proxmox::machine::remove::is_ours;
use crate::backend::proxmox::task::{Ended, Upid};
use crate::error::Result;
use crate::run::Run;

/// How long the node may take. Nothing is copied.
const CLONE: Duration = Duration::from_secs(5 * 60);

/// How often it is asked for, the first time included.
const ATTEMPTS: u32 = 3;

/// Makes a linked clone of a template under this id; false if the id is taken. Its name says whose it is: its tags are those of
/// the template until they are changed.
pub async fn clone(
    (server, template): (&Proxmox, u32),
    (vmid, build): (u32, &str),
    doing: &str,
    run: &Run,
) -> Result<bool> {
    let call = Call::post(server.machine_path(template, &["clone"]))
        .with("newid", vmid.to_string())
        .with("name", Lease::tag(build))
        .with("full", "0");
    let mut attempt = 0;
    loop {
        attempt += 1;
        let (taken, again, error) = match server.client.call::<Upid>(call.clone()).await {
            Ok(upid) => match follow(server, &upid, run).await? {
                Ok(()) => return Ok(true),
                Err(Ended::Untold(error)) => return Err(error),
                Err(Ended::Task(failed)) => {
                    let (taken, locked) =
                        (failed.exit.ends_with(TAKEN), failed.exit.ends_with(LOCKED));
                    (taken, locked, failed.during(doing, &upid))
                }
            },
            Err(failure) => (
                is_taken(&failure),
                failure.why.is_uncertain(),
                failure.during(doing),
            ),
        };
        if taken && attempt == 1 {
            return Ok(false);
        }
        if !taken && !again {
            return Err(error);
        }
        // It may have been heard though its answer was lost. Its task has the id of the template, so that does not tell; what
        // there is under the new id does.
        if is_ours(server, vmid, build, doing).await? {
            return Ok(true);
        }
        if attempt >= ATTEMPTS {
            return Err(error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for the task, which is what is known of a clone that is being made.
async fn follow(server: &Proxmox, upid: &Upid, run: &Run) -> Result<Result<(), Ended>> {
    let task = run.guard(server.leftover(What::Task { upid: upid.clone() }))?;
    let ended = server.follow(upid, CLONE).await;
    if !matches!(ended, Err(Ended::Untold(_))) {
        run.release(&task)?;
    }
    Ok(ended)
}
