//! What is done in the guest over SSH, one file for each action.

mod cloud_init;
mod packages;
mod reboot;
mod shell;
mod upload;

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;

use crate::error::{Error, Kind, Result};
use crate::plan::{Action, Plan, Role, Step};
use crate::run::Run;
use crate::ssh::{Ended, Session};

/// The pause before a failed step is tried again; doubled each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How many of a failed step's last lines the error shows.
const LAST_LINES: usize = 20;

/// The values of the recipe's secrets.
pub type Secrets = BTreeMap<String, SecretString>;

/// A guest that is being provisioned.
pub struct Guest<'g, S> {
    pub session: S,
    pub plan: &'g Plan,
    pub run: &'g Run,
    pub secrets: &'g Secrets,
    commands: u32,
}

/// How one attempt at an action ended.
enum Attempt {
    /// By itself, with the last lines of its output.
    Ended(Ended, Vec<String>),
    /// Its time was up; its processes are killed.
    TimedOut(Vec<String>),
    /// It was not carried out: what should have started it ended like this.
    NotStarted(Ended, Vec<String>),
}

impl<'g, S: Session> Guest<'g, S> {
    /// A guest that answers on `session`.
    pub fn new(session: S, plan: &'g Plan, run: &'g Run, secrets: &'g Secrets) -> Self {
        Guest {
            session,
            plan,
            run,
            secrets,
            commands: 0,
        }
    }

    /// Waits until cloud-init is done.
    pub async fn settle(&mut self) -> Result<()> {
        cloud_init::settle(self).await
    }

    /// Does one step, as often as it may be tried.
    pub async fn apply(&mut self, step: &Step) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        let mut left = step.retries;
        loop {
            let attempt = self.attempt(step).await?;
            let disconnected = matches!(attempt, Attempt::Ended(Ended::Disconnected(_), _));
            let error = match self.judge(step, attempt) {
                Ok(()) => return Ok(()),
                Err(error) if left == 0 => return Err(error),
                Err(error) => error,
            };
            left -= 1;
            let again = match left {
                0 => "once more".to_owned(),
                _ => format!("up to {} times more", left + 1),
            };
            let text = format!("{error}; trying again in {} s, {again}", pause.as_secs());
            self.run.events.warn(text);
            tokio::time::sleep(pause).await;
            if disconnected {
                self.session.reconnect(self.plan.boot_timeout).await?;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(&mut self, step: &Step) -> Result<Attempt> {
        match &step.action {
            Action::Run { script } => shell::run(self, step, script).await,
            Action::Packages { names } => {
                let script = packages::script(names);
                shell::run(self, step, script.as_bytes()).await
            }
            Action::Upload { tree, to, owner } => {
                upload::upload(self, step, tree, to, owner.as_deref()).await
            }
            Action::Reboot => reboot::reboot(self, step).await,
        }
    }

    fn judge(&self, step: &Step, attempt: Attempt) -> Result<()> {
        let (cause, lines) = match attempt {
            Attempt::Ended(Ended::Exit(code), _) if step.ok_exit_codes.contains(&code) => {
                return Ok(());
            }
            Attempt::Ended(ended, lines) => (ended.to_string(), lines),
            Attempt::NotStarted(ended, lines) => {
                (format!("the guest could not start it: {ended}"), lines)
            }
            Attempt::TimedOut(lines) => {
                let seconds = step.timeout.as_secs_f64();
                (
                    format!("it did not end within {seconds} s and was killed"),
                    lines,
                )
            }
        };
        let log = self.run.folder.join("log.txt");
        let error = Error::new(format!("{} `{}`", step.role.name(), step.name))
            .kind(match step.role {
                Role::Step => Kind::Operation,
                Role::Test => Kind::Test,
            })
            .cause(cause)
            .detail("last lines of its output", lines.join("\n"))
            .hint(format!("all of its output is in {}", log.display()));
        Err(match step.span.is_empty() {
            true => error,
            false => error.faults(self.plan.fault(&step.span, "this failed")),
        })
    }

    /// A number for the next command's folder in the guest.
    fn next_command(&mut self) -> u32 {
        self.commands += 1;
        self.commands
    }
}

/// Keeps the last lines of a step's output while passing all of it on.
#[derive(Default)]
struct LastLines(std::collections::VecDeque<String>);

impl LastLines {
    fn push(&mut self, line: &str) {
        if self.0.len() == LAST_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    fn into_vec(self) -> Vec<String> {
        self.0.into()
    }
}
