//! Faults that tests inject.

use std::time::Duration;

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The connection is closed unanswered, nothing was done, and new connections are refused for a while.
    Refused { lasting: Duration },
    /// The connection is reset in the middle of the call's body (before the answer if it has none). Nothing was done.
    CutCall,
    /// The call's body is read slowly: with a pause after each piece.
    SlowCall { pause: Duration },
    /// The call is done, and the connection reset in the middle of the answer. A WebSocket ends after the first that the guest
    /// says.
    CutAnswer,
    /// The call is done, and something on the way puts a page of its own in the answer's place.
    StrangeAnswer,
    /// 401 `Authentication failed!`.
    Unauthorized,
    /// 403 `Permission check failed (PATH, PRIVILEGE)`.
    Forbidden { path: String, privilege: String },
    /// 500 with this reason. Nothing was done.
    Error { reason: String },
    /// 596 after the 30 s of a proxied call (see `Setup::pace`). The call is done.
    GatewayTimeout,
    /// The call's task fails with this in the middle of its work, and cleans up as Proxmox does.
    TaskError { message: String },
    /// The call's task has a warning, and so ends with `WARNINGS: 1`, which is a success.
    TaskWarns { message: String },
    /// The disks of a machine that is removed are busy: they stay, which is a warning.
    DiskStays,
    /// The call's task stops in the middle of its work, with all locks that it has, and never ends unless it is aborted
    /// or the server relents.
    TaskHangs,
    /// As `TaskHangs`, and nobody is told of the task: 596 after the 30 s of a proxied call.
    TaskUntold,
    /// The call's task is killed in the middle of its work, as when its node loses power: it says nothing more, and does not
    /// clean up. Of an upload, half of the file is there.
    TaskKilled,
    /// Another process has the lock of the VM for longer than the call waits.
    LockTimeout,
    /// Somebody else makes a VM with the id that the call is about to use. It stays, and is nobody's to remove.
    VmidTaken,
    /// Nothing more fits on any storage while the call and its task run.
    StorageFull,
    /// The guest agent is silent for this call.
    AgentSilent,
    /// A terminal does not take the ticket of a token, as before qemu-server 9.1.7 and 8.4.7.
    NoConsoleForTokens,
    /// The guest does not react to the shutdown.
    ShutdownHangs,
}

/// Which calls, and what happens to them. See the [crate's documentation](crate).
#[derive(Clone, Debug)]
pub struct Fault {
    method: String,
    pattern: String,
    skip: u32,
    times: Option<u32>,
    what: What,
}

impl Fault {
    /// For calls with this method (`*` for any) and this path below `/api2/json`, in which `*` stands for one segment, and
    /// `**` for all that are left.
    /// It happens to the first of them unless more is said.
    pub fn on(method: &str, pattern: &str) -> Self {
        Fault {
            method: method.into(),
            pattern: pattern.into(),
            skip: 0,
            times: Some(1),
            what: What::CutCall,
        }
    }

    /// Happens to the `n`th call from now, counted from 1.
    pub fn nth(mut self, n: u32) -> Self {
        self.skip = n.saturating_sub(1);
        self
    }

    /// Happens to so many calls in a row.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Happens to all calls from then on.
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    /// What happens.
    pub fn with(mut self, what: What) -> Self {
        self.what = what;
        self
    }

    fn matches(&self, method: &str, path: &str) -> bool {
        if self.method != "*" && self.method != method {
            return false;
        }
        let mut segments = path.split('/');
        for want in self.pattern.split('/') {
            match (want, segments.next()) {
                ("**", _) => return true,
                (want, Some(have)) if want == "*" || want == have => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }
}

/// The faults of one server.
#[derive(Default)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What is to happen to this call. Each fault that matches counts it; the oldest that is due happens.
    pub fn due(&mut self, method: &str, path: &str) -> Option<What> {
        let mut what = None;
        for fault in &mut self.0 {
            if !fault.matches(method, path) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if what.is_none() && fault.times != Some(0) {
                fault.times = fault.times.map(|times| times - 1);
                what = Some(fault.what.clone());
            }
        }
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_happens_to_the_calls_it_names_and_to_no_others() {
        let mut faults = Faults::default();
        faults.add(
            Fault::on("GET", "/nodes/*/tasks/*/status")
                .nth(2)
                .with(What::CutAnswer),
        );
        let path = "/nodes/pve/tasks/UPID:1/status";
        assert_eq!(faults.due("GET", path), None, "the first");
        assert_eq!(faults.due("DELETE", path), None, "another method");
        assert_eq!(faults.due("GET", "/nodes/pve/tasks/UPID:1"), None);
        assert_eq!(faults.due("GET", &format!("{path}/x")), None);
        assert_eq!(faults.due("GET", path), Some(What::CutAnswer));
        assert_eq!(faults.due("GET", path), None, "once only");
        faults.add(Fault::on("*", "/nodes/**"));
        assert_eq!(faults.due("GET", "/version"), None);
        assert_eq!(faults.due("POST", path), Some(What::CutCall));
    }
}
