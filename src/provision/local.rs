//! `local`: a script on this machine.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use super::output::Pieces;
use super::{Attempt, Guest};
use crate::error::Result;
use crate::plan::Step;
use crate::proc::Program;
use crate::ssh::Ended;

pub(super) async fn local<S>(
    guest: &mut Guest<'_, S>,
    step: &Step,
    script: &[u8],
    folder: &Path,
) -> Result<Attempt> {
    let script = String::from_utf8_lossy(script).into_owned();
    let mut program = Program::of_user("sh")
        .args(["-euc", &script])
        .folder(folder);
    for (name, value) in &step.env {
        program = program.env(name, value);
    }
    for name in &step.secrets {
        program = program.env(name, guest.secret(step, name)?);
    }
    let run = guest.means.run;
    let mut output = Pieces::new(run, step);
    let watched = program.watch(|bytes| output.feed(bytes));
    let ended = tokio::time::timeout(step.timeout, watched).await;
    let last = output.end();
    let Ok(status) = ended else {
        return Ok(Attempt::TimedOut(last));
    };
    let status = status?;
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, signal) => Ended::Signal(signal.unwrap_or_default().to_string()),
    };
    Ok(Attempt::Ended(ended, last))
}
