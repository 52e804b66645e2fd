use std::collections::BTreeMap;

use pve_lab::{Server, Setup};
use sha2::{Digest, Sha256};

use crate::client::{BOUNDARY, Client, Form, Wire};

const UPLOAD: &str = "/nodes/pve/storage/local/upload";

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is stored on `local` under this id.
fn stored(server: &Server, id: &str) -> Vec<u8> {
    let client = Client::new(server);
    let shown = client
        .get(&format!("/nodes/pve/storage/local/content/{id}"))
        .data();
    std::fs::read(shown["path"].as_str().unwrap()).unwrap()
}

#[test]
fn upload_fields_come_in_one_order() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let digest = sha256(b"x");
    let right = Form::new()
        .field("content", "iso")
        .field("checksum-algorithm", "sha256")
        .field("checksum", &digest)
        .file("a.iso", b"x");
    assert_eq!(client.task(&client.upload(right).unwrap()), "OK");
    let wrong = Form::new()
        .field("content", "iso")
        .field("checksum", &digest)
        .field("checksum-algorithm", "sha256")
        .file("b.iso", b"x");
    let answer = client.upload(wrong).unwrap();
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (500, ""),
        "{answer:?}"
    );
    let file_first = Form::new().file("c.iso", b"x").field("content", "iso");
    let answer = client.upload(file_first).unwrap();
    answer.refuses("content", "property is missing and it is not optional");
    assert_eq!(
        server.inventory().volumes,
        [("pve/local:iso/a.iso".to_owned(), 1)]
    );
    assert_eq!(server.inventory().strays, Vec::<String>::new());
}

#[test]
fn upload_headers_are_taken_to_the_letter() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let (headers, body) = Form::new()
        .field("content", "iso")
        .file("a.iso", b"x")
        .end();
    let quoted = headers.replace(BOUNDARY, &format!("\"{BOUNDARY}\""));
    let answer = client.raw("POST", UPLOAD, &quoted, &body).unwrap();
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (500, ""),
        "{answer:?}"
    );
    let text = String::from_utf8(body).unwrap();
    let other = text.replacen("form-data; name=", "form-data;  name=", 1);
    let headers = headers.replace(&text.len().to_string(), &other.len().to_string());
    let answer = client
        .raw("POST", UPLOAD, &headers, other.as_bytes())
        .unwrap();
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (500, ""),
        "{answer:?}"
    );
    let file = "Content-Disposition: form-data; name=\"filename\"";
    let other = text.replacen(file, &format!("Content-Type: a/b\r\n{file}"), 1);
    let headers = headers.replace(&(text.len() + 1).to_string(), &other.len().to_string());
    let answer = client.raw("POST", UPLOAD, &headers, other.as_bytes());
    answer.unwrap().is(500, "upload failed");
}

#[test]
fn an_upload_ends_with_its_closing_boundary() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let (headers, body) = Form::new()
        .field("content", "iso")
        .file("a.iso", b"content")
        .end();
    let longer = headers.replace(&body.len().to_string(), &(body.len() + 1).to_string());
    let message = client.message("POST", UPLOAD, &longer, &body);
    let mut wire = Wire::open(&(&server).into()).unwrap();
    // No piece is a whole part.
    for piece in message.chunks(50) {
        wire.send(piece).unwrap();
    }
    assert_eq!(client.task(&wire.answer().unwrap()), "OK");
    assert_eq!(stored(&server, "local:iso/a.iso"), b"content");
}

#[test]
fn fields_after_the_file_are_appended_to_it() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let form = Form::new()
        .field("content", "iso")
        .file("a.iso", b"content")
        .field("checksum", "ignored");
    assert_eq!(client.task(&client.upload(form).unwrap()), "OK");
    let text = String::from_utf8(stored(&server, "local:iso/a.iso")).unwrap();
    assert!(text.starts_with("content\r\n--"), "{text}");
    assert!(text.ends_with("ignored"), "{text}");
}

#[test]
fn a_stalled_upload_is_dropped() {
    let server = Server::start(Setup::new().pace(10));
    let client = Client::new(&server);
    let (headers, body) = Form::new()
        .field("content", "iso")
        .file("a.iso", b"x")
        .end();
    let message = client.message("POST", UPLOAD, &headers, &body);
    let mut wire = Wire::open(&(&server).into()).unwrap();
    wire.send(&message[..message.len() - 3]).unwrap();
    assert!(wire.answer().is_err(), "no answer comes");
    assert_eq!(server.inventory().volumes, []);
    assert_eq!(server.inventory().strays, Vec::<String>::new());
}

#[test]
fn a_large_upload_without_rights_is_cut_off() {
    let setup = Setup::new().token("poor@pve!ci", "secret");
    let server = Server::start(setup);
    let large = || {
        Form::new()
            .field("content", "iso")
            .file("a.iso", &vec![0; 8 << 20])
    };
    let small = || {
        Form::new()
            .field("content", "iso")
            .file("a.iso", &vec![0; 197_000])
    };
    let poor = Client::with_token(&server, "poor@pve!ci", "secret");
    assert!(poor.upload(large()).is_err());
    let answer = poor.upload(small()).unwrap();
    answer.is(
        403,
        "Permission check failed (/storage/local, Datastore.AllocateTemplate)",
    );
    assert_eq!(answer.body, "");
    let nobody = Client::with_token(&server, "poor@pve!ci", "wrong");
    assert!(nobody.upload(large()).is_err());
    nobody
        .upload(small())
        .unwrap()
        .is(401, "Authentication failed!");
}

#[test]
fn snippets_cannot_be_uploaded() {
    let server = Server::start(Setup::new());
    let form = Form::new()
        .field("content", "snippets")
        .file("a.yaml", b"x");
    let answer = Client::new(&server).upload(form).unwrap();
    let wrong = "value 'snippets' does not have a value in the enumeration 'iso, vztmpl, import'";
    answer.refuses("content", wrong);
}

#[test]
fn names_for_import_have_known_endings() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let upload = |content: &str, name: &str| {
        client
            .upload(Form::new().field("content", content).file(name, b"x"))
            .unwrap()
    };
    upload("import", "a.img").refuses("filename", "invalid filename or wrong extension");
    assert_eq!(client.task(&upload("iso", "a.img")), "OK");
    assert_eq!(client.task(&upload("import", "a.raw")), "OK");
    let exit = client.task(&upload("import", "a.qcow2"));
    assert!(exit.contains("not in qcow2 format"), "{exit}");
}

#[test]
fn names_are_made_plain() {
    let server = Server::start(Setup::new());
    Client::new(&server).has_file("iso", "my iso+file.iso", b"x");
    assert_eq!(
        server.inventory().volumes,
        [("pve/local:iso/my_iso_file.iso".to_owned(), 1)]
    );
}

#[test]
fn a_wrong_checksum_fails_in_the_task() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let wrong = sha256(b"y");
    let form = Form::new()
        .field("content", "iso")
        .field("checksum-algorithm", "sha256")
        .field("checksum", &wrong)
        .file("a.iso", b"x");
    let exit = client.task(&client.upload(form).unwrap());
    assert_eq!(
        exit,
        format!(
            "checksum mismatch: got '{}' != expect '{wrong}'",
            sha256(b"x")
        )
    );
    assert_eq!(server.inventory().volumes, []);
    assert_eq!(server.inventory().strays, Vec::<String>::new());
}

#[test]
fn an_upload_names_its_file_in_its_task_s_log() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let form = Form::new().field("content", "iso").file("a.iso", b"x");
    let sent = client.upload(form).unwrap();
    let upid = sent.data().as_str().unwrap().to_owned();
    assert!(upid.contains(":imgcopy::"), "{upid}");
    assert_eq!(client.task(&sent), "OK");
    let log = client.get(&format!("/nodes/pve/tasks/{upid}/log")).data();
    let lines = log.as_array().unwrap().iter();
    let lines = lines.filter_map(|line| line["t"].as_str());
    let [begin, node, file, size, command, end, last] = lines.collect::<Vec<_>>()[..] else {
        panic!("{log}")
    };
    let from = begin.strip_prefix("starting file import from: ").unwrap();
    let to = file.strip_prefix("target file: ").unwrap();
    assert!(to.starts_with('/') && to.ends_with("/a.iso"), "{log}");
    assert_eq!(command, format!("command: cp -- {from} {to}"));
    assert_eq!((node, size), ("target node: pve", "file size is: 1"));
    assert_eq!(
        (end, last),
        ("finished file import successfully", "TASK OK")
    );
}

#[test]
fn an_upload_replaces_what_is_there() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    client.has_file("iso", "a.iso", b"one");
    let changed = || {
        let listed = client.get("/nodes/pve/storage/local/content");
        listed.data()[0]["ctime"].as_u64().unwrap()
    };
    let before = changed();
    client.has_file("iso", "a.iso", b"two and more");
    assert_eq!(stored(&server, "local:iso/a.iso"), b"two and more");
    assert!(changed() >= before);
}

#[test]
fn an_upload_with_a_ticket_needs_no_csrf_token() {
    let server = Server::start(Setup::new().user("root@pam", "password"));
    let mut client = Client::new(&server);
    client.credentials = String::new();
    let login = client.post("/access/ticket", "username=root%40pam&password=password");
    let ticket = login.data()["ticket"].as_str().unwrap().to_owned();
    client.credentials = format!("Cookie: PVEAuthCookie={ticket}\r\n");
    client.has_file("iso", "a.iso", b"x");
    let delete = "/nodes/pve/storage/local/content/local:iso%2Fa.iso";
    client
        .delete(delete)
        .is(401, "Permission denied - invalid csrf token");
}

#[test]
fn a_download_replaces_nothing() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let files = crate::client::web([("/a.raw".to_owned(), b"content".to_vec())].into());
    let download = |more: &str| {
        let url = format!("{files}/a.raw")
            .replace(':', "%3A")
            .replace('/', "%2F");
        let form = format!("content=import&filename=a.raw&url={url}{more}");
        client.post("/nodes/pve/storage/local/download-url", &form)
    };
    assert_eq!(client.task(&download("")), "OK");
    assert_eq!(stored(&server, "local:import/a.raw"), b"content");
    let exit = client.task(&download(""));
    assert!(
        exit.starts_with("refusing to override existing file"),
        "{exit}"
    );
    let checksum = |bytes: &[u8]| format!("&checksum-algorithm=sha256&checksum={}", sha256(bytes));
    let same = download(&checksum(b"content"));
    assert_eq!(client.task(&same), "OK");
    let log = format!("/nodes/pve/tasks/{}/log", same.data().as_str().unwrap());
    assert!(client.get(&log).body.contains("got correct file already"));
    let exit = client.task(&download(&checksum(b"other")));
    assert!(exit.starts_with("checksum mismatch"), "{exit}");
    assert_eq!(server.inventory().strays, Vec::<String>::new());
}

#[test]
fn a_download_that_fails_leaves_nothing() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    let files = crate::client::web(BTreeMap::new());
    let url = format!("{files}/a.raw")
        .replace(':', "%3A")
        .replace('/', "%2F");
    let download = |more: &str| {
        let form = format!("content=import&filename=a.raw&url={url}{more}");
        client.task(&client.post("/nodes/pve/storage/local/download-url", &form))
    };
    assert_eq!(download(""), "download failed: exit code 8");
    assert_eq!(
        download("&compression=gz"),
        "decompression not supported for import"
    );
    assert_eq!(server.inventory().volumes, []);
    assert_eq!(server.inventory().strays, Vec::<String>::new());
}

#[test]
fn an_address_names_its_file_wherever_it_leads() {
    let server = Server::start(Setup::new());
    let files = crate::client::web([("/b.raw".to_owned(), b"content".to_vec())].into());
    let from = crate::client::leads_to(&format!("{files}/b.raw"));
    let url = format!("{from}/a.raw")
        .replace(':', "%3A")
        .replace('/', "%2F");
    let path = format!("/nodes/pve/query-url-metadata?url={url}");
    let told = Client::new(&server).get(&path).data();
    assert_eq!(
        (&told["filename"], &told["size"]),
        (&"a.raw".into(), &7.into())
    );
}

#[test]
fn a_checksum_and_its_algorithm_go_together() {
    let server = Server::start(Setup::new());
    let client = Client::new(&server);
    for (one, value, other) in [
        ("checksum", sha256(b"x"), "checksum-algorithm"),
        ("checksum-algorithm", "sha256".to_owned(), "checksum"),
    ] {
        let form = Form::new().field("content", "iso").field(one, &value);
        let answer = client.upload(form.file("a.iso", b"x")).unwrap();
        answer.refuses(other, &format!("missing property required by '{one}'"));
    }
}
