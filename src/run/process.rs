//! Finding and ending processes that a build of this or of a dead imgbuild has started.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Error, Result};

/// How long a killed process may take to disappear (uninterruptible disk I/O delays it).
const DEATH: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// Kills every process that has `word` as one argument of its command line, and waits until all are gone.
pub async fn kill_by_word(word: &str) -> Result<()> {
    let word = word.to_owned();
    tokio::task::spawn_blocking(move || {
        pids(&word).into_iter().try_for_each(|pid| kill(pid, &word))
    })
    .await
    .map_err(|error| Error::new("ending a process").caused_by(&error))?
}

/// The processes that have `word` as an argument.
pub fn pids(word: &str) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return vec![];
    };
    let ids = entries.flatten().filter_map(|entry| {
        let id: i32 = entry.file_name().to_str()?.parse().ok()?;
        Pid::from_raw(id)
    });
    ids.filter(|pid| has_word(*pid, word)).collect()
}

fn has_word(pid: Pid, word: &str) -> bool {
    std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|arg| arg == word.as_bytes())
    })
}

fn kill(pid: Pid, word: &str) -> Result<()> {
    let failed = |errno: rustix::io::Errno| {
        Error::new(format!("ending process {} ({word})", pid.as_raw_nonzero())).cause(errno)
    };
    let watch = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(watch) => watch,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    };
    // With the descriptor held the pid cannot come to mean another process; look once more before shooting.
    if !has_word(pid, word) {
        return Ok(());
    }
    match pidfd_send_signal(&watch, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let mut fds = [PollFd::new(&watch, PollFlags::IN)];
    // The news of its death, if it is a child of ours, may come as a signal to the very thread that waits.
    match retry_on_intr(|| poll(&mut fds, Some(&DEATH))) {
        Ok(0) => Err(failed(rustix::io::Errno::TIMEDOUT)),
        Ok(_) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_process_with_the_word_is_killed() {
        let word = format!("imgbuild-test-{}", std::process::id());
        let start = |name: &str| {
            std::process::Command::new("sh")
                .args(["-c", "read x", name])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut ours = start(&word);
        let mut other = start(&format!("{word}-other"));
        while pids(&word).is_empty() {
            tokio::task::yield_now().await; // between fork and exec the command line is still our own
        }
        kill_by_word(&word).await.unwrap();
        assert!(!ours.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[tokio::test]
    async fn nothing_to_kill_is_success() {
        kill_by_word("imgbuild-no-such-process-anywhere")
            .await
            .unwrap();
    }
}
