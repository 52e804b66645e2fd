use pve_lab::{Fault, Server, Setup, Storage, What};

use crate::client::{Client, form, raw};

#[test]
fn stopping_what_is_stopped_is_ok() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    for call in ["/status/stop", "/status/shutdown"] {
        assert_eq!(client.task(&client.post(&client.vm(100, call), "")), "OK");
    }
}

#[test]
fn starting_what_runs_fails_in_the_task() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    client.start(100);
    let again = client.post(&client.vm(100, "/status/start"), "");
    assert_eq!(client.task(&again), "VM 100 already running");
}

#[test]
fn a_shutdown_ends_with_its_timeout() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    client.start(100);
    let path = client.vm(100, "/status/shutdown");
    let patient = client.post(&path, "timeout=1");
    assert_eq!(
        client.task(&patient),
        "VM quit/powerdown failed - got timeout"
    );
    assert_eq!(
        client.get(&client.vm(100, "/status/current")).data()["status"],
        "running"
    );
    let forced = client.post(&path, "timeout=1&forceStop=1");
    assert_eq!(client.task(&forced), "OK");
    assert_eq!(
        client.get(&client.vm(100, "/status/current")).data()["status"],
        "stopped"
    );
}

#[test]
fn what_runs_is_not_deleted_nor_made_a_template() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    client.start(100);
    client
        .delete(&client.vm(100, ""))
        .is(500, "VM 100 is running - destroy failed");
    let template = client.post(&client.vm(100, "/template"), "");
    template.is(500, "you can't convert a VM to template if VM is running");
}

#[test]
fn a_template_is_one_before_its_disks_are() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let message = "no luck".to_owned();
    server.inject(Fault::on("POST", "/nodes/*/qemu/*/template").with(What::TaskError { message }));
    let made = client.post(&client.vm(100, "/template"), "");
    assert_eq!(client.task(&made), "no luck");
    let config = client.config(100);
    assert_eq!(config["template"], 1);
    assert!(config["virtio0"].as_str().unwrap().contains("/vm-100-"));
}

#[test]
fn a_template_does_not_start() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_template(100);
    let started = client.post(&client.vm(100, "/status/start"), "");
    assert_eq!(
        client.task(&started),
        "you can't start a vm if it's a template"
    );
}

#[test]
fn linked_clones_are_of_templates() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let clone = |vmid: u32, form: &str| client.post(&client.vm(vmid, "/clone"), form);
    let disk = "local:100/vm-100-disk-0.qcow2";
    let wrong = format!("Linked clone feature is not supported for '{disk}' (virtio0)");
    clone(100, "newid=101&full=0").is(500, &wrong);
    client.has_template(200);
    clone(200, "newid=101&storage=local")
        .is(500, "parameter 'storage' not allowed for linked clones");
    clone(200, "newid=101&format=raw").is(500, "parameter 'format' not allowed for linked clones");
    assert_eq!(client.task(&clone(200, "newid=101")), "OK");
    let base = "local:200/base-200-disk-0.qcow2/101/vm-101-disk-0.qcow2";
    let disk = client.config(101)["virtio0"].as_str().unwrap().to_owned();
    assert!(disk.starts_with(base), "{disk}");
}

#[test]
fn raw_disks_have_linked_clones_too() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let raw = form(&[("vmid", "100"), ("scsi0", "local:0.01")]);
    assert_eq!(client.task(&client.post("/nodes/pve/qemu", &raw)), "OK");
    assert_eq!(
        client.task(&client.post(&client.vm(100, "/template"), "")),
        "OK"
    );
    assert_eq!(
        client.task(&client.post(&client.vm(100, "/clone"), "newid=101")),
        "OK"
    );
    let disk = client.config(101)["scsi0"].as_str().unwrap().to_owned();
    assert!(
        disk.starts_with("local:100/base-100-disk-0.raw/101/vm-101-disk-0.qcow2"),
        "{disk}"
    );
    client.start(101);
}

#[test]
fn a_template_outlives_its_linked_clones() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_template(100);
    let cloned = client.post(&client.vm(100, "/clone"), "newid=101");
    assert_eq!(client.task(&cloned), "OK");
    let deleted = client.delete(&client.vm(100, ""));
    let disk = "local:100/base-100-disk-0.qcow2";
    let message = format!("base volume '{disk}' is still in use by linked cloned");
    assert_eq!(client.task(&deleted), message);
    let volume = "/nodes/pve/storage/local/content/local:100%2Fbase-100-disk-0.qcow2";
    assert_eq!(
        client.task(&client.delete(volume)),
        "base volume '100/base-100-disk-0.qcow2' is still in use by linked clones"
    );
    // A clone that is a template itself.
    let converted = client.post(&client.vm(101, "/template"), "");
    assert_eq!(client.task(&converted), "OK");
    let cloned = client.post(&client.vm(101, "/clone"), "newid=102");
    assert_eq!(client.task(&cloned), "OK");
    let disk = "local:100/base-100-disk-0.qcow2/101/base-101-disk-0.qcow2";
    let message = format!("base volume '{disk}' is still in use by linked cloned");
    assert_eq!(client.task(&client.delete(&client.vm(101, ""))), message);
    assert_eq!(client.task(&client.delete(&client.vm(102, ""))), "OK");
    assert_eq!(client.task(&client.delete(&client.vm(101, ""))), "OK");
    assert_eq!(client.task(&client.delete(&client.vm(100, ""))), "OK");
    assert_eq!(server.inventory().volumes, []);
}

#[test]
fn disks_that_nobody_names_stay_behind() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let unnamed = |vmid: u32| {
        client.has_vm(vmid, &[]);
        let id = vmid.to_string();
        let name = format!("vm-{id}-disk-7.raw");
        let disk = form(&[("vmid", &id), ("filename", &name), ("size", "1M")]);
        client
            .post("/nodes/pve/storage/local/content", &disk)
            .is(200, "OK");
    };
    unnamed(100);
    assert_eq!(
        client.task(&client.delete(&client.vm(100, "?purge=1"))),
        "OK"
    );
    let left = ("pve/local:100/vm-100-disk-7.raw".to_owned(), 1 << 20);
    assert_eq!(server.inventory().volumes, std::slice::from_ref(&left));
    unnamed(101);
    let all = client.delete(&client.vm(101, "?purge=1&destroy-unreferenced-disks=1"));
    assert_eq!(client.task(&all), "OK");
    assert_eq!(server.inventory().volumes, [left]);
}

#[test]
fn deleting_a_volume_asks_nobody() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let path = "/nodes/pve/storage/local/content/local:100%2Fvm-100-disk-0.qcow2";
    assert_eq!(client.task(&client.delete(path)), "OK");
    assert_eq!(server.inventory().volumes, []);
    let started = client.post(&client.vm(100, "/status/start"), "");
    assert_eq!(
        client.task(&started),
        "volume 'local:100/vm-100-disk-0.qcow2' does not exist"
    );
}

#[test]
fn deleting_what_is_gone_is_ok() {
    let setup = Setup::new().token("some@pve!ci", "secret");
    let privileges = [
        "Datastore.AllocateSpace",
        "Datastore.AllocateTemplate",
        "Datastore.Audit",
    ];
    let server = Server::start(setup.grant("/storage", "some@pve!ci", &privileges));
    let client = Client::new(&server);
    client.has_file("iso", "a.iso", b"x");
    let path = "/nodes/pve/storage/local/content/local:iso%2Fa.iso";
    let some = Client::with_token(&server, "some@pve!ci", "secret");
    some.delete(path).is(
        403,
        "Permission check failed (/storage/local, Datastore.Allocate)",
    );
    assert_eq!(
        client.delete(&format!("{path}?delay=30")).data(),
        serde_json::Value::Null
    );
    let again = client.delete(path);
    assert_eq!(client.task(&again), "OK");
    let file = server.folder().join("storage/local@pve/template/iso/a.iso");
    assert_eq!(
        client.log(&again)[0],
        format!("disk image '{}' does not exist", file.display())
    );
}

#[test]
fn a_volume_is_shown_as_a_guest_sees_it() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_file("import", "a.qcow2", &crate::client::qcow2("16M"));
    let path = |name: &str| format!("/nodes/pve/storage/local/content/local:import%2F{name}");
    let shown = client.get(&path("a.qcow2")).data();
    let keys: Vec<&String> = shown.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["format", "path", "size", "used"]);
    assert_eq!(shown["size"], 16 << 20);
    client.get(&path("nope.raw")).is(
        500,
        "volume_size_info on 'local:import/nope.raw' failed - no format",
    );
}

#[test]
fn memory_of_what_runs_is_pending() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    client.start(100);
    client
        .put(&client.vm(100, "/config"), "memory=128&name=new")
        .is(200, "OK");
    assert_eq!(client.config(100)["memory"], "128");
    let current = client.get(&client.vm(100, "/config?current=1")).data();
    assert_eq!(
        (&current["memory"], &current["name"]),
        (&"64".into(), &"new".into())
    );
    let pending = client.get(&client.vm(100, "/pending")).data();
    let memory = pending
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["key"] == "memory");
    assert_eq!(
        memory.unwrap(),
        &serde_json::json!({"key": "memory", "value": "64", "pending": "128"})
    );
    assert_eq!(
        client.task(&client.post(&client.vm(100, "/status/stop"), "")),
        "OK"
    );
    assert_eq!(
        client.get(&client.vm(100, "/config?current=1")).data()["memory"],
        "128"
    );
}

#[test]
fn a_clone_is_another_machine() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("net0", "virtio,bridge=vmbr0")]);
    let cloned = client.post(&client.vm(100, "/clone"), "newid=101&name=twin");
    assert_eq!(client.task(&cloned), "OK");
    let (one, other) = (client.config(100), client.config(101));
    for key in ["net0", "smbios1", "vmgenid"] {
        assert_ne!(one[key], other[key], "{key}");
    }
    assert!(
        other["net0"].as_str().unwrap().ends_with(",bridge=vmbr0"),
        "{other}"
    );
    assert_eq!(other["memory"], "64");
}

#[test]
fn a_disk_grows_and_never_shrinks() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let resize = |size: &str| {
        let form = form(&[("disk", "virtio0"), ("size", size)]);
        client.put(&client.vm(100, "/resize"), &form)
    };
    assert_eq!(client.task(&resize("16M")), "OK");
    client.start(100);
    assert_eq!(client.task(&resize("+16M")), "OK");
    assert_eq!(
        client.config(100)["virtio0"],
        "local:100/vm-100-disk-0.qcow2,size=32M"
    );
    let shorter = resize("1M");
    assert_eq!(client.task(&shorter), "shrinking disks is not supported");
    let upid = shorter.data();
    assert!(upid.as_str().unwrap().contains(":resize:100:"), "{upid}");
    let nothing = client.put(&client.vm(100, "/resize"), "disk=scsi7&size=32M");
    assert_eq!(client.task(&nothing), "disk 'scsi7' does not exist");
    client.has_template(200);
    let base = client.put(&client.vm(200, "/resize"), "disk=virtio0&size=32M");
    let exit = client.task(&base);
    assert!(exit.ends_with("failed: exit code 1"), "{exit}");
    assert_eq!(
        client.config(200)["virtio0"],
        "local:200/base-200-disk-0.qcow2,size=10486K"
    );
}

#[test]
fn a_clone_has_its_own_tpm_state() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("tpmstate0", "local:1,version=v2.0")]);
    let converted = client.post(&client.vm(100, "/template"), "");
    assert_eq!(client.task(&converted), "OK");
    let cloned = client.post(&client.vm(100, "/clone"), "newid=101");
    assert_eq!(client.task(&cloned), "OK");
    assert_eq!(
        client.config(101)["tpmstate0"],
        "local:101/vm-101-disk-0.raw,size=4M,version=v2.0"
    );
}

#[test]
fn uefi_without_a_disk_for_it_is_a_warning() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("bios", "ovmf"), ("machine", "q35")]);
    let variables = "local:1,format=qcow2,efitype=4m,pre-enrolled-keys=1";
    client.has_vm(
        101,
        &[
            ("bios", "ovmf"),
            ("machine", "q35"),
            ("efidisk0", variables),
        ],
    );
    let start = |vmid: u32| client.task(&client.post(&client.vm(vmid, "/status/start"), ""));
    assert_eq!(
        (start(100).as_str(), start(101).as_str()),
        ("WARNINGS: 1", "OK")
    );
    let disk = client.config(101)["efidisk0"].as_str().unwrap().to_owned();
    assert!(
        disk.ends_with(",efitype=4m,pre-enrolled-keys=1,size=528K"),
        "{disk}"
    );
}

#[test]
fn a_vm_moves_with_its_local_disks() {
    let shared = Storage::new("shared").holding(&["images"]).shared();
    let server = Server::start(Setup::new().node("pve2").storage(shared));
    let client = Client::new(&server);
    client.has_vm(100, &[("scsi1", "shared:0.01")]);
    let migrate = |more: &[(&str, &str)]| {
        let pairs = [&[("target", "pve2")], more].concat();
        client.post(&client.vm(100, "/migrate"), &form(&pairs))
    };
    migrate(&[("targetstorage", "nope")]).is(500, "storage 'nope' does not exist");
    assert_eq!(client.task(&migrate(&[])), "OK");
    client.get(&client.vm(100, "/config")).is(
        500,
        "Configuration file 'nodes/pve/qemu-server/100.conf' does not exist",
    );
    client.get("/nodes/pve2/qemu/100/config").is(200, "OK");
    let volumes = server.inventory().volumes;
    let places: Vec<&str> = volumes.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(
        places,
        [
            "pve2/local:100/vm-100-disk-0.qcow2",
            "shared:100/vm-100-disk-0.raw"
        ]
    );
    let started = client.post("/nodes/pve2/qemu/100/status/start", "");
    assert_eq!(client.task(&started), "OK");
}

#[test]
fn a_node_that_is_off_is_not_reached() {
    let server = Server::start(Setup::new().node("pve2"));
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let there = client.post("/nodes/pve2/qemu", "vmid=101&name=web");
    assert_eq!(client.task(&there), "OK");
    server.power("pve2", false);
    assert_eq!(client.get("/nodes").data()[1]["status"], "offline");
    let guests = client.get("/cluster/resources?type=vm").data();
    assert_eq!(
        (&guests[1]["status"], &guests[1]["name"]),
        (&"unknown".into(), &serde_json::Value::Null)
    );
    client.get("/nodes/pve2/qemu").is(595, "No route to host");
    let moved = client.post(&client.vm(100, "/migrate"), "target=pve2");
    assert_eq!(
        client.task(&moved),
        "Can't connect to destination address using public key"
    );
    server.power("pve2", true);
    client.get("/nodes/pve2/qemu").is(200, "OK");
}

#[test]
fn a_clone_on_another_node_needs_shared_storage() {
    let shared = Storage::new("shared").holding(&["images"]).shared();
    let server = Server::start(Setup::new().node("pve2").storage(shared));
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let clone = |vmid: u32| client.post(&client.vm(vmid, "/clone"), "newid=109&full=1&target=pve2");
    clone(100).is(500, "can't clone VM to node 'pve2' (VM uses local storage)");
    let disk = [("vmid", "101"), ("scsi0", "shared:0.01")];
    assert_eq!(
        client.task(&client.post("/nodes/pve/qemu", &form(&disk))),
        "OK"
    );
    assert_eq!(client.task(&clone(101)), "OK");
    client.get("/nodes/pve2/qemu/109/config").is(200, "OK");
}

#[test]
fn sshkeys_are_encoded_once_more() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let set = |value: &str| client.put(&client.vm(100, "/config"), &form(&[("sshkeys", value)]));
    let keys = "ssh-ed25519%20AAAA%20a%0Assh-ed25519%20BBBB%20b";
    set(keys).is(200, "OK");
    assert_eq!(client.config(100)["sshkeys"], keys);
    set("ssh-ed25519+AAAA").refuses("sshkeys", "invalid format - invalid urlencoded string\n");
    set("ssh-ed25519 AAAA a").refuses("sshkeys", "invalid format - invalid urlencoded string\n");
}

#[test]
fn the_cloudinit_drive_is_made_at_each_start() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let key = "ssh-ed25519%20AAAA%20first";
    client.has_vm(
        100,
        &[
            ("scsi1", "local:cloudinit"),
            ("sshkeys", key),
            ("name", "a.lab"),
        ],
    );
    let drive = "local:100/vm-100-cloudinit.qcow2,media=cdrom";
    assert_eq!(client.config(100)["scsi1"], drive);
    let seed = || {
        let path = server
            .folder()
            .join("storage/local@pve/images/100/vm-100-cloudinit.qcow2");
        String::from_utf8_lossy(&raw(&path)).into_owned()
    };
    client.start(100);
    for part in [
        "CIDATA",
        r#""package_upgrade":true"#,
        "ssh-ed25519 AAAA first",
        "a.lab",
    ] {
        assert!(seed().contains(part), "{part}");
    }
    assert_eq!(
        client.task(&client.post(&client.vm(100, "/status/stop"), "")),
        "OK"
    );
    let second = form(&[("sshkeys", "ssh-ed25519%20AAAA%20second")]);
    client
        .put(&client.vm(100, "/config"), &second)
        .is(200, "OK");
    client.start(100);
    assert!(seed().contains("ssh-ed25519 AAAA second"));
    assert!(!seed().contains("first"));
}

#[test]
fn passwords_do_not_come_back() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("cipassword", "secret")]);
    assert_eq!(client.config(100)["cipassword"], "**********");
}

#[test]
fn agent_errors_say_what_is_missing() {
    let server = Server::start(Setup::new().pace(10));
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    client.has_vm(101, &[("agent", "1")]);
    let ping = |vmid: u32| client.post(&client.vm(vmid, "/agent/ping"), "");
    ping(100).is(500, "No QEMU guest agent configured");
    ping(101).is(500, "VM 101 is not running");
    client.start(101);
    ping(101).is(500, "QEMU guest agent is not running");
}
