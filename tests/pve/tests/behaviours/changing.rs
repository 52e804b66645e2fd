use pve_lab::{Server, Setup};

use crate::client::{Client, form};

#[test]
fn an_option_is_set_or_deleted() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let both = form(&[("onboot", "1"), ("delete", "onboot")]);
    client.put(&client.vm(100, "/config"), &both).refuses(
        "delete",
        "you can't use '-onboot' and -delete onboot' at the same time",
    );
    let unknown = client.post(&client.vm(100, "/config"), "delete=nope");
    unknown.refuses("delete", "unknown option 'nope'");
    let absent = client.post(&client.vm(100, "/config"), &form(&[("delete", "rng0")]));
    assert_eq!(client.task(&absent), "OK");
    assert_eq!(
        client.log(&absent)[1],
        "cannot delete 'rng0' - not set in current configuration!"
    );
}

#[test]
fn a_change_is_told_in_its_task_s_log() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("scsi1", "local:0.01")]);
    let pairs = [
        ("tags", "z;a"),
        ("name", "new"),
        ("scsi2", "local:0.03125"),
        ("cipassword", "secret"),
        ("delete", "scsi1"),
    ];
    let change = client.post(&client.vm(100, "/config"), &form(&pairs));
    assert_eq!(client.task(&change), "OK");
    assert_eq!(
        client.log(&change),
        [
            "update VM 100: -cipassword <hidden> -delete scsi1 -name new -scsi2 local:0.03125 -tags z;a",
            "scsi2: successfully created disk 'local:100/vm-100-disk-2.raw,size=32M'",
            "TASK OK"
        ]
    );
}

#[test]
fn what_is_booted_from_must_be_there() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("scsi1", "local:0.01")]);
    let before = client.config(100);
    let change = |pairs: &[(&str, &str)]| {
        let changed = client.post(&client.vm(100, "/config"), &form(pairs));
        client.task(&changed)
    };
    let missing = |device: &str| format!("invalid bootorder: device '{device}' does not exist'");
    assert_eq!(change(&[("boot", "order=scsi9")]), missing("scsi9"));
    let both = [("boot", "order=virtio0;scsi1"), ("delete", "scsi1")];
    assert_eq!(change(&both), missing("scsi1"));
    assert_eq!(client.config(100), before);
    let new = [("boot", "order=scsi2;virtio0"), ("scsi2", "local:0.01")];
    assert_eq!(change(&new), "OK");
    assert_eq!(client.config(100)["boot"], "order=scsi2;virtio0");
}

#[test]
fn a_drive_is_replaced_by_setting_it() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let iso = client.has_file("iso", "seed.iso", b"seed");
    let cd = format!("{iso},media=cdrom");
    client.has_vm(100, &[("scsi1", &cd), ("scsi2", "local:0.01")]);
    let set = |pairs: &[(&str, &str)]| {
        let changed = client.post(&client.vm(100, "/config"), &form(pairs));
        assert_eq!(client.task(&changed), "OK");
        client.config(100)
    };
    let disk = client.config(100)["scsi2"].clone();
    let after = set(&[("scsi1", "local:cloudinit"), ("scsi2", "local:0.02")]);
    let drive = after["scsi1"].as_str().unwrap();
    assert!(
        drive.contains("vm-100-cloudinit") && drive.contains("media=cdrom"),
        "{drive}"
    );
    let unused = after["unused0"].as_str().unwrap();
    assert!(disk.as_str().unwrap().starts_with(unused), "{after}");
    let volume = drive.split(',').next().unwrap().to_owned();
    assert!(
        server
            .inventory()
            .volumes
            .iter()
            .any(|line| line.0.contains(&volume))
    );
    set(&[("scsi1", &cd)]);
    let left = server.inventory().volumes;
    assert!(
        !left.iter().any(|line| line.0.contains(&volume)),
        "{left:?}"
    );
    assert!(
        left.iter().any(|line| line.0.contains("seed.iso")),
        "{left:?}"
    );
}

#[test]
fn the_boot_order_follows_the_drives() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let iso = client.has_file("iso", "a.iso", b"x");
    client.has_vm(
        100,
        &[("boot", "order=virtio0"), ("net0", "virtio,bridge=vmbr0")],
    );
    let change = |pairs: &[(&str, &str)]| {
        let changed = client.post(&client.vm(100, "/config"), &form(pairs));
        assert_eq!(client.task(&changed), "OK");
        client.config(100)["boot"].clone()
    };
    assert_eq!(change(&[("scsi2", "local:0.01")]), "order=virtio0");
    assert_eq!(change(&[("scsi1", "local:cloudinit")]), "order=virtio0");
    let cd = format!("{iso},media=cdrom");
    assert_eq!(change(&[("scsi3", &cd)]), "order=virtio0;scsi3");
    assert_eq!(change(&[("delete", "virtio0")]), "order=scsi3");
    assert_eq!(change(&[("delete", "scsi3")]), " ");
}

#[test]
fn a_balloon_is_smaller_than_the_memory() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let set = |balloon| client.put(&client.vm(100, "/config"), &form(&[("balloon", balloon)]));
    set("65").is(
        500,
        "balloon value too large (must be smaller than assigned memory)",
    );
    set("64").is(200, "OK");
    set("0").is(200, "OK");
}

#[test]
fn a_device_that_is_not_there_keeps_a_vm_from_starting() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("hostpci0", "mapping=gpu")]);
    let started = client.post(&client.vm(100, "/status/start"), "");
    assert_eq!(
        client.task(&started),
        "PCI device mapping not found for 'gpu'"
    );
}
