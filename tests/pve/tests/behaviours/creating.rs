use pve_lab::{Fault, Server, Setup, Storage, What};

use crate::client::{Client, form, qcow2};

#[test]
fn import_from_needs_the_size_0() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let source = client.has_file("import", "a.qcow2", &qcow2("1M"));
    let create = |size: &str| {
        let disk = format!("local:{size},import-from={source}");
        client.post(
            "/nodes/pve/qemu",
            &form(&[("vmid", "100"), ("scsi0", &disk)]),
        )
    };
    let refused = create("4");
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.json()["errors"]["scsi0"].is_string(), "{refused:?}");
    assert_eq!(client.task(&create("0")), "OK");
}

#[test]
fn only_root_imports_from_a_path() {
    let server = Server::start(Setup::new());
    let disk = "local:0,import-from=/tmp/a.qcow2";
    let answer = Client::new(&server).post(
        "/nodes/pve/qemu",
        &form(&[("vmid", "100"), ("scsi0", disk)]),
    );
    answer.is(500, "Only root can pass arbitrary filesystem paths.");
}

#[test]
fn a_missing_source_fails_in_the_task() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let before = server.inventory();
    let disk = "local:0,import-from=local:import/nope.qcow2";
    let answer = client.post(
        "/nodes/pve/qemu",
        &form(&[("vmid", "100"), ("scsi0", disk)]),
    );
    let exit = client.task(&answer);
    let path = server.folder().join("storage/local@pve/import/nope.qcow2");
    assert_eq!(
        exit,
        format!(
            "unable to create VM 100 - failed to stat '{}'",
            path.display()
        )
    );
    assert_eq!(server.inventory(), before);
}

#[test]
fn a_disk_of_a_vm_is_imported_with_the_right_to_clone_that() {
    const WHO: &str = "some@pve!ci";
    let setup = Setup::new().node("pve2").token(WHO, "secret");
    let setup = setup
        .storage(Storage::new("both").holding(&["images"]).shared())
        .grant("/storage", WHO, &["Datastore.AllocateSpace"])
        .grant("/vms", WHO, &["VM.Allocate", "VM.Config.Disk"]);
    let server = Server::start(setup);
    let client = Client::new(&server);
    client.has_vm(100, &[("scsi0", "both:0.01,format=qcow2")]);
    let converted = client.post(&client.vm(100, "/template"), "");
    assert_eq!(client.task(&converted), "OK");
    let source = "both:100/base-100-disk-0.qcow2";
    let create = |node: &str, vmid: &str| {
        let disk = format!("local:0,import-from={source}");
        let parameters = form(&[("vmid", vmid), ("scsi0", &disk)]);
        (format!("/nodes/{node}/qemu"), parameters)
    };
    let (path, parameters) = create("pve", "101");
    let refused = Client::with_token(&server, WHO, "secret").post(&path, &parameters);
    refused.is(403, "Permission check failed (/vms/100, VM.Clone)");
    assert_eq!(client.task(&client.post(&path, &parameters)), "OK");
    let config = client.config(101);
    assert!(
        config["scsi0"]
            .as_str()
            .unwrap()
            .starts_with("local:101/vm-101-disk-0.qcow2,")
    );
    let (path, parameters) = create("pve2", "102");
    let exit = client.task(&client.post(&path, &parameters));
    assert_eq!(
        exit,
        "unable to create VM 102 - owner VM 100 not on local node"
    );
}

#[test]
fn what_a_drive_names_must_be_there() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let missing = "volume 'local:iso/nope.iso' does not exist";
    let drives = [
        ("scsi0", "local:0.01"),
        ("scsi1", "local:iso/nope.iso,media=cdrom"),
    ];
    let create = client.post(
        "/nodes/pve/qemu",
        &form(&[&[("vmid", "100")], &drives[..]].concat()),
    );
    assert_eq!(
        client.task(&create),
        format!("unable to create VM 100 - {missing}")
    );
    assert_eq!(server.inventory(), Server::start(Setup::new()).inventory());
    client.has_vm(100, &[]);
    let before = server.inventory();
    let change = client.post(&client.vm(100, "/config"), &form(&drives));
    assert_eq!(client.task(&change), missing);
    client
        .put(&client.vm(100, "/config"), &form(&drives))
        .is(500, missing);
    assert_eq!(server.inventory(), before);
    let source = client.has_file("import", "a.raw", b"x");
    let change = client.post(&client.vm(100, "/config"), &form(&[("scsi1", &source)]));
    change.refuses("scsi1", "content type needs to be 'images' or 'iso'");
}

#[test]
fn drives_are_written_in_one_way() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let iso = client.has_file("iso", "a.iso", &[0; 2048]);
    client.has_vm(
        100,
        &[
            ("scsi0", "local:0.03125,iothread=1,discard=on,backup=0"),
            ("scsi1", &format!("{iso},media=cdrom")),
            ("scsi2", "local:cloudinit"),
        ],
    );
    let config = client.config(100);
    assert_eq!(
        config["scsi0"],
        "local:100/vm-100-disk-0.raw,backup=0,discard=on,iothread=1,size=32M"
    );
    assert_eq!(config["scsi1"], "local:iso/a.iso,media=cdrom,size=2K");
    assert_eq!(
        config["scsi2"],
        "local:100/vm-100-cloudinit.qcow2,media=cdrom"
    );
    let cloned = client.post(&client.vm(100, "/clone"), "newid=101&full=1&format=raw");
    assert_eq!(client.task(&cloned), "OK");
    assert_eq!(
        client.config(101)["scsi2"],
        "local:101/vm-101-cloudinit.raw,media=cdrom,size=4M"
    );
}

#[test]
fn processors_are_known_by_name() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let set = |cpu: &str| client.put(&client.vm(100, "/config"), &form(&[("cpu", cpu)]));
    for known in [
        "host",
        "x86-64-v2-AES",
        "cputype=EPYC-Rome,flags=+aes",
        "486",
    ] {
        set(known).is(200, "OK");
    }
    set("nonsense").refuses(
        "cpu",
        "invalid format - Built-in cputype 'nonsense' is not defined (missing 'custom-' prefix?)\n",
    );
}

#[test]
fn an_import_keeps_its_format() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let source = client.has_file("import", "a.qcow2", &qcow2("1M"));
    let kept = format!("local:0,import-from={source}");
    let other = format!("{kept},format=raw");
    let disks = form(&[("vmid", "100"), ("scsi0", &kept), ("scsi1", &other)]);
    assert_eq!(client.task(&client.post("/nodes/pve/qemu", &disks)), "OK");
    let config = client.config(100);
    assert_eq!(config["scsi0"], "local:100/vm-100-disk-0.qcow2,size=1M");
    assert_eq!(config["scsi1"], "local:100/vm-100-disk-1.raw,size=1M");
}

#[test]
fn the_configuration_names_the_disks() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let disks = [
        ("vmid", "100"),
        ("virtio0", "local:0.01"),
        ("scsi3", "local:0.01"),
        ("scsi4", "local:0.01,format=qcow2"),
    ];
    assert_eq!(
        client.task(&client.post("/nodes/pve/qemu", &form(&disks))),
        "OK"
    );
    let config = client.config(100);
    let file = |key: &str| {
        config[key]
            .as_str()
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(file("scsi3"), "local:100/vm-100-disk-0.raw");
    assert_eq!(file("scsi4"), "local:100/vm-100-disk-1.qcow2");
    assert_eq!(file("virtio0"), "local:100/vm-100-disk-2.raw");
}

#[test]
fn nextid_reserves_nothing() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    assert_eq!(client.get("/cluster/nextid").data(), "100");
    assert_eq!(client.get("/cluster/nextid").data(), "100");
    client.has_vm(100, &[]);
    assert_eq!(client.get("/cluster/nextid").data(), "101");
    client
        .get("/cluster/nextid?vmid=100")
        .refuses("vmid", "VM 100 already exists");
}

#[test]
fn of_two_creates_one_is_too_late() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let create = || client.post("/nodes/pve/qemu", "vmid=100&memory=64");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..2).map(|_| scope.spawn(create)).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!((won.len(), lost.len()), (1, 1), "{answers:?}");
    lost[0].is(
        500,
        "unable to create VM 100 - VM 100 already exists on node 'pve'",
    );
    assert_eq!(client.task(won[0]), "OK");
}

#[test]
fn creating_a_locked_id_fails() {
    let server = Server::start(Setup::new().pace(20));
    let client = Client::new(&server);
    server.inject(Fault::on("POST", "/nodes/*/qemu").with(What::LockTimeout));
    let lock = "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout";
    let answer = client.post("/nodes/pve/qemu", "vmid=100");
    answer.is(500, &format!("unable to create VM 100 - {lock}"));
    assert_eq!(server.inventory().vms, Vec::<String>::new());
}

#[test]
fn a_create_succeeds_though_its_start_fails() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("start", "1"), ("net0", "virtio,bridge=vmbr9")]);
    let started = client.until("/nodes/pve/tasks?typefilter=qmstart", |tasks| {
        tasks[0]["status"].is_string()
    });
    assert_eq!(started[0]["status"], "bridge 'vmbr9' does not exist");
}

#[test]
fn names_tags_and_descriptions_have_limits() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let set =
        |name: &str, value: &str| client.put(&client.vm(100, "/config"), &form(&[(name, value)]));
    set("name", "not_a_name").refuses(
        "name",
        "invalid format - value does not look like a valid DNS name\n",
    );
    set("tags", "a;b=c").refuses("tags", "invalid format - invalid characters in tag\n");
    set("description", &"é".repeat(8193))
        .refuses("description", "value may only be 8192 characters long");
    set("name", "a-name").is(200, "OK");
    set("tags", "Web;base;base").is(200, "OK");
    set("description", &"é".repeat(8192)).is(200, "OK");
    assert_eq!(client.config(100)["tags"], "base;web");
}

#[test]
fn property_strings_are_checked() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let set =
        |name: &str, value: &str| client.put(&client.vm(100, "/config"), &form(&[(name, value)]));
    for (name, value) in [
        ("net1", "virtio,bridge=vmbr0,tag=20,mtu=1,firewall=1"),
        ("net2", "e1000e=BC:24:11:00:00:01,bridge=vmbr0"),
        ("scsi2", "local:0.5,discard=on,iothread=1,backup=0"),
        ("tpmstate0", "local:1,version=v2.0"),
        ("efidisk0", "local:1,efitype=4m,pre-enrolled-keys=0"),
        ("hostpci0", "mapping=gpu,pcie=1,x-vga=1"),
        ("rng0", "source=/dev/urandom"),
        ("vga", "serial0"),
        ("cpu", "x86-64-v2-AES"),
        ("machine", "pc"),
        ("onboot", "1"),
        ("agent", "enabled=yes"),
    ] {
        set(name, value).is(200, "OK");
    }
    let format = |lines: &str| format!("invalid format - format error\n{lines}\n");
    for (name, value, wrong) in [
        (
            "net1",
            "virtio,tag=4095",
            format("net1.tag: value must have a maximum value of 4094"),
        ),
        (
            "net1",
            "virtio,mtu=65521",
            format("net1.mtu: value must have a maximum value of 65520"),
        ),
        (
            "net1",
            "virtio,firewall=2",
            format("net1.firewall: type check ('boolean') failed - got '2'"),
        ),
        (
            "net1",
            "bridge=vmbr0",
            format("net1.model: property is missing and it is not optional"),
        ),
        (
            "net1",
            "virtio,vlan=1",
            "invalid format - invalid key in comma-separated list property: vlan\n".into(),
        ),
        (
            "scsi2",
            "local:1,iothread=maybe",
            format("scsi2.iothread: type check ('boolean') failed - got 'maybe'"),
        ),
        (
            "ide0",
            "local:1,iothread=1",
            "invalid format - invalid key in comma-separated list property: iothread\n".into(),
        ),
        (
            "tpmstate0",
            "local:1,version=2",
            format(
                "tpmstate0.version: value '2' does not have a value in the enumeration 'v1.2, v2.0'",
            ),
        ),
        (
            "hostpci0",
            "gpu",
            format("hostpci0.host: value does not match the regex pattern"),
        ),
        (
            "machine",
            "i440fx",
            format("machine.type: value does not match the regex pattern"),
        ),
        (
            "startup",
            "order=first",
            "invalid format - unable to parse startup options\n".into(),
        ),
        (
            "serial0",
            "tcp",
            "value does not match the regex pattern".into(),
        ),
        (
            "rng0",
            "source=/dev/urandom,source=/dev/random",
            "invalid format - duplicate key in comma-separated list property: source\n".into(),
        ),
    ] {
        set(name, value).refuses(name, &wrong);
    }
}
