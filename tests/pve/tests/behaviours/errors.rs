use pve_lab::{Server, Setup};

use crate::client::{Client, form};

#[test]
fn the_reason_phrase_carries_the_message() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    assert_eq!(
        client.task(&client.post(&client.vm(100, "/template"), "")),
        "OK"
    );
    let answer = client.post(&client.vm(100, "/template"), "");
    let message = "you can't convert a template to a template";
    answer.is(500, message);
    let body = serde_json::json!({"data": null, "message": format!("{message}\n")});
    assert_eq!(answer.json(), body);
}

#[test]
fn wrong_parameters_are_named() {
    let server = Server::start(Setup::new());
    let answer =
        Client::new(&server).post("/nodes/pve/qemu", "cores=0&color=red&bios=amiga&onboot=2");
    answer.is(400, "Parameter verification failed.");
    let errors = serde_json::json!({
        "vmid": "property is missing and it is not optional",
        "cores": "value must have a minimum value of 1",
        "color": "property is not defined in schema and the schema does not allow additional properties",
        "bios": "value 'amiga' does not have a value in the enumeration 'seabios, ovmf'",
        "onboot": "type check ('boolean') failed - got '2'",
    });
    assert_eq!(answer.json()["errors"], errors);
}

#[test]
fn path_and_parameters_agree() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let path = client.vm(100, "/config");
    client.put(&path, "name=a&vmid=100").is(200, "OK");
    let wrong = "duplicate parameter (already defined in URI) with conflicting values!";
    client.put(&path, "name=a&vmid=101").refuses("vmid", wrong);
}

#[test]
fn a_401_has_no_body() {
    let server = Server::start(Setup::new());
    let mut client = Client::new(&server);
    client.credentials = String::new();
    let answer = client.get("/version");
    answer.is(401, "No ticket");
    assert_eq!(answer.body, "");
    let client = Client::with_token(&server, pve_lab::TOKEN, "wrong");
    let answer = client.get("/version");
    answer.is(401, "Authentication failed!");
    assert_eq!(answer.body, "");
}

#[test]
fn a_missing_vm_is_a_500() {
    let setup = Setup::new().token("poor@pve!ci", "secret");
    let server = Server::start(setup);
    let client = Client::new(&server);
    let path = client.vm(999, "/config");
    client.get(&path).is(
        500,
        "Configuration file 'nodes/pve/qemu-server/999.conf' does not exist",
    );
    let poor = Client::with_token(&server, "poor@pve!ci", "secret");
    poor.get(&path)
        .is(403, "Permission check failed (/vms/999, VM.Audit)");
    client.post(&client.vm(999, "/clone"), "newid=1000").is(
        500,
        "unable to find configuration file for VM 999 on node 'pve'",
    );
}

#[test]
fn an_unknown_path_is_a_501() {
    let server = Server::start(Setup::new());
    let answer = Client::new(&server).get("/nodes/pve/nothing");
    let message = "Method 'GET /nodes/pve/nothing' not implemented";
    answer.is(501, message);
    assert_eq!(answer.json()["message"], message);
}

#[test]
fn an_unknown_node_is_a_500() {
    let server = Server::start(Setup::new());
    let answer = Client::new(&server).get("/nodes/nope/qemu");
    assert_eq!(answer.status, 500);
    assert!(
        answer.reason.starts_with("hostname lookup 'nope' failed"),
        "{answer:?}"
    );
}

#[test]
fn a_stale_digest_is_refused() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let path = client.vm(100, "/config");
    let digest = client.get(&path).data()["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let change = |name: &str| client.put(&path, &format!("name={name}&digest={digest}"));
    change("first").is(200, "OK");
    change("second").is(500, "checksum mismatch (file change by other user?)");
    assert_eq!(client.get(&path).data()["name"], "first");
}

#[test]
fn what_is_no_path_has_no_privileges() {
    let server = Server::start(Setup::new());
    let asked = Client::new(&server).get("/access/permissions?path=bad");
    assert_eq!(asked.data(), serde_json::json!({"bad": {}}));
}

#[test]
fn skiplock_is_for_root() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let refused = client.delete(&client.vm(100, "?skiplock=1"));
    refused.refuses("skiplock", "Only root may use this option.");
    let without = client.delete(&client.vm(100, "?skiplock=0"));
    assert_eq!(client.task(&without), "OK");
}

#[test]
fn an_unknown_storage_is_told_in_two_ways() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    for path in [
        "/nodes/pve/storage?storage=nope",
        "/nodes/pve/storage/nope/status",
    ] {
        client.get(path).refuses("storage", "No such storage.");
    }
    let missing = "storage 'nope' does not exist";
    let content = "/nodes/pve/storage/nope/content";
    client.get(content).is(500, missing);
    for disk in [
        "nope:1",
        "nope:iso/a.iso,media=cdrom",
        "local:0,import-from=nope:import/a.raw",
    ] {
        let change = form(&[("scsi1", disk)]);
        let answer = client.post(&client.vm(100, "/config"), &change);
        answer.is(500, missing);
    }
    let copy = client.post(&client.vm(100, "/clone"), "newid=101&full=1&storage=nope");
    copy.is(500, missing);
}

#[test]
fn ids_and_kinds_of_content_have_forms() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.post("/nodes/pve/qemu", "vmid=99").refuses(
        "vmid",
        "invalid format - value does not look like a valid VM ID\n",
    );
    for path in [
        "/nodes/pve/storage?content=nope",
        "/nodes/pve/storage/local/content?content=nope",
    ] {
        let wrong = "invalid format - invalid content type 'nope'\n";
        client.get(path).refuses("content", wrong);
    }
}

#[test]
fn a_pool_that_is_not_there_is_a_403() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let missing = "Permission check failed (pool 'nope' does not exist)";
    let create = client.post("/nodes/pve/qemu", "vmid=101&pool=nope");
    create.is(403, missing);
    let clone = client.post(&client.vm(100, "/clone"), "newid=101&pool=nope");
    clone.is(403, missing);
}

#[test]
fn a_pool_with_members_stays() {
    let server = Server::start(Setup::new().pool("ours"));
    let client = Client::new(&server);
    client.has_vm(100, &[("pool", "ours"), ("name", "one")]);
    let shown = client.get("/pools?poolid=ours").data();
    let member = &shown[0]["members"][0];
    let facts = ["id", "name", "node", "template"].map(|key| member[key].clone());
    assert_eq!(
        serde_json::json!(facts),
        serde_json::json!(["qemu/100", "one", "pve", 0])
    );
    client.delete("/pools?poolid=ours").is(
        500,
        "delete pool failed: pool 'ours' is not empty (contains VM 100)",
    );
}
