//! The only user of `Command`. Rules for every program that is started here:
//! - its argv is logged (`-v`), so argv never carries a secret;
//! - stdin is empty unless it is given, stderr is kept in bounded form for the error message;
//! - it runs in a process group of its own, so that a terminal's Ctrl-C reaches imgbuild only, and the group is killed
//!   when the future is dropped;
//! - unless told otherwise it dies with imgbuild, even by SIGKILL;
//! - it does not get the passphrase of the key that signs, and only the user's own programs get variables with other secrets.

mod process;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Command;

pub use process::{Process, crashed};

use crate::error::{Error, Result};

/// How much of a failed program's stderr is shown.
const STDERR_KEPT: usize = 8 * 1024;

/// What is in our environment for us alone.
const OURS: &str = crate::signing::PASSPHRASE;

/// A program to run.
#[derive(Debug)]
pub struct Program {
    name: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    is_users: bool,
    without: &'static [&'static str],
    folder: Option<PathBuf>,
    stdin: Option<Vec<u8>>,
    inherit: Vec<OwnedFd>,
    outlives_us: bool,
}

impl Program {
    /// A program that imgbuild needs, found on `PATH` or by path.
    pub fn new(name: impl Into<OsString>) -> Self {
        Program {
            name: name.into(),
            args: vec![],
            env: vec![],
            is_users: false,
            without: &[],
            folder: None,
            stdin: None,
            inherit: vec![],
            outlives_us: false,
        }
    }

    /// What a user has written to be run here. It gets the environment that the user has: a script may need a login as well.
    pub fn of_user(name: impl Into<OsString>) -> Self {
        Program {
            is_users: true,
            ..Program::new(name)
        }
    }

    /// Appends one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Appends arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable, which may be a secret: it is not logged.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let pair = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.env.push(pair);
        self
    }

    /// Keeps variables of our environment from it whose names begin like this.
    pub fn without_env(mut self, prefixes: &'static [&'static str]) -> Self {
        self.without = prefixes;
        self
    }

    /// The folder that the program starts in, instead of ours.
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Gives the program something to read, when it is run to its end.
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// Gives the program this descriptor, under the same number.
    pub fn inherit(mut self, fd: OwnedFd) -> Self {
        self.inherit.push(fd);
        self
    }

    /// Lets the program go on when imgbuild ends or drops it (a guest that `--on-error keep` leaves behind).
    pub fn outlives_us(mut self, outlives: bool) -> Self {
        self.outlives_us = outlives;
        self
    }

    /// Runs to the end and returns stdout; a status other than 0 is an error with the end of stderr.
    pub async fn stdout(self) -> Result<String> {
        let mut out = Vec::new();
        self.stream(|chunk| out.extend_from_slice(chunk)).await?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }

    /// Runs to the end, handing over what it prints to either stream as it comes. Unlike the others this leaves the
    /// judgement of the status to the caller.
    pub async fn watch(self, mut each: impl FnMut(&[u8])) -> Result<ExitStatus> {
        let line = self.line();
        let mut process = self.start(Stdio::null(), Stdio::piped(), Stdio::piped())?;
        let stdout = process.child.stdout.take();
        let stderr = process.child.stderr.take();
        let each = std::cell::RefCell::new(&mut each);
        let out = drain(stdout, |chunk| (each.borrow_mut())(chunk));
        let err = drain(stderr, |chunk| (each.borrow_mut())(chunk));
        let read = futures_util::future::try_join(out, err).await;
        read.map_err(|error| Error::new(format!("running `{line}`")).cause(error))?;
        process.wait().await
    }

    /// Runs to the end, handing stdout over as it comes; a status other than 0 is an error with the end of stderr.
    pub async fn stream(mut self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let line = self.line();
        let input = self.stdin.take();
        let from = input.as_ref().map_or_else(Stdio::null, |_| Stdio::piped());
        let mut process = self.start(from, Stdio::piped(), Stdio::piped())?;
        let stdin = process.child.stdin.take();
        let stdout = process.child.stdout.take();
        let stderr = process.child.stderr.take();
        let mut kept = Vec::new();
        let read = async {
            let out = drain(stdout, |chunk| each(chunk));
            let err = drain(stderr, |chunk| {
                kept.extend_from_slice(chunk);
                let excess = kept.len().saturating_sub(STDERR_KEPT);
                kept.drain(..excess);
            });
            futures_util::future::try_join(out, err).await
        };
        let write = feed(stdin, input.unwrap_or_default());
        let failed = |cause: String| Error::new(format!("running `{line}`")).cause(cause);
        let (fed, read) = futures_util::future::join(write, read).await;
        read.map_err(|error| failed(error.to_string()))?;
        let status = process.wait().await?;
        if status.success() {
            // One that failed, and so did not read on, has its own words for it.
            return fed.map_err(|error| failed(format!("it did not read all: {error}")));
        }
        Err(failed(status.to_string()).detail(
            "its last messages",
            String::from_utf8_lossy(&kept).trim_end(),
        ))
    }

    /// Starts a long-running program with both output streams going to `log`.
    pub fn spawn(self, log: File) -> Result<Process> {
        let line = self.line();
        let doing = |error: std::io::Error| Error::new(format!("starting `{line}`")).cause(error);
        let second = log.try_clone().map_err(doing)?;
        self.start(Stdio::null(), Stdio::from(log), Stdio::from(second))
    }

    fn start(self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Process> {
        tracing::debug!(target: "imgbuild::proc", "{}", self.line());
        let mut command = Command::new(&self.name);
        let inherited = std::env::vars_os().map(|(name, _)| name);
        for name in inherited.filter(|name| self.keeps_back(name)) {
            command.env_remove(name);
        }
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let inherit: Vec<i32> = self.inherit.iter().map(AsRawFd::as_raw_fd).collect();
        let dies_with_us = !self.outlives_us;
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only async-signal-safe system calls are made (fcntl, prctl, getppid), and
        // nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                for fd in &inherit {
                    let fd = rustix::fd::BorrowedFd::borrow_raw(*fd);
                    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
                }
                if dies_with_us {
                    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                    // The parent may have died before the request was in place.
                    if rustix::process::getppid() != Some(parent) {
                        return Err(std::io::Error::from_raw_os_error(
                            rustix::io::Errno::OWNERDEAD.raw_os_error(),
                        ));
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().map_err(|error| {
            let name = self.name.to_string_lossy();
            let failed = Error::new(format!("starting {name}")).cause(&error);
            match error.kind() {
                std::io::ErrorKind::NotFound => failed.hint(
                    "`imgbuild doctor` tells what is missing on this machine and how to get it",
                ),
                _ => failed,
            }
        })?;
        let group = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .ok_or_else(|| Error::new(format!("starting {}", self.name.to_string_lossy())))?;
        Ok(Process {
            child,
            group,
            outlives_us: self.outlives_us,
        })
    }

    fn keeps_back(&self, name: &OsStr) -> bool {
        if !self.is_users && crate::secret::is_in(name) {
            return true;
        }
        let name = name.as_encoded_bytes();
        let mut without = self.without.iter();
        name == OURS.as_bytes() || without.any(|prefix| name.starts_with(prefix.as_bytes()))
    }

    /// The command line as one would type it.
    fn line(&self) -> String {
        let words = std::iter::once(&self.name).chain(&self.args);
        words
            .map(|word| quote(&word.to_string_lossy()))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Quotes a word for a POSIX shell where it needs it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Writes all of it, and then the end.
async fn feed(stream: Option<impl AsyncWrite + Unpin>, text: Vec<u8>) -> std::io::Result<()> {
    match stream {
        Some(mut stream) => stream.write_all(&text).await,
        None => Ok(()),
    }
}

async fn drain(
    stream: Option<impl AsyncRead + Unpin>,
    mut each: impl FnMut(&[u8]),
) -> std::io::Result<()> {
    let Some(mut stream) = stream else {
        return Ok(());
    };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => each(&buffer[..read]),
        }
    }
}
