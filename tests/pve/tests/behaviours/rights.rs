use pve_lab::{Server, Setup};

use crate::client::{Answer, Client, form};

const WHO: &str = "some@pve!ci";

fn server(grants: &[(&str, &[&str])]) -> Server {
    let mut setup = Setup::new().token(WHO, "secret");
    for (path, privileges) in grants {
        setup = setup.grant(path, WHO, privileges);
    }
    Server::start(setup)
}

fn some(server: &Server) -> Client {
    Client::with_token(server, WHO, "secret")
}

#[test]
fn the_agent_needs_vm_monitor() {
    let server = server(&[("/vms", &["VM.Audit"])]);
    Client::new(&server).has_vm(100, &[("agent", "1")]);
    let client = some(&server);
    let answer = client.post(&client.vm(100, "/agent/ping"), "");
    answer.is(403, "Permission check failed (/vms/100, VM.Monitor)");
}

#[test]
fn later_releases_have_other_privileges_for_the_agent() {
    let setup = Setup::new().token(WHO, "secret");
    let setup = setup
        .grant("/vms", WHO, &["VM.GuestAgent.Audit"])
        .release(9);
    let server = Server::start(setup);
    Client::new(&server).has_vm(100, &[("agent", "1")]);
    let client = some(&server);
    let ping = client.post(&client.vm(100, "/agent/ping"), "");
    ping.is(500, "VM 100 is not running");
    let exec = client.post(&client.vm(100, "/agent/exec"), "command=ls");
    exec.is(
        403,
        "Permission check failed (/vms/100, VM.GuestAgent.Unrestricted)",
    );
    let builder = Client::new(&server);
    builder
        .post(&builder.vm(100, "/agent/exec"), "command=ls")
        .is(500, "VM 100 is not running");
}

#[test]
fn how_busy_a_node_is_is_for_auditors() {
    let server = server(&[("/nodes/pve", &["VM.Audit"])]);
    let busy = |client: Client| client.get("/nodes").data()[0]["mem"].is_u64();
    assert!(busy(Client::new(&server)));
    assert!(!busy(some(&server)));
    assert_eq!(some(&server).get("/nodes").data()[0]["status"], "online");
}

#[test]
fn bridges_need_sdn_use() {
    let server = server(&[("/vms", &["VM.Allocate", "VM.Config.Network"])]);
    let create = form(&[("vmid", "100"), ("net0", "virtio,bridge=vmbr0")]);
    let answer = some(&server).post("/nodes/pve/qemu", &create);
    answer.is(
        403,
        "Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)",
    );
}

#[test]
fn grants_on_longer_paths_replace() {
    let server = server(&[
        ("/", &["VM.Audit", "VM.PowerMgmt"]),
        ("/vms/100", &["VM.PowerMgmt"]),
    ]);
    let builder = Client::new(&server);
    builder.has_vm(100, &[]);
    builder.has_vm(101, &[]);
    let client = some(&server);
    client.get(&client.vm(101, "/config")).is(200, "OK");
    client
        .get(&client.vm(100, "/config"))
        .is(403, "Permission check failed (/vms/100, VM.Audit)");
    let permissions = client.get("/access/permissions?path=/vms/100").data();
    assert_eq!(
        permissions,
        serde_json::json!({"/vms/100": {"VM.PowerMgmt": 1}})
    );
}

#[test]
fn raw_devices_are_for_root() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let set = |name: &str, value: &str| -> Answer {
        client.put(&client.vm(100, "/config"), &form(&[(name, value)]))
    };
    set("args", "-S").is(500, "only root can set 'args' config");
    set("serial0", "/dev/ttyS0").is(500, "only root can set 'serial0' config for real devices");
    set("serial0", "socket").is(200, "OK");
    let address = set("hostpci0", "0000:01:00.0");
    address.is(
        500,
        "only root can set 'hostpci0' config for non-mapped devices",
    );
    set("hostpci0", "mapping=gpu").is(200, "OK");
}

#[test]
fn a_ticket_needs_the_csrf_token() {
    let server = Server::start(Setup::new().user("root@pam", "password"));
    let mut client = Client::new(&server);
    client.credentials = String::new();
    let login = |password: &str| {
        client.post(
            "/access/ticket",
            &form(&[("username", "root@pam"), ("password", password)]),
        )
    };
    login("wrong").is(401, "authentication failure");
    let ticket = login("password").data();
    let cookie = format!(
        "Cookie: PVEAuthCookie={}\r\n",
        ticket["ticket"].as_str().unwrap()
    );
    let mut with = Client::new(&server);
    with.credentials.clone_from(&cookie);
    with.get("/version").is(200, "OK");
    with.post("/nodes/pve/qemu", "vmid=100")
        .is(401, "Permission denied - invalid csrf token");
    let csrf = ticket["CSRFPreventionToken"].as_str().unwrap();
    with.credentials = format!("{cookie}CSRFPreventionToken: {csrf}\r\n");
    assert_eq!(with.task(&with.post("/nodes/pve/qemu", "vmid=100")), "OK");
}

#[test]
fn a_vlan_is_a_path_below_its_bridge() {
    let vms: (&str, &[&str]) = ("/vms", &["VM.Allocate", "VM.Config.Network"]);
    let bridge = "/sdn/zones/localnetwork/vmbr0";
    let vlan = "/sdn/zones/localnetwork/vmbr0/20";
    let create = |server: &Server, card: &str| {
        let create = form(&[("vmid", "100"), ("net0", card)]);
        some(server).post("/nodes/pve/qemu", &create)
    };
    let only = server(&[vms, (vlan, &["SDN.Use"])]);
    create(&only, "virtio,bridge=vmbr0,tag=21").is(
        403,
        "Permission check failed (/sdn/zones/localnetwork/vmbr0/21, SDN.Use)",
    );
    create(&only, "virtio,bridge=vmbr0").is(
        403,
        "Permission check failed (/sdn/zones/localnetwork/vmbr0, SDN.Use)",
    );
    create(&only, "virtio,bridge=vmbr0,tag=20").is(200, "OK");
    let all = server(&[vms, (bridge, &["SDN.Use"])]);
    create(&all, "virtio,bridge=vmbr0,tag=21").is(200, "OK");
}

#[test]
fn a_cloudinit_drive_needs_two_privileges() {
    let drive = ("ide2", "local:cloudinit");
    for (privileges, refused) in [
        (
            ["VM.Config.Disk", "VM.Config.CDROM"],
            Some("VM.Config.Cloudinit"),
        ),
        (
            ["VM.Config.Disk", "VM.Config.Cloudinit"],
            Some("VM.Config.CDROM"),
        ),
        (["VM.Config.CDROM", "VM.Config.Cloudinit"], None),
    ] {
        let space: (&str, &[&str]) = ("/storage", &["Datastore.AllocateSpace"]);
        let server = server(&[("/vms", &privileges), space]);
        Client::new(&server).has_vm(100, &[]);
        let client = some(&server);
        let change = client.put(&client.vm(100, "/config"), &form(&[drive]));
        match refused {
            Some(privilege) => {
                let why = format!("Permission check failed (/vms/100, {privilege})");
                change.is(403, &why);
            }
            None => {
                change.is(200, "OK");
            }
        }
    }
}

#[test]
fn the_start_order_is_the_nodes() {
    let server = server(&[("/vms", &["VM.Config.Options"])]);
    Client::new(&server).has_vm(100, &[]);
    let client = some(&server);
    let set = |name, value| client.put(&client.vm(100, "/config"), &form(&[(name, value)]));
    set("onboot", "1").is(200, "OK");
    set("startup", "order=2").is(403, "Permission check failed (/, Sys.Modify)");
}

#[test]
fn a_clone_in_a_pool_takes_a_privilege_there() {
    let setup = Setup::new()
        .pool("ours")
        .token(WHO, "secret")
        .grant("/", WHO, pve_lab::BUILDER)
        .grant("/pool", WHO, &[]);
    let server = Server::start(setup);
    let client = some(&server);
    client.has_vm(100, &[("pool", "ours")]);
    let clone = form(&[("newid", "101"), ("pool", "ours")]);
    let refused = client.post(&client.vm(100, "/clone"), &clone);
    refused.is(403, "Permission check failed (/pool/ours, VM.Allocate)");
}
