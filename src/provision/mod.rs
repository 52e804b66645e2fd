//! What is done in the guest over SSH, one file for each action.

mod breakpoint;
mod cloud_init;
mod download;
mod fetch;
mod local;
mod output;
mod packages;
mod reboot;
mod shell;
mod upload;
mod wake;

pub use download::target as download_target;

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::error::{Error, Kind, Result};
use crate::plan::{Action, Plan, Role, Step};
use crate::run::Run;
use crate::source;
use crate::ssh::{Ended, Login, Session, capture};

/// The pause before a failed step is tried again; doubled each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The values of the recipe's secrets.
pub type Secrets = BTreeMap<String, SecretString>;

/// What provisioning works with, besides the guest itself.
#[derive(Clone, Copy)]
pub struct Means<'m> {
    pub plan: &'m Plan,
    pub run: &'m Run,
    pub secrets: &'m Secrets,
    /// For what is fetched on the guest's behalf.
    pub source: &'m source::Context<'m>,
    /// Whether breakpoints stop the build.
    pub breakpoints: bool,
}

/// A guest that is being provisioned.
pub struct Guest<'g, S> {
    pub session: S,
    pub means: Means<'g>,
    /// How somebody else can log in.
    login: Login,
    commands: u32,
    /// What steps have recorded: names and values.
    pub recorded: BTreeMap<String, String>,
}

/// How one attempt at an action ended.
enum Attempt {
    /// By itself, with the last lines of its output.
    Ended(Ended, Vec<String>),
    /// Its time was up; its processes are killed.
    TimedOut(Vec<String>),
    /// It could not be begun.
    Failed(Error),
    /// It was not carried out: what should have started it ended like this.
    NotStarted(Ended, Vec<String>),
}

impl<'g, S: Session> Guest<'g, S> {
    /// A guest that answers on `session`.
    pub fn new(session: S, login: Login, means: Means<'g>) -> Self {
        Guest {
            session,
            means,
            login,
            commands: 0,
            recorded: BTreeMap::new(),
        }
    }

    /// Waits until cloud-init is done.
    pub async fn settle(&mut self) -> Result<()> {
        cloud_init::settle(self).await
    }

    /// Gives a guest whose memory was restored the time and randomness of its own. Nothing else may run in it before.
    pub async fn wake(&mut self) -> Result<()> {
        wake::wake(self).await
    }

    /// Has the guest write to its disk whatever it holds back. Returns whether it could be [woken](Guest::wake).
    pub async fn sync(&mut self) -> Result<bool> {
        let command = "sync && { command -v perl || command -v python3 || :; }";
        let synced = capture(&mut self.session, command);
        let Ok(synced) = tokio::time::timeout(self.means.plan.boot_timeout, synced).await else {
            // The connection is in the middle of something, and useless.
            self.reconnect().await?;
            return Err(Error::new("syncing the guest's disk").cause("it took too long"));
        };
        let (ended, said) = synced?;
        match ended.is_success() {
            true => Ok(!said.trim().is_empty()),
            false => Err(Error::new("syncing the guest's disk")
                .cause(ended)
                .detail("what the guest said", said)),
        }
    }

    /// Drops the connection, with whatever was half-done on it, and makes a new one.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.session.reconnect(self.means.plan.boot_timeout).await
    }

    /// Does one step, as often as it may be tried.
    pub async fn apply(&mut self, step: &Step) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        let mut left = step.retries;
        loop {
            let attempt = match self.attempt(step).await {
                // A server that does not answer may answer the next time.
                Err(error) if left > 0 && matches!(step.action, Action::Fetch(_)) => {
                    if error.get_kind() != Kind::Operation {
                        return Err(error);
                    }
                    Attempt::Failed(error)
                }
                attempt => attempt?,
            };
            let disconnected = matches!(attempt, Attempt::Ended(Ended::Disconnected(_), _));
            if disconnected && step.expect_disconnect {
                return self.reconnect().await;
            }
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
            self.means.run.events.warn(text);
            tokio::time::sleep(pause).await;
            if disconnected {
                self.reconnect().await?;
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
            Action::Download { from, to } => download::download(self, step, from, to).await,
            Action::Fetch(fetch) => fetch::fetch(self, step, fetch).await,
            Action::Reboot => reboot::reboot(self, step).await,
            Action::Local { script, folder } => local::local(self, step, script, folder).await,
            Action::Breakpoint => breakpoint::breakpoint(self, step).await,
        }
    }

    fn judge(&self, step: &Step, attempt: Attempt) -> Result<()> {
        let (cause, lines) = match attempt {
            Attempt::Ended(Ended::Exit(code), _) if step.ok_exit_codes.contains(&code) => {
                return Ok(());
            }
            Attempt::Failed(error) => return Err(error),
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
        let log = self.means.run.folder.join("log.txt");
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
            false => error.faults(self.means.plan.fault(&step.span, "this failed")),
        })
    }
}

impl<'g, S> Guest<'g, S> {
    fn secret(&self, step: &Step, name: &str) -> Result<&'g str> {
        let secret = self.means.secrets.get(name).ok_or_else(|| {
            Error::new(format!("step `{}`", step.name))
                .cause(format!("no value for the secret {name}"))
        })?;
        Ok(secret.expose_secret())
    }

    /// A name for the next command's folder and control group in the guest. A restored guest may still have those of the
    /// build that it comes from.
    fn next_command(&mut self) -> String {
        self.commands += 1;
        format!("{}-{}", self.means.run.id, self.commands)
    }
}
