//! Copies of a template on other nodes of a Proxmox VE cluster, and what is left when making one goes wrong: nothing.

mod lab;

use std::time::Duration;

use imgbuild::backend::proxmox::machine::{
    Copy, Lease, Machine, Origin, Start, Template, fixed_tags,
};
use imgbuild::backend::proxmox::{Proxmox, StoredImage, Wish};
use imgbuild::backend::{Accel, Firmware, Spec};
use imgbuild::run::interrupt::{self, Announcer};
use imgbuild::run::{Interrupt, Run};
use imgbuild::store::Dirs;
use imgbuild::ui::{self, Format};
use lab::node::{Disk, Node, plain_hardware};
use pve_lab::{Fault, Inventory, Setup, Storage, What};

const MIGRATE: &str = "/nodes/*/qemu/*/migrate";

/// Two nodes without a guest that answers.
struct Scene {
    node: Node,
    image: StoredImage,
    before: Inventory,
    /// The target on both.
    here: Proxmox,
    there: Proxmox,
    interrupt: (Announcer, Interrupt),
}

impl Scene {
    /// A call that the server does not answer is held for 30 s, divided by `pace`.
    async fn prepare(name: &str, pace: u32) -> Self {
        let setup = Setup::new().node("pve2").pace(pace);
        let node = Node::whole(name, setup, "9000-9009");
        let disk = Disk::make(&node.lab, "disk.qcow2", "qcow2");
        node.put(&disk.file, &disk.bytes);
        let here = node.read_target().connect().await.unwrap();
        Scene {
            image: StoredImage {
                volume: format!("local:import/{}", disk.file),
                digest: disk.sha256.clone(),
                size: disk.size(),
            },
            before: node.server.inventory(),
            there: here.on("pve2"),
            here,
            node,
            interrupt: interrupt::channel(),
        }
    }

    fn run(&self) -> Run {
        let dirs = Dirs::under(&self.node.lab.home());
        let observer = ui::observer(Format::Human, false);
        Run::start("web", &dirs, &self.interrupt.1, observer).unwrap()
    }

    /// A template that is not published.
    async fn template<'s>(&'s self, run: &'s Run) -> Template<'s> {
        let spec = Spec {
            cpus: 1,
            memory: 64 << 20,
            firmware: Firmware::Bios,
            accel: Accel::Auto,
            ssh_port: 22,
        };
        let start = Start {
            spec: &spec,
            hardware: &plain_hardware(),
            origin: Origin::Image(&self.image),
            disk: None,
            seed: b"a seed",
            lease: Lease::new(&run.id, Duration::from_secs(3600)).unwrap(),
            description: "",
        };
        let mut machine = Machine::start(&self.here, start, run).await.unwrap();
        machine.power_off(Duration::from_secs(1)).await.unwrap();
        machine.drop_seed().await.unwrap();
        let published = self.node.lab.path("web.template");
        machine
            .into_template(&plain_hardware(), &published)
            .await
            .unwrap()
    }

    fn breaks(&self, what: What) {
        let fault = Fault::on("POST", MIGRATE).with(what);
        self.node.server.inject(fault);
    }

    /// The nodes of the disks of machines, and the machines.
    fn disks(&self) -> (Vec<String>, Vec<String>) {
        let now = self.node.server.inventory();
        let disks = now.volumes.into_iter().map(|(id, _)| id);
        let disks = disks.filter(|id| id.contains("-disk-"));
        let nodes = disks.filter_map(|id| Some(id.split_once('/')?.0.to_owned()));
        (nodes.collect(), now.vms)
    }

    /// Removes what the build has left, of which there must be nothing then.
    async fn tear_down(&self, run: Run) {
        let remaining = run.tear_down().await;
        let told: Vec<_> = remaining.iter().map(|(_, why)| why.to_string()).collect();
        assert_eq!(told, Vec::<String>::new());
        drop(run);
        self.assert_nothing_left();
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        assert_eq!(self.node.server.inventory(), self.before);
        self.node.lab.assert_nothing_left();
    }

    /// Leaves everything as SIGKILL would, in the middle of a copy, as soon as `now`. Then removes it.
    async fn killed(&self, template: Template<'_>, now: impl Fn() -> bool) {
        let hardware = plain_hardware();
        let is_time = async {
            while !now() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = template.copy_to(&self.there, &hardware) => panic!("it ended"),
            () = is_time => {}
        }
    }

    fn reap(&self) {
        self.node.lab.imgbuild(&["gc"]).with_code(0);
        lab::until("a task runs for ever", || {
            self.node.server.inventory().running.is_empty()
        });
        self.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_copy_is_a_template_of_the_same_build_and_goes_with_it_unless_it_is_published() {
    let scene = Scene::prepare("pve replica", 100).await;
    let run = scene.run();
    let template = scene.template(&run).await;
    let copy = template
        .copy_to(&scene.there, &plain_hardware())
        .await
        .unwrap();
    assert_eq!((copy.node(), template.node()), ("pve2", "pve"));
    let (nodes, vms) = scene.disks();
    assert_eq!(nodes, ["pve", "pve2"]);
    for vm in &vms {
        assert!(
            vm.contains(&format!("[imgbuild;imgbuild-{}", run.id)),
            "{vm}"
        );
        assert!(vm.ends_with(" template"), "{vm}");
    }
    scene.tear_down(run).await;
}

#[tokio::test]
async fn a_published_copy_stays() {
    let scene = Scene::prepare("pve published replica", 100).await;
    let run = scene.run();
    let template = scene.template(&run).await;
    template
        .copy_to(&scene.there, &plain_hardware())
        .await
        .unwrap();
    scene.node.lab.write("web.template", "");
    assert!(run.tear_down().await.is_empty());
    assert_eq!(scene.disks().0, ["pve", "pve2"]);
}

#[tokio::test]
async fn a_copy_under_a_fixed_id_has_the_tags_of_the_version_and_no_channel() {
    let scene = Scene::prepare("pve fixed copy", 100).await;
    let run = scene.run();
    let template = scene.template(&run).await;
    let tags = fixed_tags(&run.id, "web", 1, None);
    let tagged = format!("tags={};stable;mine", tags.join(";"));
    scene.node.configure(template.vmid, &tagged);
    let copy = Copy {
        vmid: 9009,
        image: "web",
        source: template.vmid,
        tags: [tags, vec!["debian".into()]].concat(),
        hardware: &plain_hardware(),
    };
    scene.here.replace_copy(&copy, &run.id, &run).await.unwrap();
    let told = scene.node.machine(9009).unwrap();
    let (_, tags) = told.split_once(" [").unwrap();
    let mut tags: Vec<_> = tags.trim_end_matches("] template").split(';').collect();
    tags.sort_unstable();
    let build = format!("imgbuild-{}", run.id);
    assert_eq!(
        tags,
        ["debian", "imgbuild", &build, "imgbuild-copy", "v1", "web"]
    );
}

#[tokio::test]
async fn an_answer_that_is_lost_is_no_lost_copy() {
    for what in [What::CutAnswer, What::GatewayTimeout, What::CutCall] {
        let scene = Scene::prepare(&format!("pve replica, {what:?}"), 100).await;
        scene.breaks(what);
        let run = scene.run();
        let template = scene.template(&run).await;
        template
            .copy_to(&scene.there, &plain_hardware())
            .await
            .unwrap();
        assert_eq!(scene.disks().0, ["pve", "pve2"]);
        scene.tear_down(run).await;
    }
}

#[tokio::test]
async fn what_is_left_of_a_copy_that_fails_is_removed_from_both_nodes() {
    let error = |text: &str| What::TaskError {
        message: text.into(),
    };
    let no_privilege = What::Forbidden {
        path: "/vms/9001".into(),
        privilege: "VM.Migrate".into(),
    };
    for (what, told) in [
        (error("no luck"), "failed: no luck"),
        (What::StorageFull, "No space left on device"),
        (
            no_privilege,
            "the privilege VM.Migrate on /vms/9001 is missing",
        ),
    ] {
        let scene = Scene::prepare(&format!("pve replica, {what:?}"), 100).await;
        scene.breaks(what);
        let run = scene.run();
        let template = scene.template(&run).await;
        let Err(failed) = template.copy_to(&scene.there, &plain_hardware()).await else {
            panic!("it went well");
        };
        assert!(failed.to_string().contains(told), "{failed}");
        scene.tear_down(run).await;
    }
}

#[tokio::test]
async fn a_node_that_goes_off_keeps_no_one_from_cleaning_up_the_others() {
    let scene = Scene::prepare("pve replica, off", 100).await;
    let run = scene.run();
    let template = scene.template(&run).await;
    scene.node.server.power("pve2", false);
    let failed = template
        .copy_to(&scene.there, &plain_hardware())
        .await
        .err()
        .unwrap();
    assert!(failed.to_string().contains("Can't connect"), "{failed}");
    assert!(run.tear_down().await.is_empty());
    assert_eq!(scene.disks().1, Vec::<String>::new());
    scene.node.server.power("pve2", true);
    drop(run);
    scene.assert_nothing_left();
}

#[tokio::test]
async fn what_is_on_a_node_that_is_off_is_told_and_removed_when_it_is_back() {
    let scene = Scene::prepare("pve replica, off later", 1000).await;
    let run = scene.run();
    let template = scene.template(&run).await;
    template
        .copy_to(&scene.there, &plain_hardware())
        .await
        .unwrap();
    scene.node.server.power("pve2", false);
    let remaining = run.tear_down().await;
    assert_eq!(remaining.len(), 1);
    let told = remaining[0].1.to_string();
    assert!(told.contains("it is on pve2, which is offline"), "{told}");
    drop(run);
    scene.node.server.power("pve2", true);
    scene.reap();
}

#[tokio::test]
async fn a_kill_in_the_middle_of_moving_leaves_nothing_that_gc_does_not_find() {
    let scene = Scene::prepare("pve replica, killed", 100).await;
    scene.breaks(What::TaskHangs);
    let run = scene.run();
    let template = scene.template(&run).await;
    let is_moving = || scene.node.lab.is_journaled(":qmigrate:");
    scene.killed(template, is_moving).await;
    drop(run);
    assert_eq!(scene.node.server.inventory().running.len(), 1);
    scene.reap();
}

#[tokio::test]
async fn a_kill_before_the_task_is_known_leaves_nothing_either() {
    // Held for ten seconds, in which it has moved.
    let scene = Scene::prepare("pve replica, killed early", 3).await;
    scene.breaks(What::GatewayTimeout);
    let run = scene.run();
    let template = scene.template(&run).await;
    let has_moved = || scene.disks().0 == ["pve", "pve2"];
    scene.killed(template, has_moved).await;
    assert!(!scene.node.lab.is_journaled(":qmigrate:"));
    drop(run);
    scene.reap();
}

#[tokio::test]
async fn a_machine_that_somebody_moved_is_found_where_it_is() {
    let scene = Scene::prepare("pve moved", 100).await;
    let run = scene.run();
    scene.template(&run).await;
    scene.node.curl("qemu/9000/migrate", &["-d", "target=pve2"]);
    assert_eq!(scene.disks().0, ["pve2"]);
    scene.tear_down(run).await;
}

#[tokio::test]
async fn nodes_that_see_the_same_disks_get_no_copy() {
    let setup = Setup::new()
        .node("pve2")
        .node("pve3")
        .storage(Storage::new("disks").holding(&["images"]).shared());
    let node = Node::start("pve replica shared", setup);
    let connect = async |images: &str| {
        node.target(&format!(
            "node = \"pve\"\nreplicate = [\"pve2\", \"pve3\"]\n\
             storages = {{ import = \"local\", iso = \"local\", images = \"{images}\" }}\n"
        ));
        node.read_target().connect().await.unwrap()
    };
    let told = std::cell::RefCell::new(vec![]);
    let tell = |text: &str| told.borrow_mut().push(text.to_owned());
    let shared = connect("disks").await;
    assert_eq!(
        shared
            .for_replicas(&Wish::default(), tell)
            .await
            .unwrap()
            .len(),
        0
    );
    assert_eq!(
        told.take(),
        ["pve2", "pve3"].map(|node| format!("{node} sees the disks in disks, so it gets no copy"))
    );
    let local = connect("local").await;
    let copies = local.for_replicas(&Wish::default(), tell).await.unwrap();
    let names = copies.iter().map(|copy| copy.target.node.as_str());
    assert_eq!(names.collect::<Vec<_>>(), ["pve2", "pve3"]);
    node.server.power("pve3", false);
    let failed = local
        .for_replicas(&Wish::default(), tell)
        .await
        .err()
        .unwrap();
    assert_eq!(
        failed.to_string(),
        "looking whether templates can be copied to pve3: it is offline"
    );
}
