//! What a policy demands, and what it is decided by.

use std::process::Command;

use crate::lab::Lab;
use crate::lab::server::sha256;
use crate::scene::*;

#[test]
fn a_policy_names_each_rule_that_is_broken() {
    let lab = Lab::new("provenance, policy");
    let digest = sha256(&std::fs::read(debian(&lab)).unwrap());
    let image = import(&lab, "web", &format!("sha256 = \"{digest}\"\n"));
    let (fingerprint, _) = key(&lab);
    let with = |rules: &str| {
        let policy = lab.write("policy.toml", format!("[policy]\n{rules}\n"));
        verify(&lab, &image, &["--policy", text(&policy)])
    };
    let good = format!(
        "signed-by = [\"{fingerprint}\"]\nbase-verified-by = [\"signature\", \"digest\"]\nmax-age = \"1d\"\n\
         [policy.packages]\nnot-older-than = {{ openssl = \"3.0.11-1~deb12u2\", \"pypi/PyYAML\" = \"6.0\", zlib = \"9\" }}\n\
         not-present = [\"telnetd\", \"npm/openssl\"]\n"
    );
    with(&good).with_code(0);
    for (rules, broken) in [
        (
            "signed-by = [\"SHA256:other\"]",
            "policy signed-by: signed by SHA256:",
        ),
        (
            "git-remote = [\"https://example.org/x\"]",
            "policy git-remote: no address",
        ),
        (
            "clean-tree = true",
            "policy clean-tree: the recipe was in no git repository",
        ),
        (
            "base-verified-by = [\"signature\"]",
            "policy base-verified-by: the base image was verified by: digest",
        ),
        ("max-age = \"0s\"", "policy max-age: it was built"),
        (
            "[policy.packages]\nnot-older-than = { openssl = \"3.0.11-1~deb12u3\" }",
            "policy not-older-than openssl: pkg:deb/debian/openssl@3.0.11-1~deb12u2",
        ),
        (
            "[policy.packages]\nnot-present = [\"@openai/codex\"]",
            "policy not-present @openai/codex: pkg:npm/%40openai/codex@0.169.0",
        ),
    ] {
        if rules.contains("max-age") {
            // Times are whole seconds.
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        with(rules).with_code(6).saying(broken);
    }
    with("max-age = true").with_code(2);
    with("signed-bye = []").with_code(2).saying("signed-bye");
    with("base-verified-by = [\"signatures\"]")
        .with_code(2)
        .saying("signature");
    std::fs::remove_file(beside(&image, "sbom.cdx")).unwrap();
    with("[policy.packages]\nnot-present = [\"telnetd\"]")
        .with_code(6)
        .saying("the list of packages is not there");
}

#[test]
fn a_list_of_packages_that_is_not_complete_proves_nothing() {
    let lab = Lab::new("provenance, unreadable disk");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(lab.path("disk.qcow2"))
        .arg("16M")
        .output();
    accepted(&made.unwrap());
    let recipe = lab.write(
        "web.toml",
        "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"disk.qcow2\"\n",
    );
    lab.imgbuild(&["run", text(&recipe)])
        .with_code(0)
        .saying("the list of packages is not complete");
    let image = lab.artifact("web");
    verify(&lab, &image, &[]).with_code(0);
    let policy = lab.write(
        "policy.toml",
        "[policy.packages]\nnot-present = [\"telnetd\"]\n",
    );
    verify(&lab, &image, &["--policy", text(&policy)])
        .with_code(6)
        .saying("the list of packages is not complete");
    accepted(&python(&["cyclonedx", text(&beside(&image, "sbom.cdx"))]));
    accepted(&python(&["spdx", text(&beside(&image, "sbom.spdx"))]));
}

#[test]
fn a_revocation_that_the_registry_here_knows_of_is_told() {
    let lab = Lab::new("provenance, revoked");
    let image = import(&lab, "web", "");
    verify(&lab, &image, &[])
        .with_code(0)
        .printing_part("ok      revoked: web@1 is not revoked");
    lab.imgbuild(&["template", "revoke", "web@1", "--reason", "nginx leaks"])
        .with_code(0);
    // Wherever it lies.
    let copy = lab.path("copy/web-1.qcow2");
    std::fs::create_dir(lab.path("copy")).unwrap();
    std::fs::copy(image.canonicalize().unwrap(), &copy).unwrap();
    std::fs::copy(beside(&image, "dsse"), lab.path("copy/web-1.dsse.json")).unwrap();
    verify(&lab, &copy, &[])
        .with_code(6)
        .printing_part("FAILED  revoked: web@1 was revoked on ")
        .saying("nginx leaks");
}
