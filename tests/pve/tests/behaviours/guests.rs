//! With a real guest, the tiny one that `scripts/make-tiny-image` makes.

use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use pve_lab::{Fault, Server, Setup, What};

use crate::client::{Answer, Client, form};
use crate::consoles::Terminal;

/// Under emulation, with other machines beside it.
const DEADLINE: Duration = Duration::from_secs(300);

/// Waits until the guest's sshd says who it is.
pub fn until_ssh(server: &Server, vmid: u32) {
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
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The image of the tiny guest.
pub fn tiny() -> PathBuf {
    let image = std::env::var_os("IMGBUILD_TEST_TINY");
    image
        .expect("IMGBUILD_TEST_TINY is not set: run scripts/test")
        .into()
}

/// Has VM 100 with the tiny guest on this drive, running.
fn has_guest(client: &Client, drive: &str, more: &[(&str, &str)]) {
    let source = client.has_file("import", "tiny.qcow2", &std::fs::read(tiny()).unwrap());
    let disk = format!("local:0,import-from={source}");
    let vm = [
        ("vmid", "100"),
        ("memory", "256"),
        (drive, &disk),
        ("net0", "virtio,bridge=vmbr0"),
        ("serial0", "socket"),
    ];
    let vm = [&vm, more].concat();
    assert_eq!(
        client.task(&client.post("/nodes/pve/qemu", &form(&vm))),
        "OK"
    );
    client.start(100);
}

/// A seed for a CD-ROM drive, which has sectors of 2048 bytes.
pub fn seed(user: &str, meta: &str) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; 1 << 20]);
    let options = FormatVolumeOptions::new()
        .volume_label(*b"CIDATA     ")
        .bytes_per_sector(2048);
    fatfs::format_volume(&mut disk, options).unwrap();
    let system = FileSystem::new(&mut disk, FsOptions::new()).unwrap();
    for (name, text) in [("user-data", user), ("meta-data", meta)] {
        let mut file = system.root_dir().create_file(name).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
    system.unmount().unwrap();
    disk.into_inner()
}

/// How a task ends that waits for the guest.
fn exit(client: &Client, answer: &Answer) -> String {
    let upid = answer.data().as_str().unwrap().to_owned();
    let path = format!("/nodes/pve/tasks/{upid}/status");
    client.until_in(DEADLINE, &path, |task| task["status"] == "stopped");
    client.exit(&upid)
}

#[test]
fn a_reboot_ends_when_the_guest_is_down() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    has_guest(&client, "virtio0", &[]);
    until_ssh(&server, 100);
    let status = client.vm(100, "/status/current");
    let reboot = client.post(&client.vm(100, "/status/reboot"), "timeout=200");
    assert_eq!(exit(&client, &reboot), "OK");
    assert_eq!(client.get(&status).data()["status"], "stopped");
    // Nothing to stop, and it comes all the same.
    let stop = client.post(&client.vm(100, "/status/stop"), "");
    assert_eq!(client.task(&stop), "OK");
    client.until(&status, |vm| vm["status"] == "running");
    until_ssh(&server, 100);
    let down = client.post(&client.vm(100, "/status/shutdown"), "timeout=200");
    assert_eq!(exit(&client, &down), "OK");
}

#[test]
fn the_agent_tells_where_its_guest_is_reached() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let seed = client.has_file(
        "iso",
        "seed.iso",
        &seed("{}", r#"{"local-hostname": "seeded"}"#),
    );
    let seed = format!("{seed},media=cdrom");
    let more = [
        ("agent", "enabled=1"),
        ("machine", "q35"),
        ("scsi1", seed.as_str()),
    ];
    has_guest(&client, "scsi0", &more);
    let ping = || client.post(&client.vm(100, "/agent/ping"), "");
    let begin = Instant::now();
    while ping().status != 200 {
        assert!(begin.elapsed() < DEADLINE, "{:?}", ping());
    }
    server.inject(Fault::on("*", "/nodes/*/qemu/*/agent/*").with(What::AgentSilent));
    ping().is(500, "QEMU guest agent is not running");
    let interfaces = client.vm(100, "/agent/network-get-interfaces");
    let address = format!("\"{}\"", server.address(100));
    let found = client.until_in(DEADLINE, &interfaces, |found| {
        found.to_string().contains(&address)
    });
    assert!(!found.to_string().contains("10.0.2.15"), "{found}");
    let command = form(&[("command", "cat"), ("command", "/etc/hostname")]);
    let pid = client.post(&client.vm(100, "/agent/exec"), &command).data()["pid"].clone();
    let path = client.vm(100, &format!("/agent/exec-status?pid={pid}"));
    let ended = client.until(&path, |status| status["exited"] == 1);
    assert_eq!(
        (&ended["exitcode"], &ended["out-data"]),
        (&0.into(), &"seeded\n".into())
    );
    let down = client.post(&client.vm(100, "/status/shutdown"), "timeout=200");
    assert_eq!(exit(&client, &down), "OK");
}

#[test]
fn a_console_has_one_reader_at_a_time() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    has_guest(&client, "virtio0", &[]);
    let mut first = Terminal::open(&client, "serial0").log_in();
    first.until("starting serial terminal on interface serial0\r\n");
    let mut second = Terminal::open(&client, "serial0").log_in();
    second.until("starting serial terminal on interface serial0\r\n");
    first.until("Linux version");
    drop(first);
    // What was said before is not kept for it.
    let heard = second.until("tiny: sshd is up");
    assert!(!heard.contains("Linux version"), "{heard}");
}

#[test]
fn a_plugged_disk_is_known_by_its_key_and_may_be_read_only() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let more = [
        ("agent", "enabled=1"),
        ("machine", "q35"),
        ("boot", "order=scsi0"),
        ("scsi5", "local:0.01"),
    ];
    let change = |form: &str| client.put(&client.vm(100, "/config"), form);
    has_guest(&client, "scsi0", &more);
    let begin = Instant::now();
    while client.post(&client.vm(100, "/agent/ping"), "").status != 200 {
        assert!(begin.elapsed() < DEADLINE);
    }
    change("delete=scsi5").is(200, "OK");
    let volume = client.config(100)["unused0"].as_str().unwrap().to_owned();
    change(&form(&[("scsi6", &format!("{volume},ro=1"))])).is(200, "OK");
    let script = "until disk=$(grep -l drive-scsi6 /sys/block/*/device/vpd_pg83); do sleep 1; done; \
                  cat ${disk%/device/vpd_pg83}/ro";
    let command = [("command", "sh"), ("command", "-c"), ("command", script)];
    let pid = client
        .post(&client.vm(100, "/agent/exec"), &form(&command))
        .data()["pid"]
        .clone();
    let path = client.vm(100, &format!("/agent/exec-status?pid={pid}"));
    let ended = client.until_in(DEADLINE, &path, |status| status["exited"] == 1);
    assert_eq!(ended["out-data"], "1\n", "{ended}");
}
