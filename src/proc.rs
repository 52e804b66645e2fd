//! The only user of `Command`. Rules for every program that is started here:
//! - its argv is logged (`-v`), so argv never carries a secret;
//! - stdin is empty, stderr is kept in bounded form for the error message;
//! - it runs in a process group of its own, so that a terminal's Ctrl-C reaches imgbuild only, and the group is killed
//!   when the future is dropped;
//! - unless told otherwise it dies with imgbuild, even by SIGKILL.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::error::{Error, Result};

/// How much of a failed program's stderr is shown.
const STDERR_KEPT: usize = 8 * 1024;

/// A program to run.
#[derive(Debug)]
pub struct Program {
    name: OsString,
    args: Vec<OsString>,
    inherit: Vec<OwnedFd>,
    outlives_us: bool,
}

/// A running program that is killed, with its process group, when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Pid,
    outlives_us: bool,
}

impl Program {
    /// A program found on `PATH` or by path.
    pub fn new(name: impl Into<OsString>) -> Self {
        Program {
            name: name.into(),
            args: vec![],
            inherit: vec![],
            outlives_us: false,
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

    /// Runs to the end, handing stdout over as it comes; a status other than 0 is an error with the end of stderr.
    pub async fn stream(self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let line = self.line();
        let mut process = self.start(Stdio::piped(), Stdio::piped())?;
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
        let failed = |cause: String| Error::new(format!("running `{line}`")).cause(cause);
        read.await.map_err(|error| failed(error.to_string()))?;
        let status = process.wait().await?;
        if status.success() {
            return Ok(());
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
        self.start(Stdio::from(log), Stdio::from(second))
    }

    fn start(self, stdout: Stdio, stderr: Stdio) -> Result<Process> {
        tracing::debug!(target: "imgbuild::proc", "{}", self.line());
        let mut command = Command::new(&self.name);
        command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
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

    /// The command line as one would type it.
    fn line(&self) -> String {
        let words = std::iter::once(&self.name).chain(&self.args);
        words
            .map(|word| quote(&word.to_string_lossy()))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

impl Process {
    /// The process id.
    pub fn id(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Waits for the program to end.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        self.child
            .wait()
            .await
            .map_err(|error| Error::new("waiting for a program to end").cause(error))
    }

    /// Kills the whole group at once and waits until the program is gone.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.kill_group();
        self.wait().await
    }

    fn kill_group(&self) {
        // A group that has ended already is what we want.
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `id` is None once the child was waited for: then the number may belong to somebody else.
        if !self.outlives_us && self.child.id().is_some() {
            self.kill_group();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Program {
        Program::new("sh").arg("-c").arg(script)
    }

    #[tokio::test]
    async fn stdout_is_returned() {
        assert_eq!(
            sh("echo one; echo two").stdout().await.unwrap(),
            "one\ntwo\n"
        );
    }

    #[tokio::test]
    async fn a_failure_says_the_command_its_status_and_its_last_words() {
        let error = sh("echo no such disk >&2; exit 3")
            .stdout()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert!(
            error.to_string().contains("sh -c 'echo no such disk"),
            "{error}"
        );
        assert_eq!(error.get_detail().unwrap().text, "no such disk");
    }

    #[tokio::test]
    async fn stderr_is_bounded() {
        let error = sh("head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1")
            .stdout()
            .await
            .unwrap_err();
        assert!(error.get_detail().unwrap().text.len() <= STDERR_KEPT);
    }

    #[tokio::test]
    async fn a_missing_program_points_at_doctor() {
        let error = Program::new("no-such-program-here")
            .stdout()
            .await
            .unwrap_err();
        assert!(error.get_hint().unwrap().contains("imgbuild doctor"));
    }

    #[tokio::test]
    async fn dropping_kills_grandchildren_too() {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let script = format!(
            "sleep 1000 & echo $! > {0}/new; mv {0}/new {0}/pid; wait",
            folder.path().display()
        );
        let process = sh(&script).spawn(log).unwrap();
        let pid = loop {
            match std::fs::read_to_string(folder.path().join("pid")) {
                Ok(pid) => break pid.trim().parse().unwrap(),
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let grandchild = Pid::from_raw(pid).unwrap();
        let watch =
            rustix::process::pidfd_open(grandchild, rustix::process::PidfdFlags::empty()).unwrap();
        drop(process);
        let mut fds = [rustix::event::PollFd::new(
            &watch,
            rustix::event::PollFlags::IN,
        )];
        let limit = rustix::event::Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        assert_eq!(
            rustix::event::poll(&mut fds, Some(&limit)).unwrap(),
            1,
            "still alive after ten seconds"
        );
    }

    #[test]
    fn words_are_quoted_only_where_needed() {
        assert_eq!(quote("a-b_c=1,d:/x"), "a-b_c=1,d:/x");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
