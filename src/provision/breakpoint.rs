//! `breakpoint`: time for somebody to look around.

use super::{Attempt, Guest};
use crate::error::Result;
use crate::plan::Step;
use crate::run::{Resource, terminal};
use crate::ssh::Ended;

/// Says how to log in, and waits for a line on the terminal.
pub(super) async fn breakpoint<S>(guest: &mut Guest<'_, S>, step: &Step) -> Result<Attempt> {
    let run = guest.means.run;
    if !guest.means.breakpoints {
        run.events.note(format!("not stopping at `{}`", step.name));
        return Ok(Attempt::Ended(Ended::Exit(0), vec![]));
    }
    let files = guest.login.files(&run.folder);
    let files = files.map(|path| Resource::File { path });
    for file in &files {
        run.guard(file.clone())?;
    }
    let command = guest.login.write(&run.folder)?;
    let ask = || {
        run.events.note(format!(
            "stopped at `{}`; log in with\n  {command}\npress Enter to go on",
            step.name
        ));
    };
    // A terminal that went away does not want to stop any longer.
    terminal::answer(ask).await;
    for file in &files {
        run.remove(file).await?;
    }
    Ok(Attempt::Ended(Ended::Exit(0), vec![]))
}
