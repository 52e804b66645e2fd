//! A node on which builds go wrong one after the other, and what was there before.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pve_lab::{Inventory, Request, Setup};

use crate::lab::node::Node;
use crate::lab::versions::list;
use crate::lab::{Ended, Image, Lab};

/// The server's own waits are divided by this: a call that ends with 596 takes a second and a half.
const HURRY: u32 = 20;

/// The same where guests are emulated, which need longer for an answer.
const LESS_HURRY: u32 = 4;

/// How often it is looked whether something has happened.
pub const PACE: Duration = Duration::from_millis(5);

/// What somebody else makes on the node.
const OTHERS: &str = "somebody-elses";

/// What is built again and again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Without layers.
    Plain,
    /// With a layer in the middle, on which the template stood until it got a disk of its own.
    Layered,
    /// Without layers, and with guests in QEMU.
    Real,
}

impl Kind {
    /// Steps that are others each time. A layer is made after one that takes long, compared with a boot.
    fn steps(self, build: u32) -> String {
        let step =
            |name: &str, run: &str| format!("[[step]]\nname = \"{name}\"\nrun = \"{run}\"\n");
        match self {
            Kind::Plain | Kind::Real => step("mark", &format!("true {build}")),
            Kind::Layered => {
                step("long", &format!("sleep 10; true {build}")) + &step("mark", "true")
            }
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Plain => "plain",
            Kind::Layered => "layered",
            Kind::Real => "real",
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Kind::Plain | Kind::Real => &["--no-cache"],
            Kind::Layered => &[],
        }
    }

    fn setup(self) -> Setup {
        match self {
            Kind::Plain | Kind::Layered => Setup::new().sandboxes(Image::Tiny.path()).pace(HURRY),
            Kind::Real => Setup::new().pace(LESS_HURRY),
        }
    }

    /// The machine of the recipe, and what it boots from.
    fn machine(self) -> String {
        match self {
            Kind::Plain | Kind::Layered => {
                "[source]\nfile = \"disk.qcow2\"\n[machine]\ncpus = 1\nmemory = \"64M\"\ndisk = \"64M\"\n\
                 [ssh]\nport = 2222\ntimeout = \"20s\"\n"
                    .to_owned()
            }
            Kind::Real => format!(
                "[source]\nfile = \"{}\"\n[machine]\ncpus = 1\nmemory = \"{}\"\n\
                 [ssh]\nport = 2222\ntimeout = \"2m\"\n",
                Image::Tiny.path().display(),
                Image::Tiny.memory()
            ),
        }
    }
}

/// A node that has a version of the image already, on which builds go wrong one after the other.
pub struct Place {
    pub node: Node,
    pub kind: Kind,
    before: Inventory,
    versions: Vec<String>,
    /// So many were begun.
    pub builds: u32,
}

impl Place {
    pub fn prepare(name: &str, kind: Kind) -> Self {
        let node = Node::whole(name, kind.setup(), "9000-9099");
        make_disk(&node.lab);
        let before = node.server.inventory();
        let mut place = Place {
            node,
            kind,
            before,
            versions: vec![],
            builds: 0,
        };
        place.build();
        place.remove_others();
        place.before = place.inventory();
        place.versions = list(&place.node.lab);
        // Its number is one more for each try that failed.
        assert_eq!(place.versions.len(), 1, "{:?}", place.versions);
        place
    }

    /// Removes base images, so that the next build brings its own.
    pub fn forget_images(&self) {
        for (file, _) in self.node.images() {
            let path = format!("storage/local/content/local:import/{file}");
            self.node.curl(&path, &["-X", "DELETE"]);
        }
    }

    /// Starts a build of a recipe that is another one each time.
    pub fn start(&mut self) -> Child {
        self.builds += 1;
        let text = format!(
            "[image]\nname = \"web\"\n{}{}[[test]]\nname = \"mark\"\nrun = \"true\"\n",
            self.kind.machine(),
            self.kind.steps(self.builds)
        );
        let recipe = self.node.lab.write("web.toml", text);
        let arguments = ["run", "--target", "lab", recipe.to_str().unwrap()];
        let arguments = [&arguments[..], self.kind.options()].concat();
        let mut command = self.node.command(&arguments);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// What the server has, but for base images, which may stay.
    fn inventory(&self) -> Inventory {
        let mut now = self.node.server.inventory();
        now.volumes.retain(|(id, _)| !id.contains(":import/"));
        now
    }

    /// Builds a version. Where processors are scarce, a sandbox's agent is too late for a server in a hurry now and then.
    pub fn build(&mut self) {
        let built = |_| end(self.start()).code == Some(0);
        assert!((0..3).any(built), "nothing can be built");
    }

    /// Waits for the end of what goes on there without imgbuild.
    fn is_quiet(&self) -> bool {
        let began = Instant::now();
        loop {
            let now = self.inventory();
            if now.running.is_empty() && now.locked.is_empty() && now.strays.is_empty() {
                return true;
            }
            if began.elapsed() > Duration::from_secs(30) {
                return false;
            }
            std::thread::sleep(PACE);
        }
    }

    /// Removes the version that is new, if there is one.
    fn withdraw(&self) -> bool {
        let versions = list(&self.node.lab);
        let new = versions.iter().find(|name| !self.versions.contains(name));
        if let Some(name) = new {
            let rm = ["template", "rm", name];
            self.node.imgbuild(&rm).with_code(0);
        }
        new.is_some()
    }

    /// Removes what may be there: machines of somebody else, and layers, which have their tag when they are whole.
    fn remove_others(&self) {
        for vm in self.inventory().vms {
            let vmid = vm.split(' ').next().unwrap().parse().unwrap();
            let is_layer = vm.contains(";imgbuild-layer;") && vm.ends_with("] template");
            if is_layer || vm.starts_with(&format!("{vmid} {OTHERS}")) {
                self.node.remove_vm(vmid);
            }
        }
    }

    /// Looks whether all is as it was, but for a version, where it is known that there is or is no new one.
    pub fn is_as_it_was(&self, has_new: Option<bool>) -> Result<(), String> {
        if !self.is_quiet() {
            return Err(format!("it does not become quiet: {:#?}", self.inventory()));
        }
        self.node.server.relent();
        let is_new = self.withdraw();
        if has_new.is_some_and(|has_new| has_new != is_new) {
            return Err(format!("a version was published: {is_new}"));
        }
        self.remove_others();
        let now = self.inventory();
        if now != self.before {
            return Err(format!("left or lost: {now:#?}, not {:#?}", self.before));
        }
        let local = catch_unwind(AssertUnwindSafe(|| self.node.lab.assert_nothing_left()));
        local.map_err(|_| "something is left here, see above".into())
    }

    /// The call that a fault has happened to.
    pub fn met(&self, since: usize) -> Option<Request> {
        let requests = self.node.server.requests().into_iter().skip(since);
        requests.into_iter().find(|request| request.fault)
    }

    /// Waits until a fault has happened; false if the build came to its end without it.
    pub fn until_met(&self, since: usize, child: &mut Child) -> bool {
        while self.met(since).is_none() {
            if child.try_wait().unwrap().is_some() {
                return self.met(since).is_some();
            }
            std::thread::sleep(PACE);
        }
        true
    }
}

/// A disk with a root file system in which there is nothing to seal: sandboxes do not boot it, and do not write to it.
fn make_disk(lab: &Lab) {
    for (path, text) in [
        ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
        ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
        ("etc/hostname", "localhost\n"),
        ("etc/machine-id", ""),
    ] {
        lab.write(&format!("root/{path}"), text);
    }
    let raw = lab.path("disk.raw");
    let mut make = Command::new("mke2fs");
    let make = make.args(["-q", "-F", "-t", "ext4", "-d"]);
    let made = make.args([&lab.path("root"), &raw]).arg("4M").output();
    assert!(made.unwrap().status.success());
    let mut convert = Command::new("qemu-img");
    let convert = convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
    let converted = convert.args([&raw, &lab.path("disk.qcow2")]).status();
    assert!(converted.unwrap().success());
}

/// Waits for its end.
pub fn end(child: Child) -> Ended {
    child.wait_with_output().unwrap().into()
}
