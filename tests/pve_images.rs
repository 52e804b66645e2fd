//! Base images on a Proxmox VE node: brought, listed, removed, whatever the server and the network do.

mod lab;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use lab::Ended;
use lab::node::{Disk, Node, VARIABLE, recipe_by_file, recipe_by_url};
use pve_lab::{Fault, SECRET, Setup, Storage, TOKEN, What};

const UPLOAD: &str = "/nodes/*/storage/*/upload";
const DOWNLOAD: &str = "/nodes/*/storage/*/download-url";

#[test]
fn the_node_downloads_an_image_itself_and_has_it_once_for_all() {
    let node = Node::start("pve download", Setup::new());
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let web = disk.served();
    let recipe = recipe_by_url(&node.lab, &web, &disk.sha256);
    let digest = &disk.sha256[..12];
    let printed = format!("{digest}  local:import/{}\n", disk.file);
    node.pull(&recipe).with_code(0).printing(&printed);
    node.assert_only(&disk.file, disk.size());
    assert_eq!(node.calls("POST", "/upload"), 0);
    assert!(
        !node.lab.home().join("cache/images").exists(),
        "nothing came here"
    );

    node.pull(&recipe).with_code(0).printing(&printed);
    assert_eq!(node.calls("POST", "/download-url"), 1);

    let list = ["image", "list", "--target", "lab"];
    let listed = node.imgbuild(&list).with_code(0).stdout;
    assert!(
        listed.starts_with(digest) && listed.ends_with(&printed[digest.len()..]),
        "{listed}"
    );
    let listed = node.imgbuild(&[&list[..], &["--format", "json"]].concat());
    let listed: serde_json::Value = serde_json::from_str(&listed.with_code(0).stdout).unwrap();
    assert_eq!(listed["images"][0]["digest"], digest);
    assert_eq!(listed["images"][0]["size"], disk.size());

    node.imgbuild(&["image", "rm", "--target", "lab", &disk.sha256])
        .with_code(0)
        .printing_part(&format!("removed local:import/{}", disk.file));
    node.assert_nothing_left();
    node.imgbuild(&list).printing("no base images on lab\n");
    node.imgbuild(&["image", "rm", "--target", "lab", digest])
        .with_code(2)
        .saying("there is nothing like that");
}

#[test]
fn what_the_node_may_not_download_is_sent_and_the_missing_privilege_told() {
    let privileges = ["Datastore.Audit", "Datastore.AllocateTemplate"];
    let setup = Setup::new()
        .revoke(TOKEN)
        .grant("/storage", TOKEN, &privileges);
    let node = Node::start("pve forbidden download", setup);
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let web = disk.served();
    node.pull(&recipe_by_url(&node.lab, &web, &disk.sha256))
        .with_code(0)
        .saying("Sys.AccessNetwork")
        .saying("pveum acl modify");
    node.assert_only(&disk.file, disk.size());
}

#[test]
fn a_file_is_sent_as_it_is_and_other_formats_are_converted_first() {
    let node = Node::start("pve upload", Setup::new());
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    node.pull(&recipe_by_file(&node.lab, "disk.qcow2"))
        .with_code(0);
    node.assert_only(&disk.file, disk.size());
    for (name, format) in [("disk.img", "raw"), ("disk.vmdk", "vmdk")] {
        let node = Node::start(&format!("pve upload {format}"), Setup::new());
        let other = Disk::make(&node.lab, name, format);
        node.pull(&recipe_by_file(&node.lab, name)).with_code(0);
        let images = node.images();
        assert_eq!(images.len(), 1, "{format}");
        assert_eq!(
            images[0].0, other.file,
            "known by the digest of what was published"
        );
        node.lab.assert_nothing_left();
    }
}

#[test]
fn an_image_with_another_digest_reaches_neither_the_node_nor_the_cache() {
    let node = Node::start("pve wrong digest", Setup::new());
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let web = disk.served();
    node.pull(&recipe_by_url(&node.lab, &web, &"0".repeat(64)))
        .with_code(6)
        .saying("its content is not the expected one");
    node.assert_nothing_left();
}

#[test]
fn nothing_is_sent_to_a_storage_that_takes_no_images() {
    let store = Storage::new("plain").holding(&["iso"]);
    let node = Node::start("pve no import", Setup::new().storage(store));
    Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let project = std::fs::read_to_string(node.lab.path("imgbuild.toml")).unwrap();
    let plain = project.replace("import = \"local\"", "import = \"plain\"");
    node.lab.write("imgbuild.toml", plain);
    node.pull(&recipe_by_file(&node.lab, "disk.qcow2"))
        .with_code(1)
        .saying("storage plain (import): it does not hold `import`")
        .saying("pvesm set plain --content iso,import");
    assert_eq!(node.calls("POST", "/upload"), 0);
}

#[test]
fn a_name_that_something_else_has_is_refused() {
    let node = Node::start("pve name taken", Setup::new());
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let web = disk.served();
    let other = Disk::make(&node.lab, "other.qcow2", "qcow2");
    let half = &other.bytes[..other.bytes.len() - 512];
    node.put(&disk.file, half);
    node.pull(&recipe_by_url(&node.lab, &web, &disk.sha256))
        .with_code(5)
        .saying("imgbuild image rm --target lab");
    assert_eq!(node.images(), [(disk.file, half.len() as u64)]);
    node.lab.assert_nothing_left();
}

#[test]
fn answers_that_do_not_come_cost_time_and_nothing_else() {
    for (method, path, what, by_url) in [
        ("POST", DOWNLOAD, What::CutCall, true),
        ("POST", DOWNLOAD, What::CutAnswer, true),
        ("POST", DOWNLOAD, What::GatewayTimeout, true),
        ("POST", DOWNLOAD, What::StrangeAnswer, true),
        ("POST", UPLOAD, What::CutCall, false),
        ("POST", UPLOAD, What::CutAnswer, false),
        ("POST", UPLOAD, What::StrangeAnswer, false),
        ("GET", "/nodes/*/tasks/*/status", What::CutAnswer, true),
        ("GET", "/nodes/*/tasks/*/status", What::CutAnswer, false),
        ("GET", "/nodes/*/storage/*/content", What::CutCall, true),
    ] {
        let node = Node::start(&format!("pve {what:?} of {path}"), Setup::new().pace(20));
        let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
        let web = disk.served();
        let recipe = match by_url {
            true => recipe_by_url(&node.lab, &web, &disk.sha256),
            false => recipe_by_file(&node.lab, "disk.qcow2"),
        };
        node.server
            .inject(Fault::on(method, path).with(what.clone()));
        node.pull(&recipe).with_code(0);
        node.assert_only(&disk.file, disk.size());
        assert!(
            node.server.requests().iter().any(|request| request.fault),
            "{what:?} {path}"
        );
        if !matches!(what, What::CutCall) {
            let asked = node.calls("POST", "/download-url") + node.calls("POST", "/upload");
            assert_eq!(asked, 1, "what was done is not done again: {what:?} {path}");
        }
    }
}

#[test]
fn a_task_is_waited_for_while_the_server_is_away_for_some_seconds() {
    let node = Node::start("pve away", Setup::new());
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    // Longer than single calls are tried.
    let lasting = Duration::from_secs(6);
    let fault = Fault::on("GET", "/nodes/*/tasks/*/status");
    node.server.inject(fault.with(What::Refused { lasting }));
    node.pull(&recipe_by_file(&node.lab, "disk.qcow2"))
        .with_code(0);
    node.assert_only(&disk.file, disk.size());
}

#[test]
fn a_download_that_fails_on_the_node_is_brought_by_us() {
    let node = Node::start("pve failing download", Setup::new());
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let web = disk.served();
    let message = "download failed: wget said something".to_owned();
    let fault = Fault::on("POST", DOWNLOAD).with(What::TaskError { message });
    node.server.inject(fault);
    node.pull(&recipe_by_url(&node.lab, &web, &disk.sha256))
        .with_code(0)
        .saying("wget said something")
        .saying("sending it instead");
    node.assert_only(&disk.file, disk.size());
}

#[test]
fn a_task_that_fails_is_told_by_its_name_with_the_end_of_its_log() {
    for what in [
        What::TaskError {
            message: "import failed: no luck".into(),
        },
        What::StorageFull,
    ] {
        let node = Node::start("pve failing upload", Setup::new());
        Disk::make(&node.lab, "disk.qcow2", "qcow2");
        node.server
            .inject(Fault::on("POST", UPLOAD).always().with(what.clone()));
        let ended = node.pull(&recipe_by_file(&node.lab, "disk.qcow2"));
        let ended = ended
            .with_code(1)
            .saying("uploading imgbuild-")
            .saying("UPID:pve:");
        match what {
            What::TaskError { .. } => ended.saying("no luck"),
            _ => ended.saying("No space left on device"),
        };
        node.assert_nothing_left();
    }
}

#[test]
fn refusals_are_told_with_method_path_status_and_what_helps() {
    let list = ["image", "list", "--target", "lab"];
    let path = "/nodes/*/storage/*/content";
    let forbidden = What::Forbidden {
        path: "/storage/local".into(),
        privilege: "Datastore.Audit".into(),
    };
    for (what, told) in [
        (
            What::Unauthorized,
            vec![
                "GET /nodes/pve/storage/local/content",
                "401",
                "pveum user token list builder@pve",
            ],
        ),
        (
            forbidden,
            vec![
                "403, the privilege Datastore.Audit on /storage/local is missing",
                "pveum role modify Imgbuild --append 1 --privs Datastore.Audit && pveum acl modify /storage/local --users \
                 'builder@pve' --tokens 'builder@pve!lab' --roles Imgbuild",
            ],
        ),
        (
            What::Error {
                reason: "storage 'local' is not online".into(),
            },
            vec!["500 storage 'local' is not online"],
        ),
        (What::GatewayTimeout, vec!["596", "within 30 s"]),
        (What::CutAnswer, vec!["the connection broke"]),
    ] {
        let node = Node::start(&format!("pve {what:?}"), Setup::new().pace(100));
        node.server
            .inject(Fault::on("GET", path).always().with(what));
        let ended = node.imgbuild(&list).with_code(1);
        told.into_iter()
            .fold(ended, |ended, told| ended.saying(told));
    }
    let node = Node::start("pve wrong token", Setup::new());
    let mut command = node.command(&list);
    command.env(
        VARIABLE,
        format!("{TOKEN}=00000000-0000-0000-0000-000000000000"),
    );
    lab::Ended::from(command.output().unwrap())
        .with_code(1)
        .saying("401, the server does not know this login")
        .not_saying("00000000-0000");
}

#[test]
fn only_the_server_that_is_meant_is_talked_to() {
    let node = Node::start("pve trust", Setup::new());
    let list = ["image", "list", "--target", "lab"];
    node.project("");
    node.imgbuild(&list)
        .with_code(1)
        .saying("the server is not trusted")
        .saying(&format!("the server shows {}", node.server.fingerprint()));
    node.project(&format!("fingerprint = \"{}\"\n", "AB:".repeat(31) + "AB"));
    node.imgbuild(&list)
        .with_code(1)
        .saying("the server's certificate is not the pinned one");
    assert_eq!(node.server.requests().len(), 0, "no login went to it");
    node.lab.write("ca.pem", node.server.certificate());
    node.project("ca = \"ca.pem\"\n");
    node.imgbuild(&list).with_code(0);
}

#[test]
fn a_server_that_is_not_there_is_told_with_its_address() {
    let node = Node::start("pve nowhere", Setup::new());
    let project = std::fs::read_to_string(node.lab.path("imgbuild.toml")).unwrap();
    let project = project.replace(&node.server.url(), "https://127.0.0.1:1");
    node.lab.write("imgbuild.toml", project);
    node.imgbuild(&["image", "list", "--target", "lab"])
        .with_code(1)
        .saying("127.0.0.1:1: the connection was refused")
        .saying("port 8006");
}

#[test]
fn a_password_gives_a_ticket_that_is_renewed_when_it_has_expired() {
    let setup = Setup::new().user("root@pam", "correct horse");
    let node = Node::start("pve ticket", setup);
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let text = format!(
        "[targets.lab]\nkind = \"proxmox\"\nendpoint = \"{}\"\nnode = \"pve\"\nuser = \"root@pam\"\n\
         password = {{ command = \"cat password\" }}\nfingerprint = \"{}\"\nstorages = {{ import = \"local\" }}\n",
        node.server.url(),
        node.server.fingerprint()
    );
    node.lab.write("imgbuild.toml", text);
    node.lab.write("password", "correct horse\n");
    let expired = Fault::on("GET", "/nodes/*/storage/*/content").with(What::Unauthorized);
    node.server.inject(expired);
    let recipe = recipe_by_file(&node.lab, "disk.qcow2");
    let pull = ["image", "pull", "--target", "lab", "-vv", &recipe];
    let ended = node.imgbuild(&pull).with_code(0);
    // The password as it is and as a form has it, the ticket, and the token against forged calls.
    let secrets = [
        "correct horse",
        "correct%20horse",
        "PVE:root",
        "PVE%3Aroot",
        "6B000000:",
    ];
    secrets
        .into_iter()
        .fold(ended, |ended, secret| ended.not_saying(secret));
    node.assert_only(&disk.file, disk.size());
    assert_eq!(node.calls("POST", "/access/ticket"), 2);
}

#[test]
fn our_tools_do_not_get_the_login_and_the_command_that_fetches_it_gets_all() {
    let node = Node::start("pve environment", Setup::new());
    Disk::make(&node.lab, "disk.vmdk", "vmdk");
    let tool = "#!/bin/sh\nenv >> \"$0.env\"\nPATH=${PATH#*:} exec qemu-img \"$@\"\n";
    let tool = node.lab.write("bin/qemu-img", tool);
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&tool, executable).unwrap();
    let text = std::fs::read_to_string(node.lab.path("imgbuild.toml")).unwrap();
    let recipe = recipe_by_file(&node.lab, "disk.vmdk");
    let by_env = format!("{{ env = \"{VARIABLE}\" }}");
    let by_command = "{ command = 'echo \"$PROXMOX_VE_API_TOKEN\"' }";
    for token in [by_env.as_str(), by_command] {
        node.lab
            .write("imgbuild.toml", text.replace(&by_env, token));
        let mut command = node.command(&["image", "pull", "--target", "lab", &recipe]);
        let path = std::env::var("PATH").unwrap();
        command
            .env("PATH", format!("{}:{path}", node.lab.path("bin").display()))
            .env("PROXMOX_VE_API_TOKEN", format!("{TOKEN}={SECRET}"));
        Ended::from(command.output().unwrap()).with_code(0);
        let had = std::fs::read_to_string(node.lab.path("bin/qemu-img.env")).unwrap();
        assert!(had.contains("PATH=") && !had.contains(SECRET), "{had}");
    }
}

#[test]
fn no_secret_is_in_any_output_or_file() {
    let node = Node::start("pve secrets", Setup::new());
    let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
    let recipe = recipe_by_file(&node.lab, "disk.qcow2");
    let message = "no luck".to_owned();
    node.server
        .inject(Fault::on("POST", UPLOAD).with(What::TaskError { message }));
    for (format, code) in [("human", 1), ("json", 0)] {
        let pull = [
            "image", "pull", "--target", "lab", "-vv", "--format", format, &recipe,
        ];
        let ended = node.imgbuild(&pull).with_code(code).not_saying(SECRET);
        assert!(ended.stderr.contains("TRACE"), "the highest verbosity");
    }
    node.imgbuild(&["doctor", "--target", "lab", "-vv"])
        .not_saying(SECRET);
    let echo = What::Error {
        reason: format!("what is {SECRET}?"),
    };
    node.server
        .inject(Fault::on("GET", "/nodes/*/query-url-metadata").with(echo));
    let recipe = recipe_by_url(&node.lab, &disk.served(), &disk.sha256);
    node.imgbuild(&["image", "rm", "--target", "lab", &disk.sha256])
        .with_code(0);
    node.pull(&recipe)
        .not_saying(SECRET)
        .saying("what is ********?");
    node.put(&disk.file, &disk.bytes);
    node.assert_only(&disk.file, disk.size());
    let found = std::process::Command::new("grep")
        .args(["-rqF", SECRET])
        .arg(node.lab.path(""))
        .status();
    assert_eq!(found.unwrap().code(), Some(1), "in a file of the lab");
}
