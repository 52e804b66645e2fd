use std::io::ErrorKind;

use pve_lab::{Fault, Server, Setup, What};
use serde_json::json;

use crate::client::{Client, Wire};

#[test]
fn chunked_bodies_are_refused() {
    let server = Server::start(Setup::new());
    let answer = Client::new(&server)
        .raw(
            "POST",
            "/nodes/pve/qemu",
            "Transfer-Encoding: chunked\r\n",
            b"0\r\n\r\n",
        )
        .unwrap();
    answer.is(501, "chunked transfer encoding not supported");
    assert_eq!(answer.body, "chunked transfer encoding not supported");
}

#[test]
fn a_delete_takes_its_parameters_in_the_query() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let answer = client.send("DELETE", "/nodes/pve/qemu/100", "purge=1");
    answer.is(501, "Unexpected content for method 'DELETE'");
    assert_eq!(
        client.task(&client.delete("/nodes/pve/qemu/100?purge=1")),
        "OK"
    );
}

#[test]
fn an_empty_body_is_no_json() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let headers = "Content-Type: application/json\r\nContent-Length: 0\r\n";
    let path = client.vm(100, "/status/stop");
    let answer = client.raw("POST", &path, headers, b"").unwrap();
    assert_eq!(answer.status, 500);
    assert!(
        answer.reason.starts_with("malformed JSON string"),
        "{answer:?}"
    );
    assert_eq!(answer.body, answer.reason);
    assert_eq!(
        client.task(&client.raw("POST", &path, "", b"").unwrap()),
        "OK"
    );
}

#[test]
fn json_may_have_booleans_numbers_and_arrays() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let json = |method: &str, path: &str, body: &str| {
        let length = body.len();
        let headers = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        client.raw(method, path, &headers, body.as_bytes()).unwrap()
    };
    let body = r#"{"vmid": 100, "memory": 64, "onboot": true, "name": "a"}"#;
    assert_eq!(client.task(&json("POST", "/nodes/pve/qemu", body)), "OK");
    let config = client.get(&client.vm(100, "/config")).data();
    assert_eq!(config["onboot"], 1);
    // Its parameters are right, so it comes to the agent.
    let body = r#"{"command": ["ls", "-l"]}"#;
    json("POST", &client.vm(100, "/agent/exec"), body).is(500, "No QEMU guest agent configured");
}

#[test]
fn flags_in_forms_are_1_or_0() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let answer = client.post("/nodes/pve/qemu", "vmid=100&onboot=true");
    answer.refuses("onboot", "type check ('boolean') failed - got 'true'");
    assert_eq!(
        client.task(&client.post("/nodes/pve/qemu", "vmid=100&onboot=1")),
        "OK"
    );
}

#[test]
fn an_equals_sign_in_a_forms_value_is_encoded() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let answer = client.post("/nodes/pve/qemu", "vmid=100&agent=enabled=1");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.json()["errors"]["agent"].is_string(), "{answer:?}");
    client.has_vm(100, &[("agent", "enabled=1")]);
    let config = client.get(&client.vm(100, "/config")).data();
    assert_eq!(config["agent"], "enabled=1");
}

#[test]
fn a_large_body_is_refused() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_vm(100, &[]);
    let path = client.vm(100, "/config");
    let form = |length: usize| format!("description={}", "x".repeat(length - "description=".len()));
    client
        .put(&path, &form(512 << 10))
        .refuses("description", "value may only be 8192 characters long");
    // The answer comes before the body was read, so a client that is still sending may miss it.
    let headers = format!("Content-Length: {}\r\n", (512 << 10) + 1);
    let answer = client.raw("PUT", &path, &headers, b"description=").unwrap();
    answer.is(501, "for data too large");
}

#[test]
fn idle_connections_are_closed() {
    let server = Server::start(Setup::new().pace(10));
    let client = Client::new(&server);
    let mut wire = Wire::open(&(&server).into()).unwrap();
    for _ in 0..2 {
        wire.send(&client.message("GET", "/version", "", b""))
            .unwrap();
        assert_eq!(wire.answer().unwrap().status, 200);
    }
    let last = wire.rest();
    let quiet = match &last {
        Ok(bytes) => bytes.is_empty(),
        Err(error) => error.kind() == ErrorKind::UnexpectedEof,
    };
    assert!(quiet, "{last:?}");
    let connections: Vec<u64> = server
        .requests()
        .iter()
        .map(|request| request.connection)
        .collect();
    assert_eq!(connections, [1, 1], "both calls came on one connection");
}

#[test]
fn http_1_1_is_all_it_speaks() {
    let server = Server::start(Setup::new());
    let mut wire = Wire::open_offering(&(&server).into(), &[b"h2", b"http/1.1"]).unwrap();
    wire.send(&Client::new(&server).message("GET", "/version", "", b""))
        .unwrap();
    assert_eq!(wire.answer().unwrap().status, 200);
    assert_eq!(wire.agreed(), Some(b"http/1.1".to_vec()));
}

#[test]
fn a_call_is_cut_after_30_seconds_and_goes_on() {
    let server = Server::start(Setup::new().pace(100));
    let client = Client::new(&server);
    let cut = Fault::on("POST", "/nodes/*/qemu").with(What::GatewayTimeout);
    server.inject(cut);
    let answer = client.post("/nodes/pve/qemu", "vmid=100&memory=64");
    answer.is(596, "Connection timed out");
    assert_eq!(answer.body, "");
    let done = |vms: &serde_json::Value| vms[0]["vmid"] == 100 && vms[0]["lock"].is_null();
    client.until("/nodes/pve/qemu", done);
}

#[test]
fn lists_without_rights_are_empty() {
    let setup = Setup::new().token("poor@pve!ci", "secret");
    let server = Server::start(setup);
    Client::new(&server).has_vm(100, &[]);
    let poor = Client::with_token(&server, "poor@pve!ci", "secret");
    for path in [
        "/nodes/pve/qemu",
        "/nodes/pve/storage",
        "/nodes/pve/network",
        "/pools",
    ] {
        assert_eq!(poor.get(path).data(), serde_json::json!([]), "{path}");
    }
}

#[test]
fn cluster_resources_lag() {
    // It lags by 5 s now, and the VM is there sooner.
    let server = Server::start(Setup::new().pace(2));
    let client = Client::new(&server);
    let path = "/cluster/resources?type=vm";
    assert_eq!(client.get(path).data(), json!([]));
    client.has_vm(100, &[("name", "one"), ("tags", "new")]);
    let untold = json!([{
        "id": "qemu/100", "vmid": 100, "type": "qemu", "node": "pve", "status": "unknown", "tags": "new",
    }]);
    assert_eq!(client.get(path).data(), untold);
    client.until(path, |vms| vms[0]["name"] == "one");
    assert_eq!(client.task(&client.delete(&client.vm(100, ""))), "OK");
    assert_eq!(client.get(path).data(), json!([]));
    client.has_vm(100, &[("name", "other"), ("tags", "newer")]);
    let vm = client.get(path).data()[0].clone();
    assert_eq!((&vm["name"], &vm["tags"]), (&json!("one"), &json!("newer")));
    client.until(path, |vms| vms[0]["name"] == "other");
}

#[test]
fn nothing_follows_a_failure_on_its_connection() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let mut wire = Wire::open(&(&server).into()).unwrap();
    wire.send(&client.message("GET", "/nothing", "", b""))
        .unwrap();
    let answer = wire.answer().unwrap();
    assert!(answer.headers.contains("connection: close"), "{answer:?}");
    assert_eq!(wire.rest().unwrap(), b"");
}
