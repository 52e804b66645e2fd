//! Images that are taken as they are. No machine is needed to see it.

mod lab;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lab::Lab;
use lab::server::sha256;

fn qemu_img(arguments: &[&str], paths: &[&Path]) {
    let mut command = Command::new("qemu-img");
    let done = command.args(arguments).args(paths).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

/// A disk with something here and there, as qcow2 and as raw. There is nothing that an audit could read.
fn disk(lab: &Lab, mebibytes: usize) {
    let mut part = vec![0; 1 << 20];
    for (at, byte) in part.iter_mut().enumerate().step_by(1021) {
        *byte = (at % 251) as u8;
    }
    let mut bytes = part.repeat(mebibytes);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let raw = lab.write("disk.raw", bytes);
    let convert = ["convert", "-f", "raw", "-O", "qcow2"];
    qemu_img(&convert, &[&raw, &lab.path("disk.qcow2")]);
}

fn recipe(lab: &Lab, name: &str, rest: &str) -> String {
    let text = format!("[image]\nname = \"{name}\"\n[source]\nimport = true\n{rest}");
    let path = lab.write(&format!("{name}.toml"), text);
    path.to_str().unwrap().to_owned()
}

#[test]
fn an_image_is_imported_as_it_is_and_the_record_says_so() {
    let lab = Lab::new("import");
    disk(&lab, 64);
    let recipe = recipe(&lab, "windows", "file = \"disk.qcow2\"\n");
    lab.imgbuild(&["run", &recipe])
        .with_code(0)
        .saying("imported as it is: not sealed, audited or tested")
        .not_saying("emulation");
    let image = lab.artifact("windows");
    let compare = ["compare", "-f", "qcow2", "-F", "raw"];
    qemu_img(&compare, &[&image, &lab.path("disk.raw")]);

    let record = lab.record("windows");
    let published = std::fs::read(&image).unwrap();
    assert_eq!(record["artifact"]["sha256"], sha256(&published));
    let source = std::fs::read(lab.path("disk.qcow2")).unwrap();
    assert_eq!(record["source"]["sha256"], sha256(&source));
    assert_eq!(record["source"]["verified"]["by"], "unverified");
    assert_eq!(record["sealed"], false);
    assert_eq!(record["tests"], serde_json::json!([]));
    for unknown in ["/audit", "/machine", "/tools/qemu-system"] {
        assert!(record.pointer(unknown).unwrap().is_null(), "{unknown}");
    }
    lab.assert_nothing_left();
}

#[test]
fn from_raw_to_raw_not_a_byte_is_changed() {
    let lab = Lab::new("import raw");
    disk(&lab, 64);
    let digest = sha256(&std::fs::read(lab.path("disk.raw")).unwrap());
    let rest = format!("file = \"disk.raw\"\nsha256 = \"{digest}\"\n[output]\nformat = \"raw\"\n");
    let recipe = recipe(&lab, "same", &rest);
    lab.imgbuild(&["run", &recipe]).with_code(0);
    let record = lab.record_of("out/same.raw");
    assert_eq!(record["artifact"]["sha256"], digest);
    assert_eq!(record["source"]["verified"]["by"], "digest");
    lab.assert_nothing_left();
}

#[test]
fn an_image_that_is_not_the_one_that_was_meant_is_not_imported() {
    let lab = Lab::new("import another");
    disk(&lab, 64);
    let rest = format!("file = \"disk.raw\"\nsha256 = \"{}\"\n", "0".repeat(64));
    let recipe = recipe(&lab, "other", &rest);
    lab.imgbuild(&["run", &recipe]).with_code(6);
    assert!(!lab.artifact("other").exists());
    lab.assert_nothing_left();
}

#[test]
fn the_plan_says_that_there_is_no_machine() {
    let lab = Lab::new("import plan");
    disk(&lab, 64);
    let recipe = recipe(&lab, "windows", "file = \"disk.qcow2\"\n");
    let plan = lab.imgbuild(&["plan", &recipe]).with_code(0);
    let machine = "machine   none: imported as it is, not sealed, audited or tested\n";
    assert!(plan.stdout.contains(machine), "{}", plan.stdout);
}

/// Waits until qemu-img has made the image that it converts to.
fn unfinished(lab: &Lab) {
    let partial = || {
        let out = std::fs::read_dir(lab.path("out")).into_iter().flatten();
        let mut names = out.map(|entry| entry.unwrap().file_name());
        names.any(|name| name.to_string_lossy().ends_with(".partial"))
    };
    let began = Instant::now();
    while !partial() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never began");
        // Nothing tells of it; often enough to be before the end.
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_import_that_is_cut_off_leaves_nothing() {
    for phase in ["source", "convert"] {
        for (signal, code) in [("INT", 130), ("KILL", 137)] {
            let lab = Lab::new(&format!("import, {signal} at {phase}"));
            // Large enough for a phase to take longer than a signal.
            disk(&lab, 256);
            let recipe = recipe(&lab, "cut", "file = \"disk.qcow2\"\n");
            let mut run = lab.watch(&[&recipe]);
            run.until_phase(phase);
            if phase == "convert" {
                unfinished(&lab);
            }
            run.signal(signal);
            run.end().with_code(code);
            lab.until_dead();
            assert!(!lab.artifact("cut").exists(), "{signal} at {phase}");
            lab.imgbuild(&["gc"]).with_code(0);
            lab.assert_nothing_left();
        }
    }
}
