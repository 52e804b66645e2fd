//! The server as a program.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::{Client, Place};

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn guests_die_with_a_server_that_is_killed() {
    let mut server = Command::new(env!("CARGO_BIN_EXE_pve-lab"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let mut value = |name: &str| {
        let line = lines.next().unwrap().unwrap();
        line.strip_prefix(name)
            .unwrap_or_else(|| panic!("{line}"))
            .trim()
            .to_owned()
    };
    let url = value("url");
    value("fingerprint");
    let certificate = value("certificate");
    let token = value("token");
    let place = Place {
        port: url.rsplit(':').next().unwrap().parse().unwrap(),
        certificate: std::fs::read_to_string(&certificate).unwrap(),
    };
    let (id, secret) = token.split_once('=').unwrap();
    let client = Client::with_token(place, id, secret);
    client.has_vm(100, &[]);
    client.start(100);
    let pid = client.get(&client.vm(100, "/status/current")).data()["pid"]
        .as_u64()
        .unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let begin = Instant::now();
    while is_qemu(pid) {
        assert!(begin.elapsed() < DEADLINE, "QEMU {pid} lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
    // What a killed server could not.
    std::fs::remove_dir_all(Path::new(&certificate).parent().unwrap()).unwrap();
}

fn is_qemu(pid: u64) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.starts_with(b"qemu-system")
}

#[test]
fn the_table_of_behaviours_can_be_printed() {
    let printed = Command::new(env!("CARGO_BIN_EXE_pve-lab"))
        .arg("--behaviours")
        .output()
        .unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    for behaviour in pve_lab::BEHAVIOURS {
        assert!(text.contains(behaviour.says), "{}", behaviour.id);
    }
}
