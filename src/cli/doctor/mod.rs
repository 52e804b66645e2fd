//! `imgbuild doctor`.

mod machine;

use std::fmt::Write;

use clap::Args;
use serde_json::json;

use super::target;
use crate::backend::proxmox;
use crate::error::{Error, Result};
use crate::finding::{Finding, State};
use crate::run::Interrupt;
use crate::ui::Screen;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Check a target of imgbuild.toml instead of this machine
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

/// Checks this machine or a target; something missing is an error.
pub async fn run(arguments: &Arguments, screen: Screen, interrupt: &Interrupt) -> Result<()> {
    let (findings, what) = match &arguments.target {
        None => (machine::findings().await?, "this machine".to_owned()),
        Some(name) => (
            interrupt.or(of_target(name)).await?,
            format!("the target {name}"),
        ),
    };
    show(&findings, screen);
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

async fn of_target(name: &str) -> Result<Vec<Finding>> {
    let target = target::find(name)?;
    let settings = Finding::good(
        "settings",
        format!(
            "endpoint from {}, login from {}",
            target.endpoint_from,
            target.login_from()
        ),
    );
    let server = target.connect().await?;
    let findings = proxmox::check::target(&server).await;
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
