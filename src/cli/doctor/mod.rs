//! `imgbuild doctor`.

mod boot;
mod machine;

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::recipes::Selection;
use super::{Global, target};
use crate::backend::proxmox::{self, Proxmox, Wish};
use crate::error::{Error, Result};
use crate::finding::{Finding, State};
use crate::plan::Plan;
use crate::project::Target;
use crate::run::{Interrupt, gc};
use crate::store::Dirs;
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Check a target of imgbuild.toml instead of this machine
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Also make a machine on the target as a build of this recipe has it, log in, and remove it
    #[arg(long, value_name = "RECIPE", requires = "target")]
    boot: Option<PathBuf>,
    #[command(flatten)]
    selection: Selection,
}

/// Checks this machine or a target; something missing is an error.
pub async fn run(
    arguments: &Arguments,
    global: &Global,
    screen: Screen,
    interrupt: &Interrupt,
) -> Result<()> {
    let Some(name) = &arguments.target else {
        let findings = interrupt.or(machine::findings()).await?;
        show(&findings, screen);
        return verdict(&findings, "this machine");
    };
    let target = target::find(name)?;
    let selection = &arguments.selection;
    let plan = match &arguments.boot {
        Some(recipe) => Some(
            interrupt
                .or(boot::plan(recipe, selection, global, name))
                .await?,
        ),
        None => None,
    };
    let server = interrupt.or(target.connect()).await?;
    let looking = of_target(&target, &server, plan.as_ref());
    let mut findings = interrupt.or(looking).await?;
    let what = format!("the target {name}");
    // Nothing is made where something is missing that it needs.
    let booted = match (&plan, verdict(&findings, &what)) {
        (Some(plan), Ok(())) => {
            let plan = (plan, selection);
            let server = interrupt
                .or(server.chosen(&Wish::default(), |text| screen.note(text)))
                .await?;
            boot::boot(&server, plan, global, screen, interrupt, &mut findings).await
        }
        (_, verdict) => verdict,
    };
    show(&findings, screen);
    booted
}

fn verdict(findings: &[Finding], what: &str) -> Result<()> {
    match findings
        .iter()
        .any(|finding| finding.state == State::Missing)
    {
        false => Ok(()),
        true => {
            Err(Error::new(format!("checking {what}")).cause("something is missing, see above"))
        }
    }
}

async fn of_target(target: &Target, server: &Proxmox, plan: Option<&Plan>) -> Result<Vec<Finding>> {
    let settings = Finding::good(
        "settings",
        format!(
            "endpoint from {}, login from {}",
            target.endpoint_from,
            target.login_from()
        ),
    );
    let dirs = Dirs::from_env()?;
    // What cannot be told may be alive.
    let is_alive = |build: &str| gc::is_alive(&dirs, build).unwrap_or(true);
    let hardware = plan.map(|plan| &plan.proxmox.hardware);
    let findings = proxmox::check::target(server, hardware, is_alive).await;
    Ok([vec![settings], findings].concat())
}

fn show(findings: &[Finding], screen: Screen) {
    // As wide as what this machine is checked for, so that its lines always look the same.
    let longest = findings.iter().map(|finding| finding.what.len()).max();
    let width = longest.unwrap_or_default().max(20);
    let mut text = String::new();
    for finding in findings {
        let sign = match finding.state {
            State::Good => "ok     ",
            State::Fair => "note   ",
            State::Missing => "MISSING",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{sign}  {:<width$} {}", finding.what, finding.told);
    }
    let list = findings.iter().map(|finding| {
        let state = match finding.state {
            State::Good => "ok",
            State::Fair => "note",
            State::Missing => "missing",
        };
        json!({"what": finding.what, "state": state, "told": finding.told})
    });
    screen.result(
        &text,
        &json!({"event": "result", "findings": list.collect::<Vec<_>>()}),
    );
}
