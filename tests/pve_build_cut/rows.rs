//! The calls of a build, and what can go wrong with each.

use std::collections::BTreeMap;
use std::time::Duration;

use pve_lab::{Request, What};

use crate::place::{Kind, Place};

/// One call of a build.
#[derive(Clone)]
pub struct Call {
    pub method: String,
    pub pattern: String,
    /// Which one of this method and pattern.
    pub nth: u32,
    /// Its place in the table.
    pub at: u32,
}

impl Call {
    pub fn name(&self) -> String {
        format!("{} {} {}", self.method, self.pattern, self.nth)
    }

    fn starts_task(&self) -> bool {
        self.method != "GET" && !self.pattern.ends_with("/termproxy")
    }

    /// Whether its task does not say whose it is, or what it is about: that of a base image, or of a volume's removal.
    pub fn is_of_anybody(&self) -> bool {
        let is_first_upload = self.pattern.ends_with("/upload") && self.nth == 1;
        is_first_upload || (self.method == "DELETE" && self.pattern.contains("/content/"))
    }

    fn is_of_agent(&self) -> bool {
        self.pattern.contains("/agent/")
    }

    fn makes_machine(&self) -> bool {
        self.method == "POST"
            && (self.pattern.ends_with("/qemu") || self.pattern.ends_with("/clone"))
    }
}

/// A pattern for calls like this one.
fn pattern(path: &str) -> String {
    let storage = path.split_once("/content/").map(|(storage, _)| storage);
    let path = storage.map_or(path.to_owned(), |storage| format!("{storage}/content/**"));
    let segment = |segment: &str| match segment {
        "pve" | "local" => "*".to_owned(),
        _ if segment.starts_with("UPID:") || segment.parse::<u32>().is_ok() => "*".to_owned(),
        _ => segment.to_owned(),
    };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

/// What goes wrong with guests in QEMU: something of each kind, in each phase of a build.
const REAL: &[(&str, &str, u32, &str)] = &[
    ("POST", "/nodes/*/storage/*/upload", 1, "cut call"),
    ("POST", "/nodes/*/qemu", 1, "cut answer"),
    ("POST", "/nodes/*/qemu/*/status/start", 1, "596"),
    (
        "GET",
        "/nodes/*/qemu/*/agent/network-get-interfaces",
        1,
        "mute",
    ),
    ("POST", "/nodes/*/qemu/*/status/shutdown", 1, "no shutdown"),
    ("POST", "/nodes/*/qemu/*/template", 1, "lock"),
    ("POST", "/nodes/*/qemu/*/clone", 1, "task error"),
    ("POST", "/nodes/*/qemu/*/config", 4, "hangs"),
    ("POST", "/nodes/*/qemu/*/status/start", 2, "kill"),
    ("DELETE", "/nodes/*/qemu/*", 2, "kill"),
];

/// The calls of a kind of build, and all that can go wrong with each.
pub fn rows(kind: Kind) -> Vec<(Call, Trouble)> {
    match kind {
        Kind::Plain | Kind::Layered => {
            let all = calls(kind).into_iter().flat_map(|call| {
                let troubles = troubles(&call).into_iter();
                troubles.map(move |trouble| (call.clone(), trouble))
            });
            all.collect()
        }
        Kind::Real => (1..).zip(REAL).map(real).collect(),
    }
}

fn real((at, (method, pattern, nth, name)): (u32, &(&str, &str, u32, &str))) -> (Call, Trouble) {
    let call = Call {
        method: (*method).to_owned(),
        pattern: (*pattern).to_owned(),
        nth: *nth,
        at,
    };
    let mut troubles = troubles(&call).into_iter();
    let trouble = troubles.find(|trouble| trouble.name() == *name).unwrap();
    (call, trouble)
}

/// The calls of a build in which nothing goes wrong. What is asked again and again is in there once.
fn calls(kind: Kind) -> Vec<Call> {
    let mut place = Place::prepare("pve build, calls", kind);
    place.forget_images();
    let before = place.node.server.requests().len();
    place.build();
    let calls = distinct(&place.node.server.requests()[before..]);
    assert!(calls.len() > 80, "{}", calls.len());
    match kind {
        Kind::Layered => of_layer(calls),
        _ => calls,
    }
}

fn distinct(requests: &[Request]) -> Vec<Call> {
    let mut counts: BTreeMap<_, u32> = BTreeMap::new();
    let (mut calls, mut seen) = (vec![], vec![]);
    for (at, request) in (1..).zip(requests) {
        let kind = (request.method.clone(), pattern(&request.path));
        let nth = counts.entry(kind.clone()).or_default();
        *nth += 1;
        let is_task = request.path.contains("/tasks/UPID:");
        if !is_task || !seen.contains(&request.path) {
            seen.push(request.path.clone());
            let ((method, pattern), nth) = (kind, *nth);
            calls.push(Call {
                method,
                pattern,
                nth,
                at,
            });
        }
    }
    calls
}

/// What a layer adds to a build: the calls that change something, until what was built on it is a template.
fn of_layer(calls: Vec<Call>) -> Vec<Call> {
    let of_layer = calls.into_iter();
    let of_layer = of_layer.skip_while(|call| !call.pattern.ends_with("/shutdown"));
    let is_last = |call: &Call| call.pattern.ends_with("/template") && call.nth == 2;
    let mut left = true;
    let of_layer = of_layer.take_while(|call| std::mem::replace(&mut left, !is_last(call)));
    let calls: Vec<_> = of_layer.filter(|call| call.method != "GET").collect();
    assert!(calls.last().is_some_and(is_last), "there was no layer");
    calls
}

/// What goes wrong in one run.
pub enum Trouble {
    /// Once, or from then on.
    Fault(&'static str, What, bool),
    /// The build is killed while it waits for the call.
    Kill,
}

impl Trouble {
    pub fn name(&self) -> &'static str {
        match self {
            Trouble::Fault(name, ..) => name,
            Trouble::Kill => "kill",
        }
    }

    /// Whether the build waits for something that never comes.
    pub fn is_endless(&self) -> bool {
        matches!(
            self,
            Trouble::Fault(_, What::TaskHangs | What::TaskUntold, _)
        )
    }
}

/// All that can go wrong with a call.
fn troubles(call: &Call) -> Vec<Trouble> {
    let error = |reason: &str| What::Error {
        reason: reason.into(),
    };
    let forbidden = What::Forbidden {
        path: "/vms/9001".into(),
        privilege: "VM.Allocate".into(),
    };
    let lasting = Duration::from_millis(100);
    let mut faults = vec![
        ("refused", What::Refused { lasting }),
        ("cut answer", What::CutAnswer),
        ("401", What::Unauthorized),
        ("403", forbidden),
        ("500", error("no luck")),
        ("596", What::GatewayTimeout),
    ];
    if call.method != "GET" {
        let locked = "can't lock file '/var/lock/qemu-server/lock-9001.conf' - got timeout";
        faults.extend([("cut call", What::CutCall), ("lock file", error(locked))]);
    }
    if call.starts_task() {
        let message = "no luck".into();
        faults.extend([
            ("task error", What::TaskError { message }),
            ("hangs", What::TaskHangs),
            ("untold", What::TaskUntold),
            ("lock", What::LockTimeout),
            ("full", What::StorageFull),
        ]);
    }
    if call.makes_machine() {
        faults.push(("taken", What::VmidTaken));
    }
    if call.method == "DELETE" && call.pattern.ends_with("/qemu/*") {
        faults.push(("disk stays", What::DiskStays));
    }
    if call.pattern.ends_with("/shutdown") {
        faults.push(("no shutdown", What::ShutdownHangs));
    }
    let mut all: Vec<_> = faults
        .into_iter()
        .map(|(name, what)| Trouble::Fault(name, what, false))
        .collect();
    if call.is_of_agent() {
        all.push(Trouble::Fault("silent", What::AgentSilent, false));
        all.push(Trouble::Fault("mute", What::AgentSilent, true));
    }
    all.push(Trouble::Kill);
    all
}
