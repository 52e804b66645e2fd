use pve_lab::{Server, Setup};
use serde_json::Value;

use crate::client::{Client, form};

/// A VM that runs, with one more disk that no drive has.
fn running(client: &Client, more: &[(&str, &str)]) -> String {
    let first = [("scsi0", "local:0.01"), ("boot", "order=virtio0;scsi0")];
    client.has_vm(100, &[&first, more].concat());
    let detached = client.put(&client.vm(100, "/config"), "delete=scsi0");
    detached.is(200, "OK");
    let volume = client.config(100)["unused0"].as_str().unwrap().to_owned();
    client.start(100);
    volume
}

fn current(client: &Client) -> Value {
    client.get(&client.vm(100, "/config?current=1")).data()
}

fn change(client: &Client, pairs: &[(&str, &str)]) -> String {
    client.task(&client.post(&client.vm(100, "/config"), &form(pairs)))
}

#[test]
fn a_detached_disk_can_be_attached_again() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("scsi0", "local:0.01")]);
    let before = server.inventory().volumes;
    assert_eq!(change(&client, &[("delete", "scsi0")]), "OK");
    let config = client.config(100);
    assert!(config["scsi0"].is_null(), "{config}");
    let volume = config["unused0"].as_str().unwrap();
    assert_eq!(
        change(&client, &[("scsi3", &format!("{volume},ro=1"))]),
        "OK"
    );
    let config = client.config(100);
    assert!(config["unused0"].is_null(), "{config}");
    let disk = config["scsi3"].as_str().unwrap();
    assert!(disk.starts_with(&format!("{volume},")), "{disk}");
    assert!(disk.contains("ro=1"), "{disk}");
    assert_eq!(server.inventory().volumes, before);
}

#[test]
fn disks_are_plugged_into_what_runs() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let volume = running(&client, &[]);
    for key in ["scsi1", "scsi2"] {
        assert_eq!(change(&client, &[(key, &volume)]), "OK");
        let now = current(&client);
        assert!(now[key].is_string() && now["unused0"].is_null(), "{now}");
        assert_eq!(change(&client, &[("delete", key)]), "OK");
        let now = current(&client);
        assert!(now[key].is_null() && now["unused0"].is_string(), "{now}");
    }
    assert_eq!(change(&client, &[("sata1", &volume)]), "OK");
    assert!(current(&client)["sata1"].is_null());
    assert!(client.config(100)["sata1"].is_string());
}

#[test]
fn without_hotplug_disks_are_pending() {
    for hotplug in ["0", "network,usb"] {
        let server = Server::start(Setup::new());
        let client = Client::new(&server);
        let volume = running(&client, &[("hotplug", hotplug)]);
        assert_eq!(change(&client, &[("scsi1", &volume)]), "OK");
        assert!(current(&client)["scsi1"].is_null());
        assert!(client.config(100)["scsi1"].is_string());
    }
}

#[test]
fn a_boot_disk_is_not_plugged_out() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    running(&client, &[]);
    let wrong = "hotplug problem - can't unplug bootdisk 'virtio0'";
    client
        .put(&client.vm(100, "/config"), "delete=virtio0")
        .refuses("virtio0", &format!("{wrong}\n"));
    let exit = change(&client, &[("delete", "virtio0")]);
    assert_eq!(
        exit,
        format!("400 Parameter verification failed. virtio0: {wrong}")
    );
    assert!(current(&client)["virtio0"].is_string());
    assert!(client.config(100)["virtio0"].is_null());
}

#[test]
fn a_clone_has_the_tags_of_its_source() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[("tags", "one;two")]);
    let template = client.post(&client.vm(100, "/template"), "");
    assert_eq!(client.task(&template), "OK");
    let clone = client.post(
        &client.vm(100, "/clone"),
        "newid=101&name=other&description=Another",
    );
    assert_eq!(client.task(&clone), "OK");
    let config = client.config(101);
    for (key, value) in [
        ("tags", "one;two"),
        ("name", "other"),
        ("description", "Another"),
    ] {
        assert_eq!(config[key], value);
    }
}
