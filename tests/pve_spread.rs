//! How the builds of one command are spread over the nodes of a Proxmox VE cluster.

mod lab;

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

use imgbuild::backend::proxmox::machine::{Disk, Extras, Network};
use imgbuild::backend::proxmox::{Cluster, Wish};
use lab::node::{Node, plain_hardware};
use pve_lab::Setup;

const GIB: u64 = 1 << 30;

/// Two nodes, the second of which has less memory; with more lines for the target.
async fn cluster(name: &str, lines: &str) -> (Node, Cluster) {
    let setup = Setup::new().node("pve2");
    let node = Node::start(name, setup.memory("pve", 16 * GIB).memory("pve2", 9 * GIB));
    node.target(&format!(
        "vmid-range = \"9000-9009\"\nstorages = {{ import = \"local\", images = \"local\", iso = \"local\" }}\n{lines}\n"
    ));
    let cluster = Cluster::new(node.read_target().connect().await.unwrap());
    (node, cluster)
}

/// What a machine of this memory wants.
fn wish(memory: u64) -> Wish {
    Wish {
        memory,
        ..Wish::default()
    }
}

#[tokio::test]
async fn builds_go_where_most_memory_is_left_and_wait_where_none_may_have_another() {
    let (_node, cluster) = cluster("pve spread", "node = \"auto\"").await;
    let told = RefCell::new(vec![]);
    let tell = |text: &str| told.borrow_mut().push(text.to_owned());
    let want = wish(8 * GIB);
    let mut seats = vec![];
    for expected in ["pve", "pve2", "pve", "pve2"] {
        let seat = cluster.seat(&want, tell).await.unwrap();
        assert_eq!(seat.server.target.node, expected);
        seats.push(seat);
    }
    told.take();
    let mut fifth = std::pin::pin!(cluster.seat(&want, tell));
    // Until it waits: what it asks the server is answered meanwhile.
    while told.borrow().is_empty() {
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(fifth.as_mut().poll(&mut context), Poll::Pending));
        tokio::task::yield_now().await;
    }
    assert_eq!(
        told.take(),
        ["waiting for a node: 2 builds of this command are on each"]
    );
    // The second, on pve2.
    drop(seats.remove(1));
    assert_eq!(fifth.await.unwrap().server.target.node, "pve2");
}

#[tokio::test]
async fn a_fixed_node_has_the_same_limit_and_is_not_looked_at() {
    let lines = "node = \"pve2\"\nbuilds-per-node = 1";
    let (node, cluster) = cluster("pve spread fixed", lines).await;
    let want = wish(GIB);
    let first = cluster.seat(&want, |_| {}).await.unwrap();
    assert_eq!(first.server.target.node, "pve2");
    let mut second = std::pin::pin!(cluster.seat(&want, |_| {}));
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(second.as_mut().poll(&mut context), Poll::Pending));
    drop(first);
    assert_eq!(second.await.unwrap().server.target.node, "pve2");
    assert_eq!(node.server.requests().len(), 0);
}

#[tokio::test]
async fn a_node_without_what_the_template_has_besides_is_not_gone_to() {
    let (_node, cluster) = cluster("pve spread extras", "node = \"auto\"").await;
    let disk = Disk {
        size: GIB,
        storage: Some("tank".into()),
        backup: true,
    };
    let card = Network {
        model: "virtio".into(),
        bridge: Some("vmbr9".into()),
        vlan: None,
        mtu: None,
        firewall: false,
    };
    let extras = plain_hardware().template;
    for (extras, told) in [
        (
            Extras {
                disks: vec![disk],
                ..extras.clone()
            },
            "storage tank (images)",
        ),
        (
            Extras {
                networks: Some(vec![card]),
                ..extras.clone()
            },
            "bridge vmbr9",
        ),
    ] {
        let want = Wish {
            extras: Some(extras),
            ..wish(GIB)
        };
        let error = cluster.seat(&want, |_| {}).await.err().unwrap();
        assert!(error.to_string().contains("none can be used"), "{error}");
        let detail = format!("{:?}", error.get_detail());
        assert!(detail.contains(told), "{detail}");
    }
}

#[tokio::test]
async fn the_node_with_the_deepest_layer_of_a_build_is_the_one_to_go_to() {
    let (node, cluster) = cluster("pve spread layers", "node = \"auto\"").await;
    let tags = ["imgbuild-key-a", "imgbuild-key-b", "imgbuild-key-c"];
    for (vmid, tag) in (9000..).zip(tags) {
        node.has_vm(vmid, "layer", tag);
        if tag != "imgbuild-key-c" {
            node.curl(&format!("qemu/{vmid}/template"), &["-X", "POST"]);
        }
    }
    node.curl("qemu/9001/migrate", &["-d", "target=pve2"]);
    let on = async |tags: &[(&str, usize)]| {
        let tags = tags.iter().map(|(tag, steps)| ((*tag).to_owned(), *steps));
        let want = Wish {
            layers: tags.collect(),
            ..wish(GIB)
        };
        let seat = cluster.seat(&want, |_| {}).await.unwrap();
        seat.server.target.node
    };
    assert_eq!(on(&[]).await, "pve", "most memory");
    assert_eq!(on(&[("imgbuild-key-b", 1)]).await, "pve2");
    let both = [("imgbuild-key-b", 2), ("imgbuild-key-a", 1)];
    assert_eq!(on(&both).await, "pve2", "the deeper one");
    let both = [("imgbuild-key-a", 2), ("imgbuild-key-b", 1)];
    assert_eq!(on(&both).await, "pve");
    let no_template = [("imgbuild-key-c", 3), ("imgbuild-key-b", 1)];
    assert_eq!(on(&no_template).await, "pve2");
}
