//! What goes wrong with a build on a Proxmox VE node: it comes to its end all the same or says what went wrong, nothing of it
//! stays there, and what was there stays as it was.
//!
//! One run for each call of a build and each fault that can happen to such a call, and one for each call at which the build is
//! killed. All of them are more than a thousand, so each day has its part of them ([`lab::today`]), and ten of forty days one
//! with guests in QEMU. With `IMGBUILD_TEST_SWEEP=all` all are done, which takes most of an hour; with another text those with
//! this in their name: `plain`, `layered` or `real`, or that of a row as it was printed. The table at the end tells how each
//! ended.

#[path = "../lab/mod.rs"]
mod lab;
mod place;
mod rows;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::today;
use place::{Kind, PACE, Place, end};
use pve_lab::{Fault, Request, What};
use rows::{Call, Trouble, rows};
use table::{count, table};

/// How many nodes are worked with at the same time: a build there waits more than it works.
const WORKERS: usize = 6;

/// The same where guests are emulated.
const REAL_WORKERS: usize = 2;

/// Into how many parts the whole is divided.
const DAYS: usize = 40;

/// With how many builds a node is worn out: a server knows all its calls and tasks, and looking through them takes ever longer.
const WEAR: u32 = 20;

/// How long a build has to get behind a task that never ends before it is interrupted. Nothing depends on it: it may be
/// interrupted whenever.
const LINGER: Duration = Duration::from_millis(1500);

/// What chooses so many rows that some of them must succeed.
const WHOLE: [&str; 4] = ["all", "plain", "layered", "real"];

/// How a run ended.
struct Outcome {
    /// One letter for the table, see [`LEGEND`].
    letter: char,
    /// What was said of it.
    said: String,
}

/// The letter of what must not be.
const LEAK: char = 'L';

const LEGEND: &str = "s: succeeded all the same, e: failed (exit code 1), 5: conflict (exit code 5), i: interrupted in what never ends, \
                      E, I: the same, and `gc` was needed, k: killed, -: there was no such call, L: left something, or lost";

/// Lets something go wrong with one call of a build.
fn goes_wrong(place: &mut Place, call: &Call, trouble: &Trouble) -> Result<Outcome, String> {
    place.forget_images();
    let since = place.node.server.requests().len();
    let fault = Fault::on(&call.method, &call.pattern).nth(call.nth);
    let fault = match trouble {
        Trouble::Fault(_, what, lasts) => {
            let fault = fault.with(what.clone());
            if *lasts { fault.always() } else { fault }
        }
        Trouble::Kill => fault.with(What::GatewayTimeout),
    };
    place.node.server.inject(fault);
    let mut child = place.start();
    match trouble {
        Trouble::Kill if place.until_met(since, &mut child) => return is_killed(place, child),
        _ if trouble.is_endless() && place.until_met(since, &mut child) => interrupt(&mut child),
        _ => {}
    }
    let ended = end(child);
    let said = ended.stderr;
    let mut letter = match ended.code {
        _ if said.contains("panicked") => return Err(said),
        Some(0) if place.met(since).is_none() => '-',
        Some(0) => 's',
        Some(1) => 'e',
        Some(5) => '5',
        Some(130) if trouble.is_endless() => 'i',
        code => return Err(format!("{code:?}: {said}")),
    };
    if letter != 's' && letter != '-' && said.contains("some of what this build has made remains") {
        place.node.imgbuild(&["gc"]).with_code(0);
        letter = letter.to_ascii_uppercase();
    }
    if call.is_of_anybody() && trouble.is_endless() {
        // Nobody aborts it, and when it ends there is nothing.
        place.node.server.relent();
    }
    let is_new = Some(ended.code == Some(0));
    place
        .is_as_it_was(is_new)
        .map_err(|what| format!("{what}\n{said}"))?;
    if ended.code != Some(0) && ended.code != Some(130) && !names(&said, place.met(since)) {
        return Err(format!("unclear: {said}"));
    }
    Ok(Outcome { letter, said })
}

/// Whether an error names what it went wrong with: the call, the task that this has started, or the agent.
fn names(said: &str, call: Option<Request>) -> bool {
    let error = said.lines().find(|line| line.starts_with("error: "));
    error.is_some_and(|error| {
        error.contains("the task UPID:")
            || error.contains("the guest agent does not answer")
            || call.is_some_and(|call| error.contains(&call.path))
    })
}

/// What was said from the error on.
fn error(said: &str) -> &str {
    said.find("error: ").map_or("", |at| &said[at..])
}

/// Interrupts a build that has had some time to get behind a task that never ends.
fn interrupt(child: &mut Child) {
    let began = Instant::now();
    while began.elapsed() < LINGER {
        if child.try_wait().unwrap().is_some() {
            return;
        }
        std::thread::sleep(PACE);
    }
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", "INT", &pid]).status();
    assert!(sent.unwrap().success());
}

/// Kills a build, and cleans up after it.
fn is_killed(place: &mut Place, mut child: Child) -> Result<Outcome, String> {
    child.kill().unwrap();
    end(child).with_code(137);
    place.node.lab.until_dead();
    let said = place.node.imgbuild(&["gc"]).with_code(0).stderr;
    place
        .is_as_it_was(None)
        .map_err(|what| format!("{what}\n{said}"))?;
    Ok(Outcome { letter: 'k', said })
}

#[test]
fn whatever_goes_wrong_with_any_call_nothing_stays_and_nothing_is_lost() {
    let outcomes = [Kind::Plain, Kind::Layered, Kind::Real].map(sweep);
    let outcomes = outcomes.concat();
    assert!(!outcomes.is_empty(), "there is no such row");
    let is = |wanted: char| outcomes.iter().any(|(.., letter)| *letter == wanted);
    assert!(!is(LEAK));
    let chosen = std::env::var("IMGBUILD_TEST_SWEEP");
    let are_some = chosen.is_ok_and(|text| !WHOLE.contains(&text.as_str()));
    assert!(is('s') || are_some, "not one succeeds");
}

/// Does today's rows of one kind of build, and tells how each ended.
fn sweep(kind: Kind) -> Vec<(u32, &'static str, char)> {
    let mut rows = rows(kind);
    let all = rows.len();
    match std::env::var("IMGBUILD_TEST_SWEEP").as_deref() {
        Ok("all") => {}
        Ok(text) => rows.retain(|(call, trouble)| label(kind, call, trouble).contains(text)),
        Err(_) => {
            let of_today = rows.into_iter().skip(today() % DAYS).step_by(DAYS);
            rows = of_today.collect();
        }
    }
    let workers = match kind {
        Kind::Plain | Kind::Layered => WORKERS,
        Kind::Real => REAL_WORKERS,
    };
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..workers.min(rows.len()) {
            scope.spawn(|| {
                let mut place = Place::prepare("pve build cut", kind);
                while let Some((call, trouble)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let letter = row(&mut place, call, trouble);
                    let mut outcomes = outcomes.lock().unwrap();
                    outcomes.push((call.at, trouble.name(), letter));
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    let (table, counts) = (table(&rows, &outcomes), count(&outcomes));
    println!("{table}\n{LEGEND}");
    println!(
        "{}: {} of {all} rows: {counts:?}",
        kind.name(),
        outcomes.len()
    );
    outcomes
}

/// One row of the table. What was left is left alone, with its node.
fn row(place: &mut Place, call: &Call, trouble: &Trouble) -> char {
    if place.builds > WEAR {
        *place = Place::prepare("pve build cut", place.kind);
    }
    let went = AssertUnwindSafe(|| goes_wrong(place, call, trouble));
    let went = catch_unwind(went).unwrap_or_else(|_| Err("see above".into()));
    let Outcome { letter, said } = went.unwrap_or_else(|said| {
        *place = Place::prepare("pve build cut", place.kind);
        Outcome { letter: LEAK, said }
    });
    let said = match letter {
        LEAK => said.as_str(),
        _ => error(&said),
    };
    println!("{letter} {}: {said}", label(place.kind, call, trouble));
    letter
}

/// What a row is called.
fn label(kind: Kind, call: &Call, trouble: &Trouble) -> String {
    format!("{}: {}, {}", kind.name(), call.name(), trouble.name())
}
