//! Guests that are sandboxes: what a build sees of one is what it sees of the tiny guest in QEMU.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pve_lab::{Server, Setup};
use serde_json::{Value, json};

use crate::client::{Client, form};
use crate::guests::{seed, tiny, until_ssh};

/// How long a sandbox may take for anything, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server whose guests are sandboxes, and what is needed to enter them.
struct Place {
    server: Server,
    client: Client,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let server = Server::start(Setup::new().sandboxes(tiny()));
        let place = Place {
            client: Client::new(&server),
            server,
            folder: tempfile::tempdir().unwrap(),
        };
        for name in ["host", "user", "stranger"] {
            place.make_key(name);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn make_key(&self, name: &str) {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
            .arg(self.path(name))
            .status();
        assert!(made.unwrap().success());
    }

    /// Has this VM with a seed, an empty boot disk and these options, running, and waits for its sshd.
    fn has_guest(&self, vmid: u32, more: &[(&str, &str)]) {
        let user = json!({
            "ssh_keys": {"ed25519_private": self.read("host"), "ed25519_public": self.read("host.pub")},
            "users": [{
                "name": "builder",
                "uid": "60999",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": [self.read("user.pub").trim()],
            }],
        });
        let user = format!("#cloud-config\n{user:#}\n");
        let seed = seed(&user, r#"{"local-hostname": "seeded"}"#);
        let seed = self.client.has_file("iso", &format!("{vmid}.iso"), &seed);
        let (id, seed) = (vmid.to_string(), format!("{seed},media=cdrom"));
        let vm = [
            ("vmid", id.as_str()),
            ("scsi0", "local:0.01,format=qcow2"),
            ("scsi1", &seed),
            ("net0", "virtio,bridge=vmbr0"),
            ("serial0", "socket"),
            ("boot", "order=scsi0"),
        ];
        let created = self
            .client
            .post("/nodes/pve/qemu", &form(&[&vm, more].concat()));
        assert_eq!(self.client.task(&created), "OK");
        self.client.start(vmid);
        until_ssh(&self.server, vmid);
    }

    /// Runs a command in a guest with this key, if the guest has the key of its seed.
    fn ssh_with(&self, key: &str, vmid: u32, command: &str) -> Output {
        let address = self.server.address(vmid);
        let known = format!("[{address}]:2222 {}", self.read("host.pub"));
        let known_hosts = self.path(&format!("known-{vmid}"));
        fs::write(&known_hosts, known).unwrap();
        let ssh = Command::new("ssh")
            .args(["-F", "none", "-p", "2222", "-o", "BatchMode=yes"])
            .args([
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "StrictHostKeyChecking=yes",
            ])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known_hosts.display()))
            .arg("-i")
            .arg(self.path(key))
            .arg(format!("builder@{address}"))
            .arg(command)
            .stdin(Stdio::null())
            .output();
        ssh.unwrap()
    }

    /// What a command in a guest prints. It must end well.
    #[track_caller]
    fn ssh(&self, vmid: u32, command: &str) -> String {
        let ended = self.ssh_with("user", vmid, command);
        assert!(ended.status.success(), "{command}: {ended:?}");
        String::from_utf8(ended.stdout).unwrap()
    }

    /// The same, for a script that root runs.
    #[track_caller]
    fn root(&self, vmid: u32, script: &str) -> String {
        self.ssh(vmid, &format!("sudo -n sh -c '{script}'"))
    }

    /// How a guest is told to go down, until it is.
    #[track_caller]
    fn told(&self, vmid: u32, what: &str) -> String {
        let path = self.client.vm(vmid, &format!("/status/{what}"));
        self.client.task(&self.client.post(&path, ""))
    }

    fn status(&self, vmid: u32) -> Value {
        self.client
            .get(&self.client.vm(vmid, "/status/current"))
            .data()
    }

    fn until_status(&self, vmid: u32, wanted: &str) {
        let path = self.client.vm(vmid, "/status/current");
        self.client.until(&path, |vm| vm["status"] == wanted);
    }
}

/// Waits for this.
#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < DEADLINE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

#[test]
fn it_has_the_keys_the_user_and_the_name_of_its_seed() {
    let place = Place::new();
    place.has_guest(100, &[]);
    // The host key is checked: ssh knows that of the seed, and no other.
    let told = place.ssh(100, "id -u; hostname; sudo -n id -u");
    assert_eq!(told, "60999\nseeded\n0\n");
    let refused = place.ssh_with("stranger", 100, "id");
    assert_eq!(refused.status.code(), Some(255));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("Permission denied (publickey)"), "{said}");
}

#[test]
fn each_has_its_own_files_and_processes() {
    let place = Place::new();
    place.has_guest(100, &[]);
    place.has_guest(101, &[]);
    place.root(
        100,
        "echo here >/etc/mark; setsid sleep 1000 >/dev/null 2>&1 &",
    );
    assert_eq!(
        place.root(100, "cat /etc/mark; pgrep -c sleep"),
        "here\n1\n"
    );
    assert_eq!(
        place.root(101, "ls /etc/mark 2>/dev/null; pgrep -c sleep || :"),
        "0\n"
    );
    assert!(!Path::new("/etc/mark").exists());
}

#[test]
fn it_cannot_change_the_host() {
    let place = Place::new();
    place.has_guest(100, &[]);
    for harm in [
        "date -s @0",
        "hostname other",
        "mknod /disk b 8 0",
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /proc",
        "mount -o remount,rw /sys",
        "echo 1 >/proc/sys/vm/swappiness",
        "echo h >/proc/sysrq-trigger",
        "mkdir /sys/fs/cgroup/mine",
        "ip link add other type dummy",
        "dmesg",
        "nsenter -t 1 -m true",
        "fstrim /",
    ] {
        let ended = place.ssh_with("user", 100, &format!("sudo -n sh -c '{harm}'"));
        let code = ended.status.code();
        assert!(matches!(code, Some(1..=254)), "{harm}: {ended:?}");
    }
    assert_eq!(place.root(100, "ls -A /mnt"), "", "the host's files");
    let seen = place.root(100, "ls /proc | grep -c ^[0-9]; cat /proc/1/comm");
    let (count, first) = seen.trim().split_once('\n').unwrap();
    assert!(count.parse::<u32>().unwrap() < 20, "{count} processes");
    assert_eq!(first, "init");
}

#[test]
fn it_goes_down_when_it_is_told() {
    let place = Place::new();
    place.has_guest(100, &[]);
    assert_eq!(place.told(100, "shutdown"), "OK");
    assert_eq!(place.status(100)["status"], "stopped");
    place.client.start(100);
    until_ssh(&place.server, 100);
    assert_eq!(place.told(100, "stop"), "OK");
    assert_eq!(place.status(100)["status"], "stopped");
    place.client.start(100);
    until_ssh(&place.server, 100);
    place.root(100, "poweroff");
    place.until_status(100, "stopped");
}

#[test]
fn a_reboot_from_within_is_another_boot_of_the_same_machine() {
    let place = Place::new();
    place.has_guest(100, &[]);
    let (boot, pid) = (place.ssh(100, BOOT_ID), place.status(100)["pid"].clone());
    assert_eq!(place.ssh(100, BOOT_ID), boot);
    place.root(100, "touch /etc/mark /run/mark; reboot");
    until("another boot", || {
        let told = place.ssh_with("user", 100, BOOT_ID);
        told.status.success() && told.stdout != boot.as_bytes()
    });
    assert_eq!(place.status(100)["pid"], pid);
    assert_eq!(
        place.ssh(100, "ls /etc/mark /run/mark 2>/dev/null || :"),
        "/etc/mark\n"
    );
}

#[test]
fn a_reboot_from_without_is_another_machine() {
    let place = Place::new();
    place.has_guest(100, &[]);
    let boot = place.ssh(100, BOOT_ID);
    assert_eq!(place.told(100, "reboot"), "OK");
    place.until_status(100, "running");
    until_ssh(&place.server, 100);
    assert_ne!(place.ssh(100, BOOT_ID), boot);
}

#[test]
fn its_agent_answers() {
    let place = Place::new();
    place.has_guest(100, &[("agent", "enabled=1")]);
    let (client, address) = (&place.client, place.server.address(100).to_string());
    let ping = || client.post(&client.vm(100, "/agent/ping"), "").status == 200;
    until("its first answer", ping);
    let told = client.get(&client.vm(100, "/agent/network-get-interfaces"));
    let card = &told.data()["result"][1];
    assert_eq!(card["ip-addresses"][0]["ip-address"], address.as_str());
    let config = client.config(100)["net0"].as_str().unwrap().to_lowercase();
    let mac = card["hardware-address"].as_str().unwrap();
    assert!(config.contains(mac) && mac.len() == 17, "{mac}, {config}");
    let command = form(&[("command", "cat"), ("command", "/etc/hostname")]);
    let pid = client.post(&client.vm(100, "/agent/exec"), &command).data()["pid"].clone();
    let path = client.vm(100, &format!("/agent/exec-status?pid={pid}"));
    let ended = client.until(&path, |status| status["exited"] == 1);
    assert_eq!(ended["out-data"], "seeded\n");
    assert_eq!(place.told(100, "shutdown"), "OK");
    assert_eq!(place.status(100)["status"], "stopped");
}

#[test]
fn other_disks_are_under_their_names() {
    let place = Place::new();
    let content: Vec<u8> = (0..3 << 20).map(|at: u32| (at % 251) as u8).collect();
    fs::write(place.path("raw"), &content).unwrap();
    let made = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([place.path("raw"), place.path("qcow2")])
        .status();
    assert!(made.unwrap().success());
    let image = fs::read(place.path("qcow2")).unwrap();
    let source = place.client.has_file("import", "data.qcow2", &image);
    let drive = format!("local:0,import-from={source},format=qcow2");
    place.has_guest(100, &[("scsi2", &drive)]);
    let names = place.ssh(100, "ls /dev/disk/by-id /sys/block");
    let name = "scsi-0QEMU_QEMU_HARDDISK_drive-scsi2";
    assert_eq!(
        names,
        format!("/dev/disk/by-id:\n{name}\n\n/sys/block:\nsdc\n")
    );
    let disk = format!("/dev/disk/by-id/{name}");
    assert_eq!(place.ssh(100, &format!("readlink -f {disk}")), "/dev/sdc\n");
    let told = place.ssh(100, "cd /sys/block/sdc && cat size ro device/vpd_pg83");
    assert_eq!(told, "6144\n1\ndrive-scsi2");
    let read = place.ssh_with("user", 100, "test -b /dev/sdc && sudo -n cat /dev/sdc");
    assert!(read.stdout == content, "{} bytes", read.stdout.len());
    let refused = place.ssh_with("user", 100, "sudo -n dd if=/dev/zero of=/dev/sdc count=1");
    assert_eq!(refused.status.code(), Some(1));
    // Plugged out, and in again under another name.
    let config = place.client.vm(100, "/config");
    place.client.put(&config, "delete=scsi2").is(200, "OK");
    assert_eq!(
        place
            .ssh(
                100,
                "ls /dev/disk/by-id /sys/block /dev/sd* 2>/dev/null || :"
            )
            .matches("sd")
            .count(),
        0
    );
    let volume = place.client.config(100)["unused0"]
        .as_str()
        .unwrap()
        .to_owned();
    let drive = form(&[("scsi3", &format!("{volume},ro=1"))]);
    place.client.put(&config, &drive).is(200, "OK");
    let read = place.ssh_with("user", 100, "sudo -n cat /dev/sdd");
    assert!(read.stdout == content, "{} bytes", read.stdout.len());
}

#[test]
fn nothing_is_left_of_it() {
    let place = Place::new();
    place.has_guest(100, &[]);
    place.has_guest(101, &[]);
    let folder = place.server.folder().to_owned();
    let (processes, mounts) = (processes(&folder), mounts(&folder));
    assert!(processes >= 4 && mounts >= 4, "{processes}, {mounts}");
    let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!host.contains(folder.to_str().unwrap()), "{host}");
    drop(place.server);
    assert_eq!((self::processes(&folder), self::mounts(&folder)), (0, 0));
    assert!(!folder.exists());
}

/// How many processes were started for sandboxes in this folder.
fn processes(folder: &Path) -> usize {
    count("environ", folder)
}

/// How many processes see a mount of this folder.
fn mounts(folder: &Path) -> usize {
    count("mountinfo", folder)
}

/// How many processes have the path in this file.
fn count(file: &str, folder: &Path) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let files = processes.filter_map(|entry| fs::read(entry.path().join(file)).ok());
    let is_theirs =
        |text: &Vec<u8>| String::from_utf8_lossy(text).contains(folder.to_str().unwrap());
    files.filter(is_theirs).count()
}
