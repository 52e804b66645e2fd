//! What is cached, as the commands show it.

mod lab;

use std::collections::BTreeMap;

use lab::Lab;
use lab::server::{Server, sha256};

#[test]
fn all_that_is_cached_is_listed_and_can_be_removed() {
    let lab = Lab::new("cache");
    lab.imgbuild(&["image", "list"])
        .with_code(0)
        .printing("nothing is cached\n");

    let release = BTreeMap::from([("/release.json".to_owned(), b"{}".to_vec())]);
    let server = Server::start(release);
    let url = format!("{}/release.json", server.address);
    let text = format!(
        "[image]\nname = \"x\"\n[source]\nfile = \"x.qcow2\"\n[data.release]\njson = \"{url}\"\n"
    );
    let recipe = lab.write("x.toml", text);
    let recipe = recipe.to_str().unwrap();
    lab.imgbuild(&["validate", recipe]).with_code(0);
    // As a shared cache might have been copied: nobody knows where it came from.
    let tool = sha256(b"tool");
    lab.write(&format!("home/cache/files/sha256-{tool}"), "tool");
    let document = sha256(url.as_bytes());
    lab.imgbuild(&["image", "list"])
        .with_code(0)
        .printing(&format!(
            "{}    4.00 KiB   file\n{}    4.00 KiB   data  {url}\n",
            &tool[..12],
            &document[..12]
        ));
    let listed = lab.imgbuild(&["image", "list", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed.with_code(0).stdout).unwrap();
    assert_eq!(listed["files"][0]["digest"], format!("sha256:{tool}"));
    assert_eq!(listed["files"][0]["origin"], serde_json::Value::Null);
    assert_eq!(listed["documents"][0]["origin"], url);

    lab.imgbuild(&["image", "rm", &document[..12]]).with_code(0);
    lab.imgbuild(&["validate", "--offline", recipe])
        .with_code(2)
        .saying("never seen on this machine");
    lab.imgbuild(&["image", "rm", &format!("sha256:{tool}")])
        .with_code(0)
        .printing(&format!("removed sha256:{tool} (4.00 KiB)\n"));
    lab.imgbuild(&["image", "list"])
        .with_code(0)
        .printing("nothing is cached\n");
    lab.imgbuild(&["image", "rm", &tool])
        .with_code(2)
        .saying("there is nothing like that in the cache");
}
