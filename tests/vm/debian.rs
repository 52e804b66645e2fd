//! Builds on the real thing: Debian with cloud-init, systemd and apt.

use std::process::Command;

use crate::lab::{Image, Lab};

#[test]
fn a_debian_image_is_built_sealed_and_boots_as_its_user_would_boot_it() {
    let lab = Lab::new("debian");
    let recipe = lab.recipe(
        "debian",
        Image::Debian,
        r#"disk = "4GiB"

[cloud-init]
user-data = { write_files = [{ path = "/etc/from-user-data", content = "yes" }], users = ["default", { name = "alice" }] }

[[step]]
name = "user-data was merged"
run = """
test "$(cat /etc/from-user-data)" = yes
id alice
test "$(id -u imgbuild)" = 60999
adduser --disabled-password --gecos '' bob
test "$(id -u bob)" = "$(id -g bob)"
test "$(id -u bob)" -lt 1010
"""

[[step]]
name = "timers are off"
run = "! systemctl is-active apt-daily.timer"

[[step]]
name = "packages"
packages = ["tree"]
timeout = "10m"

[[step]]
name = "a secret is written and deleted"
run = """
part=deleted
yes "only-in-a-$part-file" | head -c 20000000 >/root/large
mkdir /root/small
for i in $(seq 300); do echo "only-in-a-$part-file" >/root/small/$i; echo kept >/root/kept-$i; done
sync
rm -r /root/large /root/small
"""

[[step]]
name = "the disk was grown"
run = "test $(df --output=size / | tail -1) -gt 3500000"

[[test]]
name = "the image is new and complete"
run = """
tree --version
id alice
test -s /etc/machine-id
systemctl is-active apt-daily.timer
"""

[output]
compression = "none"
"#,
    );
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(0);
    let record = lab.record("debian");
    assert_eq!(record["audit"]["findings"], serde_json::json!([]));
    assert!(record["audit"]["checks"].as_u64().unwrap() > 20);
    assert!(!lab.holds("debian", "only-in-a-deleted-file"));
    lab.assert_nothing_left();
}

#[test]
fn an_image_is_built_by_uefi() {
    let lab = Lab::new("uefi");
    let recipe = lab.recipe(
        "uefi",
        Image::Debian,
        "firmware = \"uefi\"\n[[step]]\nrun = \"test -d /sys/firmware/efi\"\n",
    );
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(0);
    let about = Command::new("qemu-img")
        .args(["check", "-q"])
        .arg(lab.artifact("uefi"))
        .status();
    assert!(about.unwrap().success());
    lab.assert_nothing_left();
}

#[test]
fn an_error_of_cloud_init_is_told_in_its_own_words() {
    let lab = Lab::new("cloud-init error");
    let recipe = lab.recipe(
        "wrong",
        Image::Debian,
        "[cloud-init]\nuser-data = { runcmd = [\"exit 3\"] }\n[[step]]\nrun = \"true\"\n",
    );
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(1)
        .saying("cloud-init in the guest")
        .saying("1 failures (runcmd)");
    lab.assert_nothing_left();
}
