use pve_lab::{Server, Setup};

use crate::client::Client;

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
}

#[test]
fn an_unknown_path_is_a_501() {
    let server = Server::start(Setup::new());
    let answer = Client::new(&server).get("/nodes/pve/nothing");
    answer.is(501, "Method 'GET /nodes/pve/nothing' not implemented");
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
