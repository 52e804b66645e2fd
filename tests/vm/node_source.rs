//! Builds on a Proxmox VE node that begin from a template there: another version, or somebody else's. Their guests are sandboxes.

use crate::lab::node::Node;
use crate::lab::{Ended, Image};
use imgbuild::record::TemplateFile;
use pve_lab::Setup;
use serde_json::Value;

/// What every recipe here ends with. Nothing is written to the disk of a sandbox, so what sealing removes is still on it.
const REST: &str =
    "[ssh]\nport = 2222\ntimeout = \"5m\"\n[seal]\nkeep = [\"hostname\", \"package-lists\"]\n";

fn node(name: &str) -> Node {
    let setup = Setup::new().sandboxes(Image::Tiny.path());
    Node::whole(name, setup, "9000-9099")
}

fn build(node: &Node, recipe: &str) -> Ended {
    node.imgbuild(&["run", "--target", "lab", recipe])
}

/// A recipe on the tiny image.
fn base(node: &Node) -> String {
    let recipe = node.lab.recipe("base", Image::Tiny, REST);
    recipe.to_str().unwrap().to_owned()
}

/// A recipe on what these lines say.
fn child(node: &Node, source: &str) -> String {
    let memory = Image::Tiny.memory();
    let text = format!(
        "[image]\nname = \"web\"\n[source]\n{source}\n[machine]\ncpus = 1\nmemory = \"{memory}\"\n{REST}\
         [[step]]\nname = \"mark\"\nrun = \"true\"\n[[test]]\nname = \"mark\"\nrun = \"true\"\n"
    );
    let path = node.lab.write("web.toml", text);
    path.to_str().unwrap().to_owned()
}

/// What stands for a version.
fn file(node: &Node, version: &str) -> TemplateFile {
    TemplateFile::read(&node.lab.path(&format!("out/lab/{version}.template"))).unwrap()
}

/// The dependency of a version of `web` that it was built on.
fn base_of(node: &Node, number: u32) -> Value {
    let path = format!("out/lab/web-{number}.provenance.json");
    let text = std::fs::read(node.lab.path(&path)).unwrap();
    let statement: Value = serde_json::from_slice(&text).unwrap();
    statement["predicate"]["buildDefinition"]["resolvedDependencies"][0].clone()
}

/// The machines on the node as `9000 web-1 template`, without their tags. Of builds there must be nothing besides.
#[track_caller]
fn templates(node: &Node) -> Vec<String> {
    let now = node.server.inventory();
    let seeds = now.volumes.iter().filter(|(id, _)| id.contains(":iso/"));
    assert_eq!(seeds.count(), 0, "{:?}", now.volumes);
    assert_eq!((&now.strays, &now.running), (&vec![], &vec![]));
    node.lab.assert_nothing_left();
    let vms = now.vms.into_iter();
    let untagged = vms.map(|vm| {
        let (before, rest) = vm.split_once(" [").unwrap();
        let (_, after) = rest.split_once(']').unwrap();
        format!("{before}{after}")
    });
    untagged.collect()
}

fn remove(node: &Node, vmid: u32) {
    let path = format!("qemu/{vmid}?purge=1&destroy-unreferenced-disks=1");
    node.curl(&path, &["-X", "DELETE"]);
}

#[test]
fn a_recipe_is_built_on_the_template_of_another_and_needs_it_no_more() {
    let node = node("pve source recipe");
    base(&node);
    let recipe = child(&node, "recipe = \"base.toml\"");
    node.imgbuild(&["plan", "--target", "lab", &recipe])
        .with_code(0)
        .printing_part("not built yet");
    build(&node, &recipe).with_code(0);
    assert_eq!(
        templates(&node),
        ["9000 base-1 template", "9001 web-1 template"]
    );
    assert_eq!(
        node.calls("POST", "/upload"),
        6,
        "one image, and five seeds"
    );
    let (parent, child) = (file(&node, "base-1"), file(&node, "web-1"));
    let dependency = base_of(&node, 1);
    assert_eq!(dependency["name"], "base-1");
    assert_eq!(dependency["digest"]["sha256"], parent.disk);
    assert_eq!(dependency["annotations"]["kind"], "parent-image");
    let record = node.lab.record_of("out/lab/web-1.template");
    assert_eq!(record["source"]["version"], "lab/base@1");
    assert_eq!(record["source"]["sha256"], parent.disk);
    assert_eq!(child.disk, parent.disk, "of a sandbox");

    let before = node.server.requests().len();
    let planned = node.imgbuild(&["plan", "--target", "lab", "--detailed-exit-code", &recipe]);
    planned
        .with_code(0)
        .printing_part("local:9000/base-9000-disk-0.qcow2 is there");
    build(&node, &recipe)
        .with_code(0)
        .printing_part("up to date");
    let later = node.server.requests().split_off(before);
    assert!(
        later.iter().all(|request| request.method == "GET"),
        "{later:?}"
    );

    remove(&node, 9000);
    assert_eq!(templates(&node), ["9001 web-1 template"]);
}

#[test]
fn a_version_is_built_on_if_it_is_on_this_target_and_good_and_there() {
    let node = node("pve source version");
    build(&node, &base(&node)).with_code(0);
    node.imgbuild(&["template", "promote", "lab/base@1", "stable"])
        .with_code(0);
    build(&node, &child(&node, "image = \"base@stable\"")).with_code(0);
    assert_eq!(
        base_of(&node, 1)["annotations"]["verified"]["version"],
        "lab/base@1"
    );
    let before = templates(&node);

    let recipe = child(&node, "image = \"lab/base@stable\"");
    node.imgbuild(&["run", &recipe])
        .with_code(2)
        .saying("lab/base@stable is on a target, not on this machine")
        .saying("--target lab");
    let elsewhere = child(&node, "image = \"office/base@stable\"");
    build(&node, &elsewhere)
        .with_code(2)
        .saying("office/base@stable is on the target office")
        .saying("web.toml:4");
    node.imgbuild(&["template", "revoke", "lab/base@1", "--reason", "old"])
        .with_code(0);
    let recipe = child(&node, "image = \"base@1\"");
    build(&node, &recipe).with_code(6).saying("revoked");
    node.imgbuild(&["template", "restore", "lab/base@1"])
        .with_code(0);

    remove(&node, 9000);
    let changed = child(&node, "image = \"base@1\"\nimport = false");
    node.imgbuild(&["run", "--target", "lab", "--force", &changed])
        .with_code(5)
        .saying("building on lab/base@1: it is gone")
        .saying("build that image again");
    node.imgbuild(&["plan", "--target", "lab", &changed])
        .with_code(5)
        .saying("it is gone");
    assert_eq!(templates(&node), before[1..]);
}

#[test]
fn a_template_of_somebody_else_is_known_by_what_its_server_says() {
    let node = node("pve source template");
    let image = std::fs::read(Image::Tiny.path()).unwrap();
    node.put("tiny.qcow2", &image);
    node.has_template(8000, "local:import/tiny.qcow2");
    let recipe = child(&node, "template = 8000");
    node.imgbuild(&["run", &recipe])
        .with_code(2)
        .saying("the template 8000 is on a target, not on this machine")
        .saying("web.toml:4");
    build(&node, &recipe).with_code(0);
    let dependency = base_of(&node, 1);
    assert_eq!(dependency["digest"], Value::Null, "nobody has read it");
    let uri = format!("{}/api2/json/nodes/pve/qemu/8000", node.server.url());
    assert_eq!(dependency["uri"], uri);
    let verified = &dependency["annotations"]["verified"];
    assert_eq!(
        (&verified["by"], &verified["vmid"]),
        (&"server".into(), &8000.into())
    );
    assert_eq!(
        verified["identity"]["disk"],
        "local:8000/base-8000-disk-0.qcow2"
    );

    node.curl(
        "qemu/8000/config",
        &["-d", "tags=mine", "-d", "description=x", "-d", "name=tiny"],
    );
    build(&node, &child(&node, "template = \"tiny\""))
        .with_code(0)
        .printing_part("up to date");
    let recipe = child(&node, "template = 8000");
    remove(&node, 8000);
    build(&node, &recipe)
        .with_code(2)
        .saying("there is none that the login may see");
    node.has_vm(8000, "machine", "");
    build(&node, &recipe)
        .with_code(2)
        .saying("it is no template");
    remove(&node, 8000);
    node.has_template(8000, "local:import/tiny.qcow2");
    build(&node, &recipe).with_code(0);
    let anew = base_of(&node, 2);
    assert_ne!(anew["annotations"]["verified"], *verified, "another one");
    let own = child(&node, &format!("template = {}", file(&node, "web-2").vmid));
    let own = std::fs::read_to_string(&own)
        .unwrap()
        .replace("\"web\"", "\"db\"");
    let own = node.lab.write("db.toml", own);
    build(&node, own.to_str().unwrap()).with_code(0);
    let record = node.lab.record_of("out/lab/db-1.template");
    assert_eq!(record["source"]["version"], "lab/web@2");
    assert_eq!(record["source"]["sha256"], file(&node, "web-2").disk);
    // Whatever its tags say, nobody knows what was done to a clone before it became a template.
    let version = file(&node, "web-2").vmid;
    let clone = format!("qemu/{version}/clone");
    node.curl(&clone, &["-d", "newid=8001", "-d", "full=1"]);
    node.curl("qemu/8001/template", &["-X", "POST"]);
    build(&node, &child(&node, "template = 8001")).with_code(0);
    let verified = &base_of(&node, 3)["annotations"]["verified"];
    assert_eq!(verified["by"], "server");
}

#[test]
fn a_build_goes_to_the_node_that_has_the_template() {
    let setup = Setup::new().node("pve2").memory("pve", 8 << 30);
    let node = Node::start("pve source cluster", setup.sandboxes(Image::Tiny.path()));
    let on = |name: &str| {
        node.target(&format!(
            "node = \"{name}\"\nvmid-range = \"9000-9099\"\n\
             storages = {{ import = \"local\", images = \"local\", iso = \"local\" }}\n"
        ));
    };
    on("pve");
    build(&node, &base(&node)).with_code(0);
    let recipe = child(&node, "image = \"base\"");
    on("pve2");
    build(&node, &recipe)
        .with_code(5)
        .saying("building on lab/base@1: it is on pve, and the target builds on pve2");
    on("auto");
    build(&node, &recipe)
        .with_code(0)
        .saying("pve2 is not used: it does not have the template that is built on")
        .saying("building on pve");
    assert_eq!(file(&node, "web").node, "pve", "pve2 has more memory");
}
