//! Builds on a Proxmox VE node, from the cloud image to the template.

mod lab;

use lab::node::Node;
use lab::{Ended, Image};
use pve_lab::Setup;

fn build(node: &Node, arguments: &[&str]) -> Ended {
    let all = ["run", "--target", "lab"];
    node.imgbuild(&[&all[..], arguments].concat())
}

/// A recipe on the tiny guest, with these lines behind those of the machine.
fn tiny(node: &Node, rest: &str) -> String {
    let rest = format!("[ssh]\nport = 2222\ntimeout = \"5m\"\n{rest}");
    let recipe = node.lab.recipe("web", Image::Tiny, &rest);
    recipe.to_str().unwrap().to_owned()
}

#[test]
fn a_template_is_built_tested_and_published() {
    let node = Node::whole(
        "pve build",
        Setup::new().sandboxes(Image::Tiny.path()),
        "9000-9099",
    );
    let recipe = tiny(
        &node,
        "[[step]]\nname = \"mark\"\nrun = \"echo made > /etc/mark\"\n\
         [[test]]\nname = \"mark\"\nrun = \"true\"\n",
    );
    let ended = build(&node, &[&recipe, "-v"]).with_code(0);
    println!("{}\n{}", ended.stdout, ended.stderr);
}
