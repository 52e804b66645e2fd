//! The disk of a template on a Proxmox VE node, read in a helper guest.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::lab;
use crate::lab::Image;
use crate::lab::node::{Node, plain_hardware};
use imgbuild::backend::proxmox::machine::inspect::Inspector;
use imgbuild::backend::proxmox::machine::{Door, Lease, Origin as Source, Start, Whereabouts};
use imgbuild::backend::proxmox::{Proxmox, StoredImage};
use imgbuild::backend::{Accel, Firmware, Spec};
use imgbuild::disk::Origin;
use imgbuild::error::{Error, Result};
use imgbuild::project::Project;
use imgbuild::run::events::{Event, Observer};
use imgbuild::run::{Run, interrupt};
use imgbuild::seal::{self, Evidence};
use imgbuild::seed::{self, Announce, Extra, Identity, Stages};
use imgbuild::source::Format;
use imgbuild::store::Dirs;
use pve_lab::{SECRET, Setup, TOKEN};

const TEMPLATE: u32 = 8000;
const HELPER: u32 = 9000;

/// Who the helper's user is.
const USER: &str = "builder";

/// Under emulation, with other machines beside it.
const PATIENCE: Duration = Duration::from_secs(300);

struct Silent;

impl Observer for Silent {
    fn observe(&self, _: &Event) {}
}

/// A client as a build has it, whose login a clean-up can make again.
async fn client(node: &Node) -> Proxmox {
    let token = node.lab.write("token", format!("{TOKEN}={SECRET}"));
    let project = node.lab.path("imgbuild.toml");
    let text = std::fs::read_to_string(&project).unwrap();
    let file = format!("token = {{ file = \"{}\" }}", token.display());
    let text = text.replace(
        &format!("token = {{ env = \"{}\" }}", lab::node::VARIABLE),
        &file,
    );
    node.lab.write("imgbuild.toml", text);
    let target = Project::read(&project).unwrap().target("lab").unwrap();
    target.connect().await.unwrap()
}

fn dirs(node: &Node) -> Dirs {
    let folder = |name: &str| node.lab.home().join(name);
    Dirs {
        cache: folder("cache"),
        state: folder("state"),
        config: folder("config"),
        shared: None,
        libvirt: vec![],
    }
}

/// A helper that has the same image as its own disk, file system names and all.
async fn helper<'m>(server: &'m Proxmox, run: &'m Run, image: &Path) -> Result<Inspector<'m>> {
    let spec = Spec {
        cpus: 1,
        memory: 256 << 20,
        firmware: Firmware::Bios,
        accel: Accel::Auto,
        ssh_port: 2222,
    };
    let image = StoredImage {
        volume: "local:import/base.qcow2".into(),
        digest: "0a".into(),
        size: std::fs::metadata(image).unwrap().len(),
    };
    let identity = Identity::generate("helper-1", "helper")?;
    let start = Start {
        spec: &spec,
        hardware: &plain_hardware(),
        origin: Source::Template(TEMPLATE),
        disk: None,
        seed: &seed::build(
            &identity,
            USER,
            &Extra::default(),
            Stages::Needed,
            Announce::Not,
        )?,
        lease: Lease::new(&run.id, Duration::from_secs(3600))?,
        description: "of a test",
    };
    let door = Door {
        user: USER,
        client_key: &identity.client_key,
        host_key: identity.host_key.public_key(),
        port: 2222,
        whereabouts: Whereabouts::Agent,
        id: &identity.instance_id,
        known: vec![],
    };
    Inspector::start(server, (TEMPLATE, &image), start, (&door, PATIENCE), run).await
}

/// The image as what a guest sees.
fn raw(node: &Node, image: &Path) -> PathBuf {
    let raw = node.lab.path("disk.raw");
    let made = Command::new("qemu-img")
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .args([image, &raw])
        .status();
    assert!(made.unwrap().success());
    raw
}

fn sha256sum(file: &Path) -> String {
    let said = Command::new("sha256sum").arg(file).output().unwrap().stdout;
    String::from_utf8(said).unwrap()[..64].to_owned()
}

/// What an audit finds on a disk, and on how many files.
async fn audited(disk: &Origin) -> Result<(Vec<String>, usize)> {
    let plan = seal::Plan {
        builder: USER.into(),
        builder_uid: seed::BUILDER_UID,
        client_key: "AAAAclient".into(),
        keep: [].into(),
    };
    let evidence = Evidence {
        host_key: "AAAAhost".into(),
        instance_id: "i-of-nobody".into(),
    };
    let report = seal::audit(disk, &plan, &evidence).await?;
    let findings = report.findings.iter().map(|found| found.path.clone());
    Ok((findings.collect(), report.files))
}

fn touch(disk: &Origin, offset: u64) -> impl Future<Output = Result<u8>> {
    disk.read("touch", "touching the disk", move |disk| {
        let mut byte = [0];
        let read = disk.read_at(offset, &mut byte);
        read.map_err(|error| Error::new("touching the disk").cause(error))?;
        Ok(byte[0])
    })
}

#[test]
fn a_template_s_disk_is_read_as_it_is_and_left_as_it_was() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let image = Image::Tiny.path();
        let node = Node::whole("pve inspect", Setup::new(), "9000-9001");
        node.put("base.qcow2", &std::fs::read(&image).unwrap());
        node.has_template(TEMPLATE, "local:import/base.qcow2");
        let before = node.server.inventory();
        let server = client(&node).await;
        let (_announcer, interrupt) = interrupt::channel();
        let run = Run::start("inspect", &dirs(&node), &interrupt, Arc::new(Silent)).unwrap();

        let inspector = helper(&server, &run, &image).await.unwrap();
        let here = Origin::File {
            path: image.clone(),
            format: Format::Qcow2,
        };
        let reader = inspector.reader().await.unwrap();
        let size = reader.size();
        let (there, digest) = reader.read(&run, audited).await.unwrap();
        assert_eq!(there, audited(&here).await.unwrap());
        let raw = raw(&node, &image);
        assert_eq!(digest, sha256sum(&raw));
        assert_eq!(size, std::fs::metadata(&raw).unwrap().len());

        // The helper is gone in the middle of it.
        let reader = inspector.reader().await.unwrap();
        let cut = reader.read(&run, async |disk| {
            touch(disk, 0).await?;
            node.stop_vm(HELPER);
            touch(disk, size - 1).await
        });
        let error = cut.await.unwrap_err().to_string();
        assert!(
            error.contains("the disk of the template 8000 in a guest"),
            "{error}"
        );

        inspector.remove().await.unwrap();
        assert_eq!(node.server.inventory(), before);
        assert!(run.tear_down().await.is_empty());
        drop(run);
        node.lab.assert_nothing_left();
    });
}
