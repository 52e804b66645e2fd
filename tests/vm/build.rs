//! Whole builds on the tiny guest: what steps can do, and what becomes of a build that fails.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::lab::{Image, Lab};

/// One machine for everything that a step can do, since booting is what costs.
#[test]
fn steps_do_what_they_say_and_the_image_holds_the_result() {
    let lab = Lab::new("steps");
    lab.write("tree/bin/tool", "#!/bin/sh\necho tool\n");
    let tool = lab.path("tree/bin/tool");
    std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("bin/tool", lab.path("tree/link")).unwrap();
    lab.write("one-file.txt", "content\n");
    lab.write(
        "script.sh",
        "#!/bin/sh\necho script as $0 got $GREETING >/srv/script\n",
    );
    let recipe = lab.recipe(
        "steps",
        Image::Tiny,
        r#"
[secrets]
TOKEN = { env = "LAB_TOKEN" }

[[step]]
name = "environment"
env = { GREETING = "it's $HOME" }
secrets = ["TOKEN"]
run = """
echo "the token is $TOKEN"
test "$GREETING" = "it's \\$HOME"
printf %s "$TOKEN" | wc -c >/srv/token-length
test "$(id -u)" = 0
"""

[[step]]
name = "as the build's user"
sudo = false
run = "test \"$(id -un)\" = imgbuild"

[[step]]
name = "stdin is empty"
run = "test -z \"$(cat)\""

[[step]]
script = "script.sh"
env = { GREETING = "hello" }

[[step]]
name = "upload a tree"
upload = { from = "tree", to = "/srv/tree" }

[[step]]
name = "upload a file"
upload = { from = "one-file.txt", to = "/srv/renamed.txt", owner = "imgbuild" }

[[step]]
name = "check uploads"
run = """
test "$(stat -c '%a %U' /srv/tree/bin/tool)" = '750 root'
test "$(readlink /srv/tree/link)" = bin/tool
test "$(stat -c %U /srv/renamed.txt)" = imgbuild
chown root:root /srv/renamed.txt
"""

[[step]]
name = "an exit code that is fine"
run = "exit 3"
ok-exit-codes = [0, 3]

[[step]]
name = "succeeds the second time"
run = "[ -e /run/second ] || { touch /run/second; exit 1; }"
retries = 1

[[step]]
name = "a daemon does not hold up the step"
run = "sleep 4000 & echo started"

[[step]]
name = "a step that hangs is killed with its children"
timeout = "15s"
retries = 1
run = """
if [ -e /run/hung ]; then
    ! grep -qsa 'sleep.432[1]' /proc/[0-9]*/cmdline
else
    touch /run/hung
    sleep 4321 &
    sleep 4321
fi
"""

[[step]]
name = "binary output"
run = "head -c 100000 /dev/urandom"

[[step]]
name = "remember the boot"
run = "cat /proc/sys/kernel/random/boot_id >/srv/boot-id"

[[step]]
reboot = true

[[step]]
name = "it was a reboot"
run = "! cmp -s /srv/boot-id /proc/sys/kernel/random/boot_id"

[[test]]
name = "the image has it all"
run = """
test "$(cat /srv/token-length)" = 12
test "$(cat /srv/renamed.txt)" = content
grep -q 'got hello' /srv/script
test "$(/srv/tree/link)" = tool
"""

[[test]]
name = "the image says what it is"
run = """
. /etc/imgbuild-release
test "$NAME" = steps
test "${#RECIPE_SHA256}" = 64
test -n "$VERSION" -a -n "$BUILD_ID" -a -n "$DATE"
grep -q '"buildType": "urn:imgbuild:image:v1"' /usr/share/imgbuild/inputs.json
(! grep -q s3cr3t /usr/share/imgbuild/inputs.json)
"""
"#,
    );
    let run = lab
        .command(&["run", recipe.to_str().unwrap()])
        .env("LAB_TOKEN", "s3cr3t-t0ken")
        .output()
        .unwrap();
    crate::lab::Ended::from(run)
        .with_code(0)
        .saying("environment| the token is ********")
        .saying("trying again in 1 s, once more")
        .not_saying("s3cr3t-t0ken");
    let artifact = lab.artifact("steps");
    let record = lab.record("steps");
    let digest = Command::new("sha256sum").arg(&artifact).output().unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap();
    assert_eq!(
        record["artifact"]["sha256"].as_str().unwrap(),
        &digest[..64]
    );
    assert_eq!(record["steps"].as_array().unwrap().len(), 15);
    assert_eq!(record["tests"][0]["result"], "passed");
    lab.imgbuild(&["provenance", "verify", "out/steps.qcow2"])
        .with_code(0);
    let statement = std::fs::read_to_string(lab.path("out/steps-1.provenance.json")).unwrap();
    assert!(!statement.contains("s3cr3t-t0ken"));
    let statement: serde_json::Value = serde_json::from_str(&statement).unwrap();
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["secrets"][0], "TOKEN");
    let dependencies = definition["resolvedDependencies"].as_array().unwrap();
    let uploaded = |to: &str| {
        let mut all = dependencies.iter();
        let found = all.find(|dependency| dependency["annotations"]["to"] == to);
        found.map(|dependency| dependency["digest"]["sha256"].clone())
    };
    let tool = crate::lab::server::sha256(b"#!/bin/sh\necho tool\n");
    assert_eq!(uploaded("/srv/tree/bin/tool").unwrap(), tool);
    assert_eq!(
        uploaded("/srv/renamed.txt").unwrap(),
        crate::lab::server::sha256(b"content\n")
    );
    let about = Command::new("qemu-img")
        .args(["info", "--output=json"])
        .arg(&artifact)
        .output();
    let about: serde_json::Value = serde_json::from_slice(&about.unwrap().stdout).unwrap();
    assert_eq!(about["format-specific"]["data"]["compression-type"], "zstd");
    assert!(
        about.get("backing-filename").is_none(),
        "the image must stand alone"
    );
    lab.assert_nothing_left();
    let kept: Vec<u8> = walk(&lab.home())
        .iter()
        .flat_map(|path| std::fs::read(path).unwrap())
        .collect();
    let secret = b"s3cr3t-t0ken";
    assert!(
        !kept.windows(secret.len()).any(|bytes| bytes == secret),
        "a secret is in imgbuild's files"
    );
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let paths = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn a_failing_step_ends_the_build_and_the_old_image_stays() {
    let lab = Lab::new("failing step");
    lab.write("out/failing.qcow2", "the last good image");
    let recipe = lab.recipe(
        "failing",
        Image::Tiny,
        "[[step]]\nname = \"breaks\"\nrun = \"echo the reason; exit 7\"\n",
    );
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(1)
        .saying("error: step `breaks`: exit status 7")
        .saying("failing.toml:10:1")
        .saying("   | the reason")
        .saying("log.txt");
    assert_eq!(
        std::fs::read(lab.artifact("failing")).unwrap(),
        b"the last good image"
    );
    lab.assert_nothing_left();
}

#[test]
fn a_failing_test_means_no_image() {
    let lab = Lab::new("failing test");
    let recipe = lab.recipe(
        "untested",
        Image::Tiny,
        "[[step]]\nrun = \"true\"\n[[test]]\nname = \"never\"\nrun = \"false\"\n",
    );
    lab.imgbuild(&["run", recipe.to_str().unwrap()])
        .with_code(3)
        .saying("test `never`: exit status 1");
    assert!(!lab.artifact("untested").exists());
    lab.assert_nothing_left();
}

#[test]
fn a_kept_machine_can_be_logged_in_to_with_what_is_printed() {
    let lab = Lab::new("keep");
    let recipe = lab.recipe(
        "kept",
        Image::Tiny,
        "[[step]]\nrun = \"touch /srv/here; false\"\n",
    );
    let run = lab.imgbuild(&["run", "--on-error", "keep", recipe.to_str().unwrap()]);
    let run = run.with_code(1).saying("imgbuild gc --kept");
    let login = run
        .stderr
        .lines()
        .find(|line| line.starts_with("  ssh "))
        .unwrap();
    let line = format!("{login} -o BatchMode=yes ls /srv");
    let output = Command::new("sh").args(["-c", &line]).output().unwrap();
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        seen.contains("here"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    lab.imgbuild(&["gc"]).with_code(0).saying("kept on purpose");
    assert_eq!(lab.processes().len(), 1, "gc alone must leave it");
    lab.imgbuild(&["gc", "--kept"]).with_code(0);
    lab.assert_nothing_left();
}

#[test]
fn two_recipes_build_side_by_side() {
    let lab = Lab::new("parallel");
    let one = lab.recipe(
        "one",
        Image::Tiny,
        "[[step]]\nrun = \"echo 1 >/srv/number\"\n",
    );
    let two = lab.recipe(
        "two",
        Image::Tiny,
        "[[step]]\nrun = \"echo 2 >/srv/number\"\n",
    );
    lab.imgbuild(&[
        "run",
        "--parallel",
        "2",
        one.to_str().unwrap(),
        two.to_str().unwrap(),
    ])
    .with_code(0);
    assert!(lab.artifact("one").exists() && lab.artifact("two").exists());
    lab.assert_nothing_left();
}

#[test]
fn a_step_may_print_a_hundred_megabytes() {
    let lab = Lab::new("100 MB");
    let recipe = lab.recipe(
        "loud",
        Image::Tiny,
        "[[step]]\nname = \"loud\"\nrun = \"yes 0123456789012345678901234567890123456789 | head -c 100000000; exit 7\"\n",
    );
    let run = lab
        .command(&["run", recipe.to_str().unwrap()])
        .output()
        .unwrap();
    let run = crate::lab::Ended::from(run).with_code(1);
    assert!(
        run.stderr.len() > 100_000_000,
        "live output was lost: {}",
        run.stderr.len()
    );
    assert!(run.stderr.trim_end().ends_with("log.txt"));
    lab.assert_nothing_left();
}
