//! The lists of packages beside an image.

use std::process::Command;

use crate::lab::{Ended, Lab};
use crate::scene::*;

#[test]
fn the_list_of_packages_describes_the_disk_and_is_the_same_for_the_same_image() {
    let lab = Lab::new("provenance, packages");
    // qemu-img does not put compressed clusters into the same order each time.
    debian(&lab);
    let recipe = "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"disk.raw\"\n[output]\nformat = \"raw\"\n";
    let recipe = lab.write("web.toml", recipe);
    lab.imgbuild(&["run", text(&recipe)]).with_code(0);
    let image = lab.path("out/web.raw");
    let expected = [
        "pkg:deb/debian/g%2B%2B@4:12.2.0-3?arch=amd64&distro=debian-12&upstream=gcc-defaults",
        "pkg:deb/debian/openssl@3.0.11-1~deb12u2?arch=amd64&distro=debian-12",
        "pkg:npm/%40openai/codex@0.169.0",
        "pkg:pypi/pyyaml@6.0.1",
    ];
    assert_eq!(purls(&image), expected);
    let documents = || {
        let paths = ["sbom.cdx", "sbom.spdx"].map(|what| beside(&image, what));
        paths.map(|path| std::fs::read(path).unwrap())
    };
    let first = documents();
    let again = |epoch: Option<&str>| {
        let mut command = lab.command(&["run", "--force", "web.toml"]);
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch);
        }
        Ended::from(command.output().unwrap()).with_code(0);
        documents()
    };
    assert!(
        again(None) == first,
        "the same disk was described in another way"
    );
    let dated = again(Some("1000000000"));
    let text = String::from_utf8(dated[0].clone()).unwrap();
    assert!(text.contains("2001-09-09T01:46:40Z"), "{text}");
}

/// Has rpm build a package, and enter it into a database in `folder` of the disk.
fn install_by_rpm(lab: &Lab, folder: &str) {
    let package = lab.write(
        "tool.spec",
        "Name: tool\nEpoch: 2\nVersion: 1.4~rc1\nRelease: 3.el9\nSummary: A tool\nVendor: Somebody\nLicense: MIT\nBuildArch: noarch\n\
         %description\nA tool.\n%files\n",
    );
    let top = lab.path("rpmbuild");
    let built = Command::new("rpmbuild")
        .arg("--define")
        .arg(format!("_topdir {}", top.display()))
        .arg("-bb")
        .arg(package)
        .output();
    accepted(&built.unwrap());
    let installed = Command::new("rpm")
        .args(["--install", "--justdb", "--nodeps", "--dbpath"])
        .arg(lab.path("root").join(folder))
        .arg(top.join("RPMS/noarch/tool-1.4~rc1-3.el9.noarch.rpm"))
        .output();
    accepted(&installed.unwrap());
}

#[test]
fn packages_that_rpm_has_installed_are_listed_from_its_database() {
    let lab = Lab::new("provenance, rpm");
    for (path, text) in [
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        ("etc/os-release", "ID=\"rocky\"\nVERSION_ID=\"9.4\"\n"),
    ] {
        lab.write(&format!("root/{path}"), text);
    }
    install_by_rpm(&lab, "usr/lib/sysimage/rpm");
    // As distributions leave the database's old place.
    std::fs::create_dir_all(lab.path("root/var/lib")).unwrap();
    let link = lab.path("root/var/lib/rpm");
    std::os::unix::fs::symlink("../../usr/lib/sysimage/rpm", link).unwrap();
    disk(&lab);
    let image = import(&lab, "web", "");
    assert_eq!(
        purls(&image),
        [
            "pkg:rpm/rocky/tool@1.4~rc1-3.el9?arch=noarch&distro=rocky-9.4&epoch=2&upstream=tool-1.4~rc1-3.el9.src.rpm"
        ]
    );
    let document = read(&beside(&image, "sbom.cdx"));
    assert_eq!(document["compositions"][0]["aggregate"], "unknown");
    for (what, beside_as) in [
        ("cyclonedx", "sbom.cdx"),
        ("spdx", "sbom.spdx"),
        ("purls", "sbom.cdx"),
    ] {
        accepted(&python(&[what, text(&beside(&image, beside_as))]));
    }
    for (least, code) in [("2:1.4~beta-9", 0), ("2:1.4-1", 6)] {
        let policy =
            format!("[policy.packages]\nnot-older-than = {{ \"rpm/tool\" = \"{least}\" }}\n");
        let policy = lab.write("policy.toml", policy);
        verify(&lab, &image, &["--policy", text(&policy)]).with_code(code);
    }
}

#[test]
fn a_database_of_rpm_that_is_not_read_makes_the_list_incomplete() {
    let lab = Lab::new("provenance, old rpm");
    lab.write("root/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    lab.write("root/var/lib/rpm/Packages", "Berkeley DB's");
    disk(&lab);
    let recipe = "[image]\nname = \"web\"\n[source]\nimport = true\nfile = \"disk.raw\"\n";
    lab.write("web.toml", recipe);
    lab.imgbuild(&["run", "web.toml"])
        .with_code(0)
        .saying("/var/lib/rpm/Packages: rpm's database is in the format of Berkeley DB");
    let image = newest(&lab, "web");
    let document = read(&beside(&image, "sbom.cdx"));
    assert_eq!(document["compositions"][0]["aggregate"], "incomplete");
    let policy = lab.write(
        "policy.toml",
        "[policy.packages]\nnot-present = [\"telnetd\"]\n",
    );
    verify(&lab, &image, &["--policy", text(&policy)])
        .with_code(6)
        .saying("not complete");
}
