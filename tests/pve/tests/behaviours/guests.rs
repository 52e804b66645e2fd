//! With a real guest, the tiny one that `scripts/make-tiny-image` makes.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pve_lab::{Server, Setup};

use crate::client::{Client, form};

/// Under emulation, with other machines beside it.
const DEADLINE: Duration = Duration::from_secs(300);

/// Waits until the guest's sshd says who it is.
fn until_ssh(server: &Server, vmid: u32) {
    let begin = Instant::now();
    loop {
        let banner = TcpStream::connect((server.address(vmid), 2222)).and_then(|stream| {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).map(|_| line)
        });
        match banner {
            Ok(line) if line.starts_with("SSH-2.0") => return,
            other => assert!(begin.elapsed() < DEADLINE, "{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_reboot_ends_when_the_guest_is_down() {
    let image = std::env::var_os("IMGBUILD_TEST_TINY");
    let image = image.expect("IMGBUILD_TEST_TINY is not set: run scripts/test");
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let source = client.has_file("import", "tiny.qcow2", &std::fs::read(image).unwrap());
    let disk = format!("local:0,import-from={source}");
    let vm = [
        ("vmid", "100"),
        ("memory", "256"),
        ("virtio0", disk.as_str()),
        ("net0", "virtio,bridge=vmbr0"),
        ("serial0", "socket"),
    ];
    assert_eq!(
        client.task(&client.post("/nodes/pve/qemu", &form(&vm))),
        "OK"
    );
    client.start(100);
    until_ssh(&server, 100);
    let status = client.vm(100, "/status/current");
    let reboot = client.post(&client.vm(100, "/status/reboot"), "");
    let upid = reboot.data().as_str().unwrap().to_owned();
    client.until_in(
        DEADLINE,
        &format!("/nodes/pve/tasks/{upid}/status"),
        |task| task["status"] == "stopped",
    );
    assert_eq!(client.exit(&upid), "OK");
    assert_eq!(client.get(&status).data()["status"], "stopped");
    // Nothing to stop, and it comes all the same.
    assert_eq!(
        client.task(&client.post(&client.vm(100, "/status/stop"), "")),
        "OK"
    );
    client.until(&status, |vm| vm["status"] == "running");
    until_ssh(&server, 100);
    let down = client.post(&client.vm(100, "/status/shutdown"), "timeout=200");
    let upid = down.data().as_str().unwrap().to_owned();
    client.until_in(
        DEADLINE,
        &format!("/nodes/pve/tasks/{upid}/status"),
        |task| task["status"] == "stopped",
    );
    assert_eq!(client.exit(&upid), "OK");
}
