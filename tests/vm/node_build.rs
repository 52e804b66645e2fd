//! Builds on a Proxmox VE node, from the cloud image to the template. With guests in QEMU where it matters what is on the disk,
//! else in sandboxes, whose disks stay as they were.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use crate::lab;
use crate::lab::node::{Node, VARIABLE};
use crate::lab::server::Server as Web;
use crate::lab::{Ended, Image};
use pve_lab::{Fault, SECRET, Setup, What};
use serde_json::Value;

const SSH: &str = "[ssh]\nport = 2222\ntimeout = \"5m\"\n";

/// What is left on the disk of a sandbox, to which nothing is written.
const KEPT: &str = "[seal]\nkeep = [\"hostname\", \"package-lists\"]\n";

fn build(node: &Node, arguments: &[&str]) -> Ended {
    node.imgbuild(&[&["run", "--target", "lab"], arguments].concat())
}

fn sandboxes(name: &str) -> Node {
    let setup = Setup::new().pool("templates");
    let setup = setup.sandboxes(Image::Tiny.path());
    Node::whole(name, setup, "9000-9099")
}

/// A recipe on the tiny guest for sandboxes, with these lines behind those of the machine.
fn tiny(node: &Node, rest: &str) -> String {
    let recipe = node
        .lab
        .recipe("web", Image::Tiny, &format!("{SSH}{KEPT}{rest}"));
    recipe.to_str().unwrap().to_owned()
}

/// What is written down of a version of `web`.
fn file(node: &Node, number: u32) -> Value {
    let path = node.lab.path(&format!("out/lab/web-{number}.template"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The machines on the node as `9000 web-1 template`, without their tags.
fn machines(node: &Node) -> Vec<String> {
    let vms = node.server.inventory().vms.into_iter();
    let untagged = vms.map(|vm| {
        let (before, rest) = vm.split_once(" [").unwrap();
        let (_, after) = rest.split_once(']').unwrap();
        format!("{before}{after}")
    });
    untagged.collect()
}

/// Asserts that there are these machines, and of builds nothing.
#[track_caller]
fn assert_only(node: &Node, expected: &[&str]) {
    assert_eq!(machines(node), expected);
    let now = node.server.inventory();
    let seeds = now.volumes.iter().filter(|(id, _)| id.contains(":iso/"));
    assert_eq!(seeds.count(), 0, "{:?}", now.volumes);
    assert_eq!(
        (&now.strays, &now.running, &now.locked),
        (&vec![], &vec![], &vec![])
    );
    node.lab.assert_nothing_left();
}

fn tags(node: &Node, vmid: u64) -> String {
    let start = format!("{vmid} ");
    let vms = node.server.inventory().vms;
    vms.into_iter().find(|vm| vm.starts_with(&start)).unwrap()
}

/// Takes more than twice as long as the guest has needed to come up, however long that was: then it is worth a layer.
const LONG: &str = "sleep $(( $(cut -d. -f1 /proc/uptime) * 3 + 30 ))";

/// A recipe on the tiny guest with two steps, the first of which takes long enough to be worth a layer, compared with a boot
/// under emulation. Its template has a copy under a fixed id.
fn in_two_steps(node: &Node, source: &str, last: &str) -> String {
    let text = format!(
        "[image]\nname = \"web\"\nversion = \"%Y.1\"\n[source]\n{source}\n\
         [machine]\ncpus = 1\nmemory = \"{}\"\n{SSH}\
         [target.proxmox]\ncloud-init-drive = false\ntags = [\"tiny\"]\nvmid = 8000\n\
         [[step]]\nname = \"long\"\nrun = \"{LONG}; echo long > /etc/long\"\n\
         [[step]]\nname = \"mark\"\nrun = \"echo {last} > /etc/mark\"\n\
         [[test]]\nname = \"mark\"\nrun = \"grep long /etc/long && grep {last} /etc/mark && ! test -e /etc/other\"\n",
        Image::Tiny.memory()
    );
    let path = node.lab.write("web.toml", text);
    path.to_str().unwrap().to_owned()
}

/// The id of a version's template.
fn vmid(node: &Node, number: u32) -> u64 {
    file(node, number)["vmid"].as_u64().unwrap()
}

#[test]
fn a_template_is_built_looked_at_tested_replaced_promoted_and_gone_back_from() {
    let node = Node::whole("pve build", Setup::new(), "9000-9099");
    let image = std::fs::read(Image::Tiny.path()).unwrap();
    let sha256 = lab::server::sha256(&image);
    let web = Web::start(BTreeMap::from([("/tiny.qcow2".to_owned(), image)]));
    let by_url = format!(
        "url = \"{}/tiny.qcow2\"\nsha256 = \"{sha256}\"",
        web.address
    );
    let recipe = in_two_steps(&node, &by_url, "first");
    build(&node, &[&recipe]).with_code(0);
    assert_eq!(node.calls("POST", "/download-url"), 1, "by the node itself");
    let one = vmid(&node, 1);
    let (layer, first) = ("imgbuild-layer-", file(&node, 1));
    let found = machines(&node);
    assert!(
        found.contains(&"8000 web-1 template".to_owned()),
        "{found:?}"
    );
    assert!(
        found.contains(&format!("{one} web-1 template")),
        "{found:?}"
    );
    assert!(found.iter().any(|vm| vm.contains(layer)), "{found:?}");
    assert_eq!(first["disk"], node.content(one), "what was signed");
    assert_eq!(first["disk"], node.content(8000), "the copy of it");
    for tag in ["imgbuild-template", "web", "v1", "tiny"] {
        assert!(tags(&node, one).contains(tag), "{}", tags(&node, one));
    }
    let record = node.lab.record_of("out/lab/web-1.template");
    assert_eq!(record["sealed"], true);
    assert_eq!(record["tests"][0]["result"], "passed");
    let file_of = |name: &str| {
        let path: PathBuf = node.lab.path(&format!("out/lab/web-1.{name}"));
        path.to_str().unwrap().to_owned()
    };
    node.imgbuild(&["provenance", "verify", &file_of("template")])
        .with_code(0);

    let posts = node.server.requests().len();
    build(&node, &[&recipe])
        .with_code(0)
        .printing_part("up to date");
    let later = node.server.requests().split_off(posts);
    assert!(
        later.iter().all(|request| request.method == "GET"),
        "{later:?}"
    );

    // The same image from elsewhere is the same base: what was made on it is good for this build.
    node.imgbuild(&["image", "rm", "--target", "lab", &sha256])
        .with_code(0);
    let by_file = format!("file = \"{}\"", Image::Tiny.path().display());
    let seeds = node.calls("POST", "/upload");
    let recipe = in_two_steps(&node, &by_file, "second");
    build(&node, &[&recipe])
        .with_code(0)
        .saying("going on after `long`")
        .not_saying("create machine");
    let sent = node.calls("POST", "/upload") - seeds;
    assert_eq!(sent, 4, "the image, and seeds of three machines");
    let (second, two) = (file(&node, 2), vmid(&node, 2));
    assert_eq!(second["disk"], node.content(two));
    assert_eq!(second["disk"], node.content(8000), "replaced");
    assert!(machines(&node).contains(&"8000 web-2 template".to_owned()));
    let promote = |version: &str| {
        node.imgbuild(&["template", "promote", version, "stable"])
            .with_code(0);
    };
    promote("lab/web@1");
    promote("lab/web@2");
    assert!(tags(&node, two).contains("stable"));
    assert!(!tags(&node, one).contains("stable"));
    node.imgbuild(&["template", "rollback", "lab/web@stable"])
        .with_code(0);
    assert!(!tags(&node, two).contains("stable"));
    assert!(tags(&node, one).contains("stable"));
    assert_eq!(first["disk"], node.content(one), "never touched");
}

#[test]
fn debian_without_an_agent_is_built_by_uefi_with_secure_boot_and_a_tpm() {
    let node = Node::whole("pve build debian", Setup::new(), "9000-9099");
    // The first byte of the variable after its four of attributes.
    let check = "od -An -t u1 -j 4 /sys/firmware/efi/efivars/SecureBoot-* | grep -qw 1 && test -e /dev/tpm0";
    let text = format!(
        "[image]\nname = \"web\"\n[source]\nfile = \"{}\"\n\
         [machine]\ncpus = 1\nmemory = \"{}\"\nfirmware = \"uefi\"\ntpm = true\n[ssh]\nport = 2222\ntimeout = \"15m\"\n\
         [target.proxmox]\nsecure-boot = true\n\
         [[step]]\nname = \"look\"\nrun = \"{check}\"\n\
         [[test]]\nname = \"look\"\nrun = \"{check}\"\n",
        Image::Debian.path().display(),
        Image::Debian.memory()
    );
    let recipe = node.lab.write("web.toml", text);
    build(&node, &[recipe.to_str().unwrap()]).with_code(0);
    assert_only(&node, &["9000 web-1 template"]);
    let record = node.lab.record_of("out/lab/web-1.template");
    assert_eq!(record["audit"]["findings"], serde_json::json!([]));
    assert_eq!(file(&node, 1)["disk"], node.content(9000));
}

#[test]
fn a_failing_test_leaves_nothing_and_the_former_template_as_it_was() {
    let node = sandboxes("pve build failing");
    build(&node, &[&tiny(&node, "")]).with_code(0);
    let before = node.server.inventory();
    let recipe = tiny(&node, "[[test]]\nname = \"no\"\nrun = \"false\"\n");
    build(&node, &[&recipe])
        .with_code(3)
        .saying("test `no`: exit status 1");
    assert_eq!(node.server.inventory(), before);
    assert_only(&node, &["9000 web-1 template"]);
}

#[test]
fn a_template_whose_conversion_failed_is_none_though_the_server_calls_it_one() {
    let node = sandboxes("pve build conversion");
    let message = "storage full".to_owned();
    let fault = Fault::on("POST", "/nodes/*/qemu/*/template");
    node.server.inject(fault.with(What::TaskError { message }));
    build(&node, &[&tiny(&node, "")])
        .with_code(1)
        .saying("making the machine 9000 a template")
        .saying("storage full");
    assert_only(&node, &[]);
}

#[test]
fn a_kept_machine_can_be_logged_in_to_until_gc_is_told_to_remove_it() {
    let node = sandboxes("pve build keep");
    let recipe = tiny(
        &node,
        "[[step]]\nname = \"no\"\nrun = \"echo here >/tmp/seen; false\"\n",
    );
    let failed = build(&node, &["--on-error", "keep", &recipe])
        .with_code(1)
        .saying("imgbuild gc --kept");
    let login = failed
        .stderr
        .lines()
        .find(|line| line.starts_with("  ssh "));
    let line = format!("{} -o BatchMode=yes cat /tmp/seen", login.unwrap());
    let seen = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "here\n", "{seen:?}");
    let kept = machines(&node);
    assert_eq!(kept.len(), 1, "{kept:?}");
    for other in [&["gc"][..], &["gc", "--target", "lab"]] {
        node.imgbuild(other).with_code(0).saying("kept on purpose");
        assert_eq!(machines(&node), kept);
    }
    node.imgbuild(&["gc", "--kept"]).with_code(0);
    assert_only(&node, &[]);
}

#[test]
fn a_rebuild_goes_on_from_the_last_layer_and_stands_alone() {
    let node = sandboxes("pve build layers");
    // Long enough to be worth a layer: a sandbox boots in about a second.
    let steps = |last: &str| {
        tiny(
            &node,
            &format!(
                "[[step]]\nname = \"long\"\nrun = \"sleep 40\"\n[[step]]\nname = \"last\"\nrun = \"echo {last}\"\n"
            ),
        )
    };
    build(&node, &[&steps("one")]).with_code(0);
    let found = machines(&node);
    assert_eq!(found.len(), 2, "a layer and a template: {found:?}");
    assert!(found.iter().any(|vm| vm.contains("imgbuild-layer-")));
    build(&node, &[&steps("two")])
        .with_code(0)
        .saying("going on after `long`")
        .not_saying("create machine");
    let template = file(&node, 2)["vmid"].as_u64().unwrap();
    let chained = Command::new("qemu-img")
        .args(["info", "--output", "json"])
        .arg(node.server.folder().join(format!(
            "storage/local/images/{template}/base-{template}-disk-0.qcow2"
        )))
        .output();
    let chained = String::from_utf8(chained.unwrap().stdout).unwrap();
    assert!(!chained.contains("backing-filename"), "{chained}");
}

#[test]
fn a_copy_under_a_fixed_id_is_replaced_unless_somebody_uses_it() {
    let node = sandboxes("pve build copy");
    let recipe = |step: &str| {
        tiny(
            &node,
            &format!(
                "[target.proxmox]\nvmid = 8000\npool = \"templates\"\n[[step]]\nrun = \"echo {step}\"\n"
            ),
        )
    };
    build(&node, &[&recipe("one")]).with_code(0);
    assert_only(&node, &["8000 web-1 template", "9000 web-1 template"]);
    build(&node, &[&recipe("two")]).with_code(0);
    assert_only(
        &node,
        &[
            "8000 web-2 template",
            "9000 web-1 template",
            "9001 web-2 template",
        ],
    );
    node.curl("qemu/8000/clone", &["-d", "newid=8001", "-d", "name=db"]);
    build(&node, &[&recipe("three")])
        .with_code(5)
        .saying("these machines are linked clones of it: 8001");
    assert_only(
        &node,
        &[
            "8000 web-2 template",
            "8001 db",
            "9000 web-1 template",
            "9001 web-2 template",
            "9002 web-3 template",
        ],
    );
    node.curl(
        "qemu/8001?purge=1&destroy-unreferenced-disks=1",
        &["-X", "DELETE"],
    );
    build(&node, &[&recipe("three")])
        .with_code(0)
        .printing_part("up to date");
    assert!(machines(&node).contains(&"8000 web-3 template".to_owned()));
}

#[test]
fn an_id_of_somebody_else_is_never_replaced() {
    let node = sandboxes("pve build foreign id");
    node.has_vm(8000, "precious", "");
    let recipe = tiny(&node, "[target.proxmox]\nvmid = 8000\n");
    build(&node, &[&recipe])
        .with_code(5)
        .saying("the id is that of precious");
    assert_only(&node, &["8000 precious", "9000 web-1 template"]);
}

/// All files below a folder that hold a text.
fn holding(folder: PathBuf, text: &str) -> String {
    let found = Command::new("grep")
        .args(["-rlaF", text])
        .arg(folder)
        .output();
    String::from_utf8(found.unwrap().stdout).unwrap()
}

#[test]
fn no_secret_is_told_anywhere() {
    const OWN: &str = "s3cr3t-of-the-recipe";
    let node = sandboxes("pve build secrets");
    let recipe = tiny(
        &node,
        "[secrets]\nown = { env = \"OWN\" }\n[[step]]\nname = \"tell\"\nsecrets = [\"own\"]\nrun = \"echo it is $own\"\n",
    );
    let mut command = node.command(&["run", "--target", "lab", "-vv", "--format", "json", &recipe]);
    // Files, since nobody reads while it runs.
    let said = [node.lab.path("said"), node.lab.path("told")];
    let [stdout, stderr] = said.clone().map(|path| File::create(path).unwrap());
    let mut child = command
        .env("OWN", OWN)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    // What programs are started with is there for everybody to see.
    let mut seen = vec![];
    while child.try_wait().unwrap().is_none() {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if [SECRET, OWN].iter().any(|secret| line.contains(secret)) {
                seen.push(line);
            }
        }
        // Looking all the time would leave no processor to what is looked at.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let told = said.map(|path| std::fs::read_to_string(path).unwrap());
    assert!(child.wait().unwrap().success(), "{}", told[1]);
    assert!(seen.is_empty(), "{seen:?}");
    for secret in [SECRET, OWN] {
        assert!(told.iter().all(|told| !told.contains(secret)), "{secret}");
        for folder in ["home", "out"] {
            assert_eq!(holding(node.lab.path(folder), secret), "");
        }
    }
    // An error must not tell either.
    let mut command = node.command(&["run", "--target", "lab", "-vv", "--force", &recipe]);
    let wrong = format!("builder@pve!lab={SECRET}-wrong");
    let ended: Ended = command
        .env("OWN", OWN)
        .env(VARIABLE, wrong)
        .output()
        .unwrap()
        .into();
    let ended = ended.with_code(1);
    assert!(!ended.stderr.contains(SECRET), "{}", ended.stderr);
}
