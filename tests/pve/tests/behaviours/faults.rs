//! What each fault looks like from outside. (Others are shown by the behaviour that they bring about.)

use std::io::ErrorKind;
use std::time::Duration;

use pve_lab::{Fault, Server, Setup, Storage, What};

use crate::client::{Client, Form, Wire};

#[test]
fn refused_connections_are_refused_until_the_time_is_over() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let lasting = Duration::from_millis(500);
    server.inject(Fault::on("GET", "/version").with(What::Refused { lasting }));
    assert!(client.raw("GET", "/version", "", b"").is_err());
    let refused = loop {
        // The port closes a moment after the connection did.
        if let Err(error) = Wire::open(&(&server).into()) {
            break error;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let again = loop {
        if let Ok(answer) = client.raw("GET", "/version", "", b"") {
            break answer;
        }
    };
    again.is(200, "OK");
}

#[test]
fn a_call_that_is_cut_was_not_done() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let before = server.inventory();
    server.inject(Fault::on("POST", "/nodes/*/qemu").with(What::CutCall));
    let headers = "Content-Length: 8\r\n";
    assert!(
        client
            .raw("POST", "/nodes/pve/qemu", headers, b"vmid=100")
            .is_err()
    );
    let upload = "/nodes/*/storage/*/upload";
    server.inject(Fault::on("POST", upload).with(What::CutCall));
    let form = Form::new()
        .field("content", "iso")
        .file("a.iso", &vec![0; 1 << 20]);
    assert!(client.upload(form).is_err());
    assert_eq!(server.inventory(), before);
}

#[test]
fn a_call_whose_answer_is_cut_was_done() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    server.inject(Fault::on("POST", "/nodes/*/qemu").with(What::CutAnswer));
    let mut wire = Wire::open(&(&server).into()).unwrap();
    let headers = "Content-Length: 8\r\n";
    let message = client.message("POST", "/nodes/pve/qemu", headers, b"vmid=100");
    wire.send(&message).unwrap();
    let error = wire.answer().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    client.until("/nodes/pve/qemu", |vms| vms[0]["vmid"] == 100);
    let requests = server.requests();
    assert_eq!((requests[0].status, requests[0].fault), (Some(200), true));
}

#[test]
fn answers_that_are_injected_are_as_the_real_ones() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let inject = |what: What| server.inject(Fault::on("GET", "/version").with(what));
    inject(What::Unauthorized);
    client.get("/version").is(401, "Authentication failed!");
    inject(What::Forbidden {
        path: "/vms/1".into(),
        privilege: "VM.Audit".into(),
    });
    client
        .get("/version")
        .is(403, "Permission check failed (/vms/1, VM.Audit)");
    inject(What::Error {
        reason: "got no worker".into(),
    });
    client.get("/version").is(500, "got no worker");
    client.get("/version").is(200, "OK");
}

#[test]
fn a_task_that_fails_leaves_nothing() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let before = server.inventory();
    let message = "it broke".to_owned();
    server.inject(Fault::on("POST", "/nodes/*/qemu").with(What::TaskError { message }));
    let created = client.post("/nodes/pve/qemu", "vmid=100&scsi0=local%3A0.01");
    assert_eq!(client.task(&created), "unable to create VM 100 - it broke");
    assert_eq!(server.inventory(), before);
}

#[test]
fn a_task_that_is_killed_leaves_what_it_had_made() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    server.inject(Fault::on("POST", "/nodes/*/storage/*/upload").with(What::TaskKilled));
    let form = Form::new().field("content", "iso").file("a.iso", b"1234");
    let sent = client.upload(form).unwrap();
    assert_eq!(client.task(&sent), "unexpected status");
    assert_eq!(
        server.inventory().volumes,
        [("pve/local:iso/a.iso".to_owned(), 2)]
    );
}

#[test]
fn a_task_of_which_nobody_is_told_ends_when_the_server_relents() {
    let server = Server::start(Setup::new().pace(20));
    let client = Client::new(&server);
    server.inject(Fault::on("POST", "/nodes/*/qemu").with(What::TaskUntold));
    let created = client.post("/nodes/pve/qemu", "vmid=100");
    created.is(596, "Connection timed out");
    assert_eq!(server.inventory().running.len(), 1);
    server.relent();
    client.until("/nodes/pve/tasks", |tasks| tasks[0]["status"] == "OK");
}

#[test]
fn a_busy_disk_stays_when_its_vm_goes() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let volumes = server.inventory().volumes;
    let (disk, _) = &volumes[0];
    let disk = disk.strip_prefix("pve/").unwrap();
    server.inject(Fault::on("DELETE", "/nodes/*/qemu/*").with(What::DiskStays));
    let removed = client.delete(&client.vm(100, "?purge=1"));
    assert_eq!(client.task(&removed), "WARNINGS: 1");
    let after = server.inventory();
    assert_eq!((after.vms.len(), &after.volumes), (0, &volumes));
    let path = format!("/nodes/pve/tasks/{}/log", removed.data().as_str().unwrap());
    let log = client.get(&path).data().to_string();
    let said = format!("WARN: Could not remove disk '{disk}', check manually: ");
    assert!(log.contains(&said), "{log}");
}

#[test]
fn an_id_that_was_taken_is_somebody_elses() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    server.inject(Fault::on("POST", "/nodes/*/qemu").with(What::VmidTaken));
    let created = client.post("/nodes/pve/qemu", "vmid=100");
    created.is(
        500,
        "unable to create VM 100 - VM 100 already exists on node 'pve'",
    );
    assert_eq!(server.inventory().vms, ["100 somebody-elses []"]);
}

#[test]
fn a_storage_that_is_full_takes_nothing() {
    let small = Storage::new("small").holding(&["iso"]).of_bytes(1 << 20);
    let server = Server::start(Setup::new().storage(small));
    let client = Client::new(&server);
    let upload = |storage: &str| {
        let form = Form::new()
            .field("content", "iso")
            .file("a.iso", &vec![1; 2 << 20]);
        let (headers, body) = form.end();
        let path = format!("/nodes/pve/storage/{storage}/upload");
        client.task(&client.raw("POST", &path, &headers, &body).unwrap())
    };
    let full = upload("small");
    assert!(full.ends_with("No space left on device"), "{full}");
    server.inject(Fault::on("POST", "/nodes/*/storage/*/upload").with(What::StorageFull));
    let full = upload("local");
    assert!(full.ends_with("No space left on device"), "{full}");
    assert_eq!(upload("local"), "OK");
}

#[test]
fn a_guest_that_hangs_does_not_go_down() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    client.start(100);
    server.inject(Fault::on("POST", "/nodes/*/qemu/*/status/shutdown").with(What::ShutdownHangs));
    let down = client.post(&client.vm(100, "/status/shutdown"), "timeout=1");
    assert_eq!(client.task(&down), "VM quit/powerdown failed - got timeout");
}

#[test]
fn the_log_of_calls_has_no_secret() {
    let server = Server::start(Setup::new().user("root@pam", "hunter2"));
    let client = Client::new(&server);
    client
        .post("/access/ticket", "username=root%40pam&password=hunter2")
        .is(200, "OK");
    let log = format!("{:?}", server.requests());
    assert!(log.contains("/access/ticket"), "{log}");
    assert!(
        !log.contains("hunter2") && !log.contains(pve_lab::SECRET),
        "{log}"
    );
}
