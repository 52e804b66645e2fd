//! A guest whose kernel hangs in its boot. Under emulation a CPU loses a timer's interrupt now and then and sleeps for good;
//! nothing but a new start helps.

use std::path::Path;
use std::time::Duration;

/// What Linux says on its console of CPUs that do not get on (kernel/rcu/tree_stall.h, kernel/watchdog.c).
const REPORTS: &[&str] = &["rcu: INFO: ", "kthread starved for", "BUG: soft lockup"];

/// How long QEMU must be idle. A guest that is only slow keeps it busy all the time.
pub const IDLE: Duration = Duration::from_secs(20);

/// The part of that time that an idle QEMU may take for clocks and retransmissions: one of so many.
const AWAKE: u32 = 10;

/// Waits until a guest hangs: its kernel has reported so in what `console` returns, the newest lines, and `process`, its
/// QEMU, is `idle` for so long. Never ends for a guest that does not.
pub async fn hangs(process: i32, idle: Duration, console: impl Fn() -> String) {
    loop {
        let before = cpu_time(process);
        tokio::time::sleep(idle).await;
        let used = match (before, cpu_time(process)) {
            (Some(before), Some(after)) => after.saturating_sub(before),
            _ => continue,
        };
        let console = console();
        if used < idle / AWAKE && REPORTS.iter().any(|report| console.contains(report)) {
            return;
        }
    }
}

/// How long a process has run on a CPU, all its threads together.
fn cpu_time(process: i32) -> Option<Duration> {
    let path = Path::new("/proc").join(process.to_string()).join("stat");
    let ticks = ticks(&std::fs::read_to_string(path).ok()?)?;
    let a_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_secs(ticks) / u32::try_from(a_second).ok()?)
}

/// User's and system's time of a line of /proc/PID/stat (proc_pid_stat(5)).
fn ticks(line: &str) -> Option<u64> {
    // The name before it may have blanks and brackets of its own.
    let (_, fields) = line.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "[   86.1] rcu: rcu_preempt kthread starved for 5251 jiffies!";

    fn shell(script: &str) -> std::process::Child {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", script]).spawn().unwrap()
    }

    async fn does_hang(process: i32, console: &'static str) -> bool {
        let idle = Duration::from_millis(100);
        let hangs = hangs(process, idle, || console.to_owned());
        tokio::time::timeout(idle * 3, hangs).await.is_ok()
    }

    #[tokio::test]
    async fn who_sleeps_after_a_report_hangs_and_who_sleeps_without_one_waits() {
        let mut child = shell("exec sleep 600");
        let process = i32::try_from(child.id()).unwrap();
        assert!(does_hang(process, REPORT).await);
        assert!(!does_hang(process, "[    1.0] Linux version 6.1").await);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!does_hang(process, REPORT).await, "it has ended");
    }

    #[test]
    fn the_times_are_found_behind_any_name() {
        let line = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 99";
        assert_eq!(ticks(line), Some(300));
        assert_eq!(ticks("42 (a"), None);
    }

    #[test]
    fn a_process_that_works_uses_time() {
        let mut child = shell("while :; do :; done");
        let process = i32::try_from(child.id()).unwrap();
        while cpu_time(process).unwrap() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
