use pve_lab::{Fault, Server, Setup, What};

use crate::client::Client;

fn locked(vmid: u32) -> String {
    format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout")
}

/// 100 is being cloned to 101, for ever.
fn cloning(server: &Server, client: &Client) {
    client.has_vm(100, &[]);
    let hang = Fault::on("POST", "/nodes/*/qemu/*/clone").with(What::TaskHangs);
    server.inject(hang);
    client
        .post(&client.vm(100, "/clone"), "newid=101")
        .is(200, "OK");
    client.until("/nodes/pve/qemu", |vms| vms[1]["lock"] == "clone");
}

#[test]
fn a_clone_locks_source_and_target() {
    let server = Server::start(Setup::new().pace(20));
    let client = Client::new(&server);
    cloning(&server, &client);
    for vmid in [100, 101] {
        let answer = client.put(&client.vm(vmid, "/config"), "name=a");
        answer.is(500, &locked(vmid));
    }
}

#[test]
fn start_and_delete_of_a_locked_vm_fail_in_their_tasks() {
    let server = Server::start(Setup::new().pace(20));
    let client = Client::new(&server);
    cloning(&server, &client);
    let start = client.post(&client.vm(100, "/status/start"), "");
    let delete = client.delete(&client.vm(100, ""));
    assert_eq!(client.task(&start), locked(100));
    assert_eq!(client.task(&delete), locked(100));
}
