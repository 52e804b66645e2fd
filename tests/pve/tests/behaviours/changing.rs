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
    let absent = client.post(&client.vm(100, "/config"), &form(&[("delete", "rng0")]));
    assert_eq!(client.task(&absent), "OK");
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
    assert_eq!(
        change(&[("scsi1", "local:cloudinit")]),
        "order=virtio0;scsi1"
    );
    assert_eq!(change(&[("delete", "scsi1")]), "order=virtio0");
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
