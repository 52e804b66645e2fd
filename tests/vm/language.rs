//! What the recipe language does, seen from inside real guests.

use std::collections::BTreeMap;

use crate::lab::server::{Server, sha256};
use crate::lab::{Image, Lab};

/// A release as projects publish them: `tool-1.2/` with a program of somebody's, and a link to it.
fn release() -> Vec<u8> {
    let gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    let mut archive = tar::Builder::new(gz);
    let program = b"#!/bin/sh\necho 1.2\n";
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_uid(1234);
    header.set_size(program.len() as u64);
    let path = "tool-1.2/bin/tool";
    archive
        .append_data(&mut header, path, program.as_slice())
        .unwrap();
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    archive
        .append_link(&mut link, "tool-1.2/tool", "bin/tool")
        .unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

const BUNDLE: &str = r#"
[bundle]
description = "Installs a tool"

[params.server]
type = "string"
required = true

[params.sha256]
type = "string"
required = true

[data.release]
json = "{{ server }}/release.json"

[[step]]
name = "unpack"
fetch = { url = "{{ server }}/{{ data.release.file }}", sha256 = "{{ sha256 }}", to = "/opt/tool", unpack = true, strip = 1 }

[[step]]
name = "check"
run = '''
test "$(/opt/tool/tool)" = "{{ data.release.version }}"
test "$(stat -c %u /opt/tool/bin/tool)" = 0
echo "tool=$(/opt/tool/tool)" >>"$IMGBUILD_RECORD"
'''

[[step]]
finally = true
name = "tell"
run = "echo bundle >>/srv/finally"
"#;

const STEPS: &str = r#"
[[step]]
use = "tool"
with = { server = "{{ server }}", sha256 = "{{ digest }}" }

[[step]]
name = "a record without an end"
run = "printf 'half=line' >>$IMGBUILD_RECORD"

[[step]]
name = "one file"
fetch = { url = "{{ server }}/notes.txt", sha256 = "{{ notes }}", to = "/srv/", mode = "0600" }

[[step]]
file = { to = "/srv/motd", from = "motd.txt", mode = "0640" }
template = true

[[step]]
file = { to = "/srv/inline", content = "{{ place }} {{ count + 1 }}" }

[[step]]
script = "setup.sh"
template = true

[[step]]
name = "modes and owners"
run = """
test "$(stat -c '%a %u' /srv/notes.txt)" = '600 0'
test "$(stat -c '%a %u' /srv/motd)" = '640 0'
test "$(stat -c '%a %u' /srv/inline)" = '644 0'
"""

[[step]]
name = "on this machine"
local = "echo $IMGBUILD_VAR_place >local.txt"

[[step]]
name = "not here"
if = "count > 3"
run = "exit 1"

[[step]]
name = "not on this backend"
only-on = ["proxmox"]
run = "exit 1"

[[step]]
name = "loses its connection"
expect-disconnect = true
timeout = "60s"
run = """
kill -9 $(pidof sshd | tr ' ' '\\n' | grep -vx $(cat /run/sshd.pid 2>/dev/null || echo 0))
# With its connection, the step would end here by its timeout, and fail.
sleep 1000
"""

[[step]]
name = "in the end"
finally = true
run = "echo recipe >>/srv/finally"

[[step]]
name = "take it home"
download = { from = "/srv", to = "home/" }

[[step]]
name = "take one file home"
download = { from = "/srv/motd", to = "home/renamed" }

[[step]]
name = "not stopped at"
breakpoint = true

[[test]]
run = '''test "$(cat /srv/finally)" = "$(printf 'recipe\nbundle')"'''
"#;

#[test]
fn every_action_does_what_it_says_and_a_second_build_downloads_nothing() {
    let lab = Lab::new("language");
    let archive = release();
    let json = br#"{"version": "1.2", "file": "tool.tgz"}"#.to_vec();
    let server = Server::start(BTreeMap::from([
        ("/release.json".to_owned(), json),
        ("/tool.tgz".to_owned(), archive.clone()),
        ("/notes.txt".to_owned(), b"notes\n".to_vec()),
    ]));
    lab.write("motd.txt", "Welcome to {{ place }}\n");
    lab.write(
        "setup.sh",
        "echo '{{ place }}' >/srv/place\necho $IMGBUILD_VAR_count >/srv/count\n",
    );
    lab.write("bundles/tool.toml", BUNDLE);
    let vars = format!(
        "[vars]\nplace = 'the lab'\ncount = 3\nserver = '{}'\ndigest = '{}'\nnotes = '{}'\n",
        server.address,
        sha256(&archive),
        sha256(b"notes\n"),
    );
    let recipe = lab.recipe("language", Image::Tiny, &format!("{vars}{STEPS}"));
    let recipe = recipe.to_str().unwrap();
    lab.imgbuild(&["run", "--skip-breakpoints", recipe])
        .with_code(0);
    let asked = server.requests();
    assert_eq!(asked, ["/release.json", "/tool.tgz", "/notes.txt"]);
    assert_eq!(lab.record("language")["versions"]["tool"], "1.2");
    assert_eq!(lab.record("language")["versions"]["half"], "line");
    let read = |name: &str| std::fs::read_to_string(lab.path(name)).unwrap();
    assert_eq!(read("home/srv/motd"), "Welcome to the lab\n");
    assert_eq!(read("home/srv/inline"), "the lab 4");
    assert_eq!(read("home/srv/place"), "the lab\n");
    assert_eq!(read("home/srv/count"), "3\n");
    assert_eq!(read("home/srv/notes.txt"), "notes\n");
    assert_eq!(read("home/renamed"), "Welcome to the lab\n");
    assert_eq!(read("local.txt"), "the lab\n");
    lab.assert_nothing_left();

    // A second build downloads nothing; offline it does not even ask.
    lab.imgbuild(&["run", "--offline", "--skip-breakpoints", recipe])
        .with_code(0);
    assert_eq!(server.requests(), Vec::<String>::new());
}

#[test]
fn what_comes_finally_is_done_after_a_failure_too() {
    let lab = Lab::new("finally");
    let recipe = lab.recipe(
        "finally",
        Image::Tiny,
        r#"
[[step]]
name = "put back"
finally = true
run = "echo putting back"

[[step]]
name = "fails"
run = "kill -9 $(pidof sshd | tr ' ' '\\n' | grep -vx $(cat /run/sshd.pid 2>/dev/null || echo 0)); sleep 100"
"#,
    );
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(1)
        .saying("put back| putting back")
        .saying("step `fails`: the SSH connection broke");
    lab.assert_nothing_left();
}

#[test]
fn a_recipe_on_a_recipe_and_a_matrix_are_built_in_order() {
    let lab = Lab::new("graph");
    let step = "[[step]]\nrun = \"mkdir -p /srv; echo base >/srv/base\"\n";
    lab.recipe("base", Image::Tiny, step);
    let child = lab.write(
        "child.toml",
        r#"
matrix = { flavour = ["sweet", "sour"] }

[image]
name = "child-{{ flavour }}"

[source]
recipe = "base.toml"

[machine]
cpus = 1
memory = "256M"

[[step]]
run = "echo {{ flavour }} >>/srv/base"

[[test]]
run = '''test "$(cat /srv/base)" = "$(printf 'base\n{{ flavour }}')"'''
"#,
    );
    let child = child.to_str().unwrap();
    lab.imgbuild(&["run", child]).with_code(0);
    let base = lab.record("base");
    for flavour in ["sweet", "sour"] {
        let record = lab.record(&format!("child-{flavour}"));
        assert_eq!(record["source"]["sha256"], base["artifact"]["sha256"]);
        assert_eq!(record["source"]["verified"]["by"], "record");
    }
    lab.assert_nothing_left();

    // A base that cannot be built takes what is built on it with it.
    lab.recipe("base", Image::Tiny, "[[step]]\nrun = \"exit 7\"\n");
    lab.imgbuild(&["run", "--only", "child-sour", child])
        .with_code(1)
        .saying("the image that it is built on could not be built")
        .not_saying("child-sweet");
    lab.assert_nothing_left();
}
