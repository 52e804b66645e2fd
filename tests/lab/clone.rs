//! A clone of a finished image, booted as somebody boots it who has never heard of imgbuild: no keys are given, and only
//! what it writes to its console is known of it.

use std::path::Path;
use std::process::{Command, Stdio};

/// What the guest tells of itself before it powers off.
const USER_DATA: &str = "#cloud-config
runcmd:
  - |
    {
      echo \"is machine-id=$(cat /etc/machine-id)\"
      echo \"is host-key=$(cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub)\"
      echo \"is random-seed=$(sha256sum </var/lib/systemd/random-seed)\"
    } >/dev/ttyS0
  - poweroff
";

/// What a clone has of its own.
#[derive(Debug)]
pub struct Identity {
    pub machine_id: String,
    pub host_key: String,
    pub random_seed: String,
}

/// Boots two clones of the image at once, each with an instance id of its own, below `folder`.
pub fn two(image: &Path, folder: &Path) -> [Identity; 2] {
    let started = ["one", "two"].map(|name| {
        let folder = folder.join(format!("clone-{name}"));
        std::fs::create_dir(&folder).unwrap();
        seed(&folder, name);
        let qemu = start(image, &folder);
        (folder, qemu)
    });
    started.map(|(folder, mut qemu)| {
        assert!(qemu.wait().unwrap().success());
        let console = std::fs::read(folder.join("console")).unwrap();
        let console = String::from_utf8_lossy(&console);
        let told = |what: &str| {
            let mark = format!("is {what}=");
            let found = console.lines().find_map(|line| line.split_once(&mark));
            let (_, value) = found.unwrap_or_else(|| panic!("no {what} in:\n{console}"));
            value.trim().to_owned()
        };
        Identity {
            machine_id: told("machine-id"),
            host_key: told("host-key"),
            random_seed: told("random-seed"),
        }
    })
}

fn seed(folder: &Path, name: &str) {
    let tool = |command: &mut Command| {
        let output = command.current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    std::fs::write(folder.join("user-data"), USER_DATA).unwrap();
    std::fs::write(folder.join("meta-data"), format!("instance-id: {name}\n")).unwrap();
    tool(Command::new("mkfs.vfat").args(["-C", "-n", "CIDATA", "seed.img", "1024"]));
    tool(Command::new("mcopy").args(["-i", "seed.img", "user-data", "meta-data", "::"]));
}

fn start(image: &Path, folder: &Path) -> std::process::Child {
    let image = image.display();
    Command::new("qemu-system-x86_64")
        .args("-machine q35 -accel tcg -cpu max -m 1G -nodefaults -display none".split(' '))
        .args("-serial file:console -netdev user,id=net,restrict=on".split(' '))
        .args("-device virtio-net-pci,netdev=net -device virtio-rng-pci".split(' '))
        // What it writes is thrown away with it.
        .args([
            "-drive",
            &format!("if=virtio,format=qcow2,snapshot=on,file={image}"),
        ])
        .args(["-drive", "if=virtio,format=raw,readonly=on,file=seed.img"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}
