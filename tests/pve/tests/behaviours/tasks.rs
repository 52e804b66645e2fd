use pve_lab::{Fault, Server, Setup, What};
use serde_json::json;

use crate::client::{Client, form};

#[test]
fn a_upid_says_what_for() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let created = client.post("/nodes/pve/qemu", "vmid=100");
    let upid = created.data().as_str().unwrap().to_owned();
    let parts: Vec<&str> = upid.split(':').collect();
    let [start, node, pid, pstart, time, kind, id, user, end] = parts[..] else {
        panic!("{upid}")
    };
    let words = (start, node, kind, id, user, end);
    assert_eq!(
        words,
        ("UPID", "pve", "qmcreate", "100", "builder@pve!lab", "")
    );
    for number in [pid, pstart, time] {
        assert_eq!(number.len(), 8, "{upid}");
        assert!(u32::from_str_radix(number, 16).is_ok(), "{upid}");
    }
}

#[test]
fn a_task_ends_with_ok_or_a_message() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let last = |upid: &str| {
        client.exit(upid);
        let log = client.get(&format!("/nodes/pve/tasks/{upid}/log")).data();
        log.as_array().unwrap().last().unwrap()["t"].clone()
    };
    let good = client.post("/nodes/pve/qemu", "vmid=100").data();
    let good = good.as_str().unwrap();
    assert_eq!(client.exit(good), "OK");
    assert_eq!(last(good), "TASK OK");
    let disk = form(&[
        ("vmid", "101"),
        ("scsi0", "local:0,import-from=local:import/nope.raw"),
    ]);
    let bad = client.post("/nodes/pve/qemu", &disk).data();
    let bad = bad.as_str().unwrap();
    let message = client.exit(bad);
    let path = "/storage/local@pve/import/nope.raw'";
    assert!(
        message.starts_with("unable to create VM 101 - failed to stat '/"),
        "{message}"
    );
    assert!(message.ends_with(path), "{message}");
    assert_eq!(last(bad), format!("TASK ERROR: {message}"));
}

#[test]
fn warnings_are_a_success() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let message = "something is odd".to_owned();
    server.inject(Fault::on("POST", "/nodes/*/qemu").with(What::TaskWarns { message }));
    let created = client.post("/nodes/pve/qemu", "vmid=100");
    assert_eq!(client.task(&created), "WARNINGS: 1");
    assert_eq!(client.get("/nodes/pve/qemu").data()[0]["vmid"], 100);
}

#[test]
fn a_log_comes_in_pages_of_50() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let cloned = client.post(&client.vm(100, "/clone"), "newid=101");
    assert_eq!(client.task(&cloned), "OK");
    let path = format!("/nodes/pve/tasks/{}/log", cloned.data().as_str().unwrap());
    let page = client.get(&path).json();
    let total = page["total"].as_u64().unwrap();
    assert!(total > 100, "{page}");
    assert_eq!(page["data"].as_array().unwrap().len(), 50);
    let end = client
        .get(&format!("{path}?start={}&limit=5", total - 1))
        .data();
    assert_eq!(end, json!([{"n": total, "t": "TASK OK"}]));
}

#[test]
fn a_clones_task_has_the_id_of_its_source() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let cloned = client.post(&client.vm(100, "/clone"), "newid=101");
    assert_eq!(client.task(&cloned), "OK");
    let upid = cloned.data();
    assert!(upid.as_str().unwrap().contains(":qmclone:100:"), "{upid}");
}

#[test]
fn an_unknown_upid_is_a_400() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let upid = "UPID:pve:000074FA:0004990D:6B006EB4:qmcreate:100:builder@pve!lab:";
    let path = format!("/nodes/pve/tasks/{upid}");
    client
        .get(&format!("{path}/status"))
        .refuses("upid", "no such task");
    client.delete(&path).refuses("upid", "no such task");
    let line = json!([{"n": 1, "t": "unable to open file - No such file or directory"}]);
    assert_eq!(client.get(&format!("{path}/log")).data(), line);
}

#[test]
fn a_list_tells_tokens_of_tasks_that_have_ended() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    server.inject(Fault::on("POST", "/nodes/*/qemu").with(What::TaskHangs));
    client.post("/nodes/pve/qemu", "vmid=100").is(200, "OK");
    let facts = |source: &str| {
        let path = format!("/nodes/pve/tasks?source={source}");
        let task = client.until(&path, |tasks| tasks[0].is_object())[0].clone();
        json!([task["user"], task["tokenid"], task["status"]])
    };
    let running = json!(["builder@pve!lab", null, "RUNNING"]);
    assert_eq!((facts("active"), facts("all")), (running.clone(), running));
    server.relent();
    assert_eq!(facts("archive"), json!(["builder@pve", "lab", "OK"]));
}

#[test]
fn an_aborted_clone_leaves_nothing() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let before = server.inventory();
    server.inject(Fault::on("POST", "/nodes/*/qemu/*/clone").with(What::TaskHangs));
    let cloned = client.post(&client.vm(100, "/clone"), "newid=101");
    client.until("/nodes/pve/qemu", |vms| vms[1]["lock"] == "clone");
    let upid = cloned.data().as_str().unwrap().to_owned();
    client
        .delete(&format!("/nodes/pve/tasks/{upid}"))
        .is(200, "OK");
    assert_eq!(client.exit(&upid), "received interrupt");
    assert_eq!(server.inventory(), before);
}
