use super::super::tests::{plan, plan_on};
use super::*;
use crate::recipe::Target;

const STEPS: &str = "
[secrets]
TOKEN = { env = 'TOKEN' }
[[step]]
name = 'first'
run = 'echo 1'
[[step]]
packages = ['jq']
[[step]]
run = 'echo 3'
secrets = ['TOKEN']
[[test]]
run = 'true'
";

fn base() -> Base {
    Base {
        digest: "b".into(),
        disk: 1 << 30,
    }
}

fn secret(_: &str) -> Option<String> {
    Some("keyed hash".into())
}

fn keys(text: &str) -> Keys {
    Keys::new(&plan(text), &base(), secret, true)
}

/// Which of the keys of [`STEPS`] are others when something in it is replaced: the boot, three steps, the image.
fn changed(what: &str, by: &str) -> [bool; 5] {
    assert!(STEPS.contains(what), "{what}");
    differences(&keys(STEPS), &keys(&STEPS.replacen(what, by, 1)))
}

fn differences(one: &Keys, other: &Keys) -> [bool; 5] {
    let mut differs = [false; 5];
    for (at, differs) in differs[..4].iter_mut().enumerate() {
        *differs = one.chain[at].key != other.chain[at].key;
    }
    differs[4] = one.image != other.image;
    differs
}

const NONE: [bool; 5] = [false; 5];

#[test]
fn a_change_of_a_step_changes_its_key_and_those_after_it() {
    for (what, by, first) in [
        ("echo 1", "echo one", 1),
        ("run = 'echo 1'", "run = 'echo 1'\nenv = { A = '1' }", 1),
        ("run = 'echo 1'", "run = 'echo 1'\nsudo = false", 1),
        (
            "run = 'echo 1'",
            "run = 'echo 1'\nok-exit-codes = [0, 1]",
            1,
        ),
        (
            "run = 'echo 1'",
            "run = 'echo 1'\nexpect-disconnect = true",
            1,
        ),
        ("['jq']", "['jq', 'tree']", 2),
        ("echo 3", "echo three", 3),
        ("secrets = ['TOKEN']", "", 3),
        ("run = 'true'", "run = 'false'", 4),
    ] {
        let expected: [bool; 5] = std::array::from_fn(|at| at >= first);
        assert_eq!(changed(what, by), expected, "{what} → {by}");
    }
}

#[test]
fn names_comments_order_and_time_limits_change_no_key() {
    for (what, by) in [
        ("name = 'first'", "name = 'renamed'"),
        ("name = 'first'", ""),
        ("[[test]]", "# a comment\n[[test]]\nname = 'works'"),
        (
            "run = 'echo 1'",
            "timeout = '5m'\nretries = 3\nrun = 'echo 1'",
        ),
        (
            "name = 'first'\nrun = 'echo 1'",
            "run = 'echo 1'\nname = 'first'",
        ),
        ("[[test]]", "[ssh]\ntimeout = '1h'\n[[test]]"),
    ] {
        assert_eq!(changed(what, by), NONE, "{what} → {by}");
    }
}

#[test]
fn the_base_image_and_the_machine_change_every_key() {
    let machine = "[machine]\n";
    for line in ["cpus = 3", "memory = '3GiB'", "firmware = 'uefi'"] {
        let by = format!("{machine}{line}\n[secrets]");
        assert_eq!(changed("[secrets]", &by), [true; 5], "{line}");
    }
    let cloud_init = "[cloud-init]\nuser-data = { packages = ['jq'] }\n[secrets]";
    assert_eq!(changed("[secrets]", cloud_init), [true; 5]);
    let plan = plan(STEPS);
    let with = |base: Base| Keys::new(&plan, &base, secret, true);
    let first = with(base());
    for other in [
        Base {
            digest: "c".into(),
            ..base()
        },
        Base {
            disk: 2 << 30,
            ..base()
        },
    ] {
        assert_eq!(differences(&first, &with(other)), [true; 5]);
    }
}

#[test]
fn how_the_machine_runs_changes_no_key_of_a_disk() {
    let by = "[machine]\naccel = 'tcg'\n[secrets]";
    assert_eq!(changed("[secrets]", by), NONE);
}

#[test]
fn what_the_image_is_called_changes_its_key_only() {
    let by = "[output]\nformat = 'raw'\n[secrets]";
    assert_eq!(changed("[secrets]", by), [false, false, false, false, true]);
}

#[test]
fn a_secret_counts_by_its_value_and_nothing_after_it_is_known_without() {
    let plan = plan(STEPS);
    let other = Keys::new(&plan, &base(), |_| Some("other".into()), true);
    assert_eq!(
        differences(&keys(STEPS), &other),
        [false, false, false, true, true]
    );
    let unknown = Keys::new(&plan, &base(), |_| None, true);
    assert_eq!(unknown.ends, Some(Break::Secret("TOKEN".into())));
    assert_eq!((unknown.chain.len(), unknown.image), (3, None));
}

#[test]
fn a_step_that_is_always_done_ends_the_chain() {
    let keys = keys("[[step]]\nrun = 'a'\n[[step]]\nrun = 'b'\ncache = false\n[[step]]\nrun = 'c'");
    assert_eq!((keys.chain.len(), keys.ends), (2, Some(Break::Always)));
    assert_eq!(keys.image, None);
}

#[test]
fn a_breakpoint_ends_the_chain_unless_nobody_stops_there() {
    let text = "[[step]]\nrun = 'a'\n[[step]]\nbreakpoint = true\n[[step]]\nrun = 'c'";
    assert_eq!(keys(text).ends, Some(Break::Breakpoint));
    let passed = Keys::new(&plan(text), &base(), secret, false);
    let without = keys("[[step]]\nrun = 'a'\n[[step]]\nrun = 'c'");
    assert_eq!(
        passed.chain.last().unwrap().key,
        without.chain.last().unwrap().key
    );
}

#[test]
fn memory_may_hold_a_secret_until_the_next_reboot() {
    let text = "[secrets]\nT = { env = 'T' }\n[[step]]\nrun = 'a'\nsecrets = ['T']\n\
                [[step]]\nrun = 'b'\n[[step]]\nreboot = true\n[[step]]\nrun = 'c'";
    let secret: Vec<bool> = keys(text).chain.iter().map(|key| key.secret).collect();
    assert_eq!(secret, [false, true, true, false, false]);
    let allowed = text.replace("{ env = 'T' }", "{ env = 'T', saved-memory = true }");
    assert!(keys(&allowed).chain.iter().all(|key| !key.secret));
}

#[test]
fn another_time_limit_for_a_result_makes_the_image_another_one() {
    let with = |cache: &str| keys(&format!("[[step]]\nrun = 'a'\n{cache}"));
    let (without, day) = (with(""), with("cache = '1d'"));
    assert_eq!(without.chain[1].key, day.chain[1].key);
    assert_ne!(without.image, day.image);
    let last = keys("[[step]]\nrun = 'a'\nfinally = true\ncache = '1d'");
    assert_eq!(last.image, None, "nobody notices when it is over");
}

#[test]
fn a_limited_life_is_told() {
    let keys = keys("[[step]]\nrun = 'a'\ncache = '1d'");
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(keys.chain[1].max_age, Some(day));
}

#[test]
fn an_uploaded_file_counts_by_content_and_mode_and_not_by_its_time() {
    use crate::plan::Facts;
    use crate::recipe::{self, NoWeb, Overrides};
    use futures_util::FutureExt;
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tree/file");
    std::fs::create_dir(folder.path().join("tree")).unwrap();
    std::fs::write(&file, "content").unwrap();
    let text = "[image]\nname = 'x'\n[source]\nfile = 'base.qcow2'\n[[step]]\nupload = { from = 'tree', to = '/srv' }";
    let key = || {
        let overrides = Overrides::default();
        let recipes = recipe::parse("x.toml", text, folder.path(), &overrides, &NoWeb);
        let recipes = recipes.now_or_never().unwrap().unwrap();
        let plan = Plan::new(
            &recipes[0],
            &Facts::gather(&recipes[0], None, None).unwrap(),
        );
        let keys = Keys::new(&plan, &base(), secret, true);
        keys.chain[1].key.clone()
    };
    let first = key();
    let touched = std::fs::File::options().write(true).open(&file).unwrap();
    touched
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(key(), first, "the time");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    let executable = key();
    assert_ne!(executable, first, "the mode");
    std::fs::write(&file, "Content").unwrap();
    assert_ne!(key(), executable, "the content");
}

#[test]
fn a_variable_counts_where_it_is_used() {
    let with = |value: &str| {
        keys(&format!(
            "[vars]\nused = '{value}'\nunused = '{value}'\n[[step]]\nrun = 'true'\n\
             [[step]]\nrun = 'echo {{{{ used }}}}'\n[[step]]\nrun = 'echo $IMGBUILD_VAR_used'"
        ))
    };
    let (one, two) = (with("one"), with("two"));
    assert_eq!(differences(&one, &two), [false, false, true, true, true]);
}

/// Which keys are others when these lines are in `[target.proxmox]`: the boot, three steps, the image.
fn changed_on(on: Target, lines: &str) -> [bool; 5] {
    let keys = |text: &str| Keys::new(&plan_on(on, text), &base(), secret, true);
    let text = format!("{STEPS}[machine]\nfirmware = 'uefi'\n");
    differences(&keys(&text), &keys(&format!("{text}{lines}")))
}

const ALL: [bool; 5] = [true; 5];

#[test]
fn what_a_guest_on_a_node_can_notice_changes_all_keys() {
    for line in [
        "cpu = 'x86-64-v2-AES'",
        "machine = 'i440fx'",
        "secure-boot = true",
        "scsi-controller = 'virtio-scsi-pci'",
        "vga = 'serial0'",
        "rng = true",
        "numa = true",
    ] {
        let lines = format!("[target.proxmox]\n{line}");
        assert_eq!(changed_on(Target::Proxmox, &lines), ALL, "{line}");
    }
    assert_eq!(changed_on(Target::Proxmox, "tpm = true"), ALL);
}

#[test]
fn what_only_the_template_has_changes_no_layer() {
    for line in [
        "vmid = 9000",
        "pool = 'templates'",
        "tags = ['debian']",
        "storage = 'fast'",
        "bridge = 'vmbr1'",
        "disks = [{ size = '1GiB' }]",
        "networks = [{ vlan = 20 }]",
        "hostpci = [{ mapping = 'gpu' }]",
        "serial = false",
        "balloon = 0",
        "on-boot = true",
        "start-order = 1",
        "cloud-init-drive = false",
        "helper = false",
    ] {
        let lines = format!("[target.proxmox]\n{line}");
        let changed = changed_on(Target::Proxmox, &lines);
        assert_eq!(changed, [false, false, false, false, true], "{line}");
    }
}

#[test]
fn a_build_on_this_machine_does_not_look_at_what_is_for_a_node() {
    let lines = "tpm = true\n[target.proxmox]\ncpu = 'x86-64-v2-AES'\nvmid = 9000\ndisks = [{ size = '1GiB' }]";
    assert_eq!(changed_on(Target::Qemu, lines), NONE);
    assert_eq!(changed_on(Target::Proxmox, lines), ALL);
}
