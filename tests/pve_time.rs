//! What imgbuild adds to a build on a node: a benchmark, which `scripts/bench-target` runs, and no test of every day.

mod lab;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use lab::Image;
use lab::node::Node;
use pve_lab::{Setup, TaskRecord};
use serde_json::Value;

/// The phases in which the guest works, or somebody reads what it gives.
const OF_GUEST: &[&str] = &[
    "boot",
    "cloud-init",
    "work",
    "seal",
    "test work",
    "boot helper",
    "attach disk",
    "audit",
    "sbom",
    "digest",
];

/// From when to when, in seconds.
type Span = (f64, f64);

/// How long at least one of these went on.
fn union(mut spans: Vec<Span>) -> f64 {
    spans.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut total, mut end) = (0.0, f64::MIN);
    for (from, to) in spans {
        total += (to - from.max(end)).max(0.0);
        end = end.max(to);
    }
    total
}

/// How long it took to see the end of a short task, and how often a long one was looked at for each second after its second one.
fn polling(node: &Node, tasks: &[TaskRecord]) -> (Duration, f64) {
    let requests = node.server.requests();
    let (mut slowest, mut most) = (Duration::ZERO, 0.0_f64);
    for task in tasks {
        let Some(ended) = task.ended else { continue };
        let path = format!("/tasks/{}/status", task.upid);
        let looks = requests.iter().filter(|it| it.path.ends_with(&path));
        let looks: Vec<_> = looks.collect();
        let took = ended - task.began;
        if took < Duration::from_secs(2) {
            let seen = looks.iter().find(|look| look.began >= ended);
            slowest = slowest.max(seen.map_or(Duration::ZERO, |look| look.began - ended));
        } else {
            let late = task.began + Duration::from_secs(2);
            let count = looks
                .iter()
                .filter(|look| look.began > late && look.began < ended);
            most = most.max(count.count() as f64 / (took.as_secs_f64() - 2.0).max(1.0));
        }
    }
    (slowest, most)
}

#[test]
#[ignore = "a benchmark: scripts/bench-target"]
fn what_imgbuild_adds_to_a_build_on_a_node() {
    let node = Node::whole("pve time", Setup::new(), "9000-9099");
    let recipe = node.lab.recipe(
        "web",
        Image::Tiny,
        "[ssh]\nport = 2222\ntimeout = \"5m\"\n[[step]]\nname = \"work\"\nrun = \"echo made > /etc/mark\"\n\
         [[test]]\nname = \"work\"\nrun = \"grep made /etc/mark\"\n",
    );
    let (zero, wall) = (Instant::now(), Timestamp::now());
    let recipe = recipe.to_str().unwrap();
    let ended = node
        .imgbuild(&["run", "--target", "lab", "--format", "json", recipe])
        .with_code(0);
    let total = zero.elapsed().as_secs_f64();

    let seconds = |at: Instant| at.duration_since(zero).as_secs_f64();
    let mut spans = vec![];
    for line in ended.stdout.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let phase = event["phase"].as_str().unwrap_or_default();
        if event["event"] == "phase-done" && OF_GUEST.contains(&phase) {
            let at: Timestamp = event["time"].as_str().unwrap().parse().unwrap();
            let to = at.duration_since(wall).as_secs_f64();
            spans.push((to - event["seconds"].as_f64().unwrap(), to));
        }
    }
    let of_guest = union(spans.clone());
    let tasks = node.server.tasks();
    let of_tasks = tasks
        .iter()
        .filter_map(|task| Some((seconds(task.began), seconds(task.ended?))));
    spans.extend(of_tasks);
    let uploads = node
        .server
        .requests()
        .into_iter()
        .filter(|request| request.method == "POST" && request.path.ends_with("/upload"));
    spans.extend(uploads.filter_map(|it| Some((seconds(it.began), seconds(it.ended?)))));
    let needed = union(spans);
    let added = total - needed;
    let (slowest, most) = polling(&node, &tasks);
    println!(
        "build {total:.1} s; guest {of_guest:.1} s; guest and server {needed:.1} s; imgbuild adds {added:.2} s = {:.1} %",
        100.0 * added / needed
    );
    println!(
        "the end of a short task was looked for {:.0} ms after it at the latest; a long task cost {most:.2} requests a second",
        slowest.as_secs_f64() * 1000.0
    );
    assert!(added < 2.0_f64.max(0.03 * needed), "more than 3 % and 2 s");
}
