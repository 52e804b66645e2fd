//! `reboot`: asks for one, and goes on when the guest has really booted anew.

use std::time::Duration;

use super::{Attempt, Guest};
use crate::error::{Error, Result};
use crate::plan::Step;
use crate::ssh::{Ended, Session, as_root, capture};

/// How long the old system may keep our connection before we look ourselves: a machine that is reset does not say
/// goodbye to those it talks to.
const GOODBYE: Duration = Duration::from_secs(20);

pub(super) async fn reboot<S: Session>(guest: &mut Guest<'_, S>, step: &Step) -> Result<Attempt> {
    let work = async {
        let before = boot_id(guest).await?;
        // The connection may go at any moment from here on, which is what we want.
        let (asked, said) = capture(&mut guest.session, &as_root("reboot", &[])).await?;
        if matches!(asked, Ended::Exit(code) if code != 0) {
            let said = said.lines().map(str::to_owned).collect();
            return Ok(Attempt::Ended(asked, said));
        }
        let goodbye = capture(&mut guest.session, "sleep 1000");
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        loop {
            guest.reconnect().await?;
            match boot_id(guest).await {
                Ok(now) if now != before => break,
                // Still the old system, on its way down; the connection ends with it.
                _ => {
                    let goodbye = capture(&mut guest.session, "sleep 1000");
                    let _ = tokio::time::timeout(GOODBYE, goodbye).await;
                }
            }
        }
        guest.settle().await?;
        Ok(Attempt::Ended(Ended::Exit(0), vec![]))
    };
    match tokio::time::timeout(step.timeout, work).await {
        Ok(done) => done,
        Err(_) => {
            guest.reconnect().await?;
            Ok(Attempt::TimedOut(vec![]))
        }
    }
}

/// The kernel's name for this boot.
async fn boot_id<S: Session>(guest: &mut Guest<'_, S>) -> Result<String> {
    let command = "cat /proc/sys/kernel/random/boot_id";
    let (ended, id) = capture(&mut guest.session, command).await?;
    match ended.is_success() {
        true => Ok(id),
        false => Err(Error::new("reading the guest's boot id").cause(ended)),
    }
}
