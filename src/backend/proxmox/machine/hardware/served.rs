//! That a server takes what is asked of it, in the order in which a build does.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::template::Change;
use super::tests::{hardware, lease, spec};
use super::*;
use crate::backend::proxmox::Proxmox;
use crate::backend::proxmox::call::Call;
use crate::backend::proxmox::machine::Origin;
use crate::backend::proxmox::upload::Upload;
use crate::run::Events;

const PATIENCE: Duration = Duration::from_secs(60);

/// All that can be chosen at once.
fn everything() -> Hardware {
    let card = |vlan, bridge: Option<&str>| Network {
        model: "virtio".into(),
        bridge: bridge.map(Into::into),
        vlan,
        mtu: Some(1),
        firewall: true,
    };
    Hardware {
        pool: Some("templates".into()),
        cpu: "x86-64-v2-AES".into(),
        tpm: true,
        secure_boot: true,
        vga: "serial0".into(),
        rng: true,
        numa: true,
        template: Extras {
            disks: vec![Disk {
                size: 1 << 20,
                storage: None,
                backup: false,
            }],
            networks: Some(vec![card(Some(20), None), card(None, Some("vmbr1"))]),
            hostpci: vec![HostPci {
                mapping: "gpu".into(),
                pcie: true,
                primary_gpu: true,
            }],
            balloon: Some(64 << 20),
            on_boot: true,
            start_order: Some(2),
            ..hardware().template
        },
        ..hardware()
    }
}

struct Node {
    _lab: pve_lab::Server,
    server: Proxmox,
}

impl Node {
    fn start() -> Self {
        let root = [pve_lab::BUILDER, &["Sys.Modify"]].concat();
        let setup = pve_lab::Setup::new().bridge("vmbr1").pool("templates");
        let lab = pve_lab::Server::start(setup.grant("/", pve_lab::TOKEN, &root));
        let server = Proxmox::of_lab(&lab);
        Node { _lab: lab, server }
    }

    /// Has a file of zeros on its storage.
    async fn has(&self, content: &'static str, name: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        let zeros = vec![0; 1 << 20];
        std::fs::write(&path, &zeros).unwrap();
        let upload = Upload {
            storage: "local",
            content,
            name,
            path: &path,
            sha256: &crate::text::hex(&<sha2::Sha256 as sha2::Digest>::digest(&zeros)),
            size: zeros.len() as u64,
        };
        let begun = self
            .server
            .upload(&upload, "sending", &Events::new("web", vec![]))
            .await
            .unwrap();
        assert!(self.server.follow(&begun.upid, PATIENCE).await.is_ok());
        format!("local:{content}/{name}")
    }

    async fn does(&self, call: Call) {
        self.server
            .operate(call, "testing", PATIENCE)
            .await
            .unwrap();
    }

    async fn changes(&self, vmid: u32, change: Change) {
        let call = Call::post(self.server.machine_path(vmid, &["config"]));
        let call = change
            .set
            .into_iter()
            .fold(call, |call, (name, value)| call.with(name, value));
        let call = match change.delete.is_empty() {
            true => call,
            false => call.with("delete", change.delete.join(",")),
        };
        self.does(call).await;
    }

    async fn config(&self, vmid: u32) -> BTreeMap<String, Value> {
        let call = Call::get(self.server.machine_path(vmid, &["config"]));
        self.server.client.call(call).await.unwrap_or_default()
    }
}

/// The options of a configuration that begin with one of these, and what their values begin with.
#[track_caller]
fn assert_has(config: &BTreeMap<String, Value>, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let found = config.get(*name).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        let found = found.unwrap_or_default();
        let parts = value.split(',').all(|part| found.contains(part));
        assert!(parts, "{name}: {found} has not {value}");
    }
}

#[tokio::test]
async fn a_server_takes_a_machine_its_template_and_a_clone_that_tries_it_out() {
    let node = Node::start();
    let chosen = everything();
    let image = StoredImage {
        volume: node.has("import", "base.raw").await,
        digest: "0a".into(),
        size: 1 << 20,
    };
    let seed = node.has("iso", "seed.iso").await;
    let spec = spec(Firmware::Uefi);
    let start = Start {
        spec: &spec,
        hardware: &chosen,
        origin: Origin::Image(&image),
        disk: None,
        seed: &[],
        lease: lease(),
        description: "of a test",
    };
    let site = Site::of(&node.server.target).unwrap().with(&chosen);
    let create = Call::post(node.server.node_path(&["qemu"]));
    let parameters = parameters(9000, &start, &image, &site, &seed).into_iter();
    node.does(parameters.fold(create, |call, (name, value)| call.with(name, value)))
        .await;
    let made = node.config(9000).await;
    assert_has(
        &made,
        &[
            ("scsi1", "seed.iso,media=cdrom"),
            ("net0", "bridge=vmbr0"),
            ("tpmstate0", "version=v2.0,size=4M"),
            ("efidisk0", "pre-enrolled-keys=1"),
            ("rng0", "source=/dev/urandom"),
        ],
    );
    assert!(
        !made.contains_key("net1") && !made.contains_key("hostpci0"),
        "{made:?}"
    );

    node.changes(9000, template(&chosen, &site)).await;
    let done = node.config(9000).await;
    assert_has(
        &done,
        &[
            ("scsi1", "cloudinit,media=cdrom"),
            ("scsi2", "backup=0,size=1M"),
            ("net0", "bridge=vmbr0,tag=20,mtu=1,firewall=1"),
            ("net1", "bridge=vmbr1"),
            ("hostpci0", "mapping=gpu"),
            ("boot", "order=scsi0"),
            ("balloon", "64"),
            ("onboot", "1"),
            ("startup", "order=2"),
        ],
    );
    assert!(!done.contains_key("unused0"), "{done:?}");

    node.does(Call::post(node.server.machine_path(9000, &["template"])))
        .await;
    let clone = Call::post(node.server.machine_path(9000, &["clone"]));
    node.does(clone.with("newid", "9001").with("pool", "templates"))
        .await;
    let mut change = tested(&chosen, &site);
    change.set.push((SEED.into(), cd(&seed)));
    node.changes(9001, change).await;
    let clone = node.config(9001).await;
    assert_has(
        &clone,
        &[
            ("scsi1", "seed.iso"),
            ("net0", "bridge=vmbr0"),
            ("serial0", "socket"),
        ],
    );
    for name in ["net1", "hostpci0", "onboot"] {
        assert!(!clone.contains_key(name), "{name}: {clone:?}");
    }
    assert!(
        !clone["net0"].as_str().unwrap().contains("tag="),
        "{clone:?}"
    );
}
