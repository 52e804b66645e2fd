//! Versions on a node without their builds: what these would leave, there and here.

use serde_json::json;

use super::node::Node;
use super::server::sha256;

/// The id of the build of a version.
pub fn build(number: u32) -> String {
    format!("20261125-{number:06}-0a0b")
}

/// The id of a version's template.
pub fn vmid(number: u32) -> u32 {
    9000 + number
}

/// The id of the copy of a version's template.
pub fn copy(number: u32) -> u32 {
    9020 + number
}

/// The tags of a version's template that never change.
pub fn fixed(number: u32) -> String {
    format!(
        "imgbuild;imgbuild-template;imgbuild-{};web;v{number}",
        build(number)
    )
}

impl Node {
    /// Versions 1 to `count` of the image `web`, with templates of the ids 9001 and so on.
    pub fn has_versions(&self, count: u32) {
        for number in 1..=count {
            self.has_version(number, "pve", &[]);
        }
        self.is_registered();
    }

    /// Such a version on a node, with a copy on each of `others`, of which there is one at most.
    pub fn has_version(&self, number: u32, on: &str, others: &[&str]) {
        let (name, tags) = (format!("web-{number}"), fixed(number));
        self.has_tagged_on(on, vmid(number), &name, &tags);
        let of_copy = format!("{tags};imgbuild-replica");
        for other in others {
            self.has_tagged_on(other, copy(number), &name, &of_copy);
        }
        self.has_record(number, on, others);
    }

    /// Makes the registry know these versions.
    pub fn is_registered(&self) {
        let folder = self.lab.path("out/lab");
        let rebuild = ["registry", "rebuild", folder.to_str().unwrap()];
        self.imgbuild(&rebuild).with_code(0);
    }

    /// Makes a template with a disk and tags, past imgbuild.
    pub fn has_tagged(&self, vmid: u32, name: &str, tags: &str) {
        self.has_tagged_on("pve", vmid, name, tags);
    }

    /// The same on another node.
    pub fn has_tagged_on(&self, on: &str, vmid: u32, name: &str, tags: &str) {
        let (id, name, tags) = (
            format!("vmid={vmid}"),
            format!("name={name}"),
            format!("tags={tags}"),
        );
        let fields = [
            "-d",
            &id,
            "-d",
            &name,
            "-d",
            "scsi0=local:1",
            "--data-urlencode",
            &tags,
        ];
        self.curl_on(on, "qemu", &fields);
        self.curl_on(on, &format!("qemu/{vmid}/template"), &["-X", "POST"]);
    }

    /// Clones a template, past imgbuild.
    pub fn has_clone(&self, of: u32, vmid: u32, name: &str) {
        let (newid, name) = (format!("newid={vmid}"), format!("name={name}"));
        let fields = ["-d", &newid, "-d", "full=0", "-d", &name];
        self.curl(&format!("qemu/{of}/clone"), &fields);
    }

    /// Changes a machine's configuration, past imgbuild.
    pub fn configure(&self, vmid: u32, option: &str) {
        let fields = ["-X", "PUT", "--data-urlencode", option];
        self.curl(&format!("qemu/{vmid}/config"), &fields);
    }

    /// Removes a machine, past imgbuild.
    pub fn remove_vm(&self, vmid: u32) {
        let path = format!("qemu/{vmid}?purge=1&destroy-unreferenced-disks=1");
        self.curl(&path, &["-X", "DELETE"]);
    }

    /// The files that a build of the version leaves in the lab.
    fn has_record(&self, number: u32, on: &str, others: &[&str]) {
        let others = others.iter();
        let replicas = others.map(|node| json!({"node": node, "vmid": copy(number)}));
        let template = json!({
            "schema": 1, "target": "lab", "endpoint": format!("{}/", self.server.url()), "node": on,
            "storage": "local", "vmid": vmid(number), "name": format!("web-{number}"), "build": build(number),
            "disk": "0".repeat(64), "size": 1u64 << 30, "replicas": replicas.collect::<Vec<_>>(),
        });
        let template = template.to_string();
        let record = json!({
            "image": {"name": "web", "target": "lab", "version": number, "label": null},
            "build": {
                "id": build(number), "started": "2026-11-25T08:00:00Z",
                "finished": format!("2026-11-25T08:{number:02}:00Z"),
            },
            "source": {"origin": "o", "sha256": "s", "version": null},
            "steps": [],
            "artifact": {"format": "template", "size": template.len(), "sha256": sha256(template.as_bytes())},
        });
        let path = format!("out/lab/web-{number}.template");
        self.lab.write(&path, template);
        self.lab
            .write(&format!("{path}.build.json"), record.to_string());
    }

    /// What the node says of a machine in one line, without its id; none if it is not there.
    pub fn machine(&self, vmid: u32) -> Option<String> {
        let start = format!("{vmid} ");
        let vms = self.server.inventory().vms;
        let found = vms.iter().find_map(|line| line.strip_prefix(&start));
        found.map(str::to_owned)
    }

    /// The methods and paths of all requests since `before` of them.
    pub fn requests_since(&self, before: usize) -> Vec<String> {
        let requests = self.server.requests();
        let new = requests.iter().skip(before);
        new.map(|request| format!("{} {}", request.method, request.path))
            .collect()
    }
}
