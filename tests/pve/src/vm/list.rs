//! Calls that list VMs and tell how they are.

use serde_json::{Value, json};

use crate::context::Context;
use crate::reply::Reply;
use crate::vm::Vm;
use crate::vm::disk::{self, Drive};

/// `GET /nodes/{node}/qemu`: those that the caller may see, which may be none.
pub async fn list(context: Context) -> Reply {
    let here: Vec<(u32, Value)> = {
        let world = context.cluster.world();
        let vms = world.vms.iter().filter(|(_, vm)| vm.node == context.node());
        vms.map(|(&vmid, vm)| (vmid, vm.listed(vmid))).collect()
    };
    let seen = here
        .into_iter()
        .filter(|(vmid, _)| context.may(&format!("/vms/{vmid}"), &["VM.Audit"]));
    let shown: Vec<Value> = seen.map(|(_, vm)| vm).collect();
    Ok(json!(shown).into())
}

/// `GET …/status/current`
pub async fn current(context: Context) -> Reply {
    let vmid = context.params.vmid();
    let mut world = context.cluster.world();
    let vm = world.vm(context.node(), vmid)?;
    let mut shown = vm.listed(vmid);
    shown["qmpstatus"] = shown["status"].clone();
    shown["ha"] = json!({"managed": 0});
    if crate::machine::has_agent(&vm.config) {
        shown["agent"] = json!(1);
    }
    Ok(shown.into())
}

impl Vm {
    /// Bytes of the disk that it boots from; 0 if it has none. (PVE::QemuServer::vmstatus in qemu-server.)
    fn disk(&self) -> u64 {
        let drive = self.config.get("scsi0").map(|value| Drive::parse(value));
        let size = drive.and_then(|drive| disk::bytes(drive.get("size")?, 1));
        size.unwrap_or(0)
    }

    /// As the cluster lists it.
    pub fn resource(&self, vmid: u32) -> Value {
        let mut shown = self.listed(vmid);
        shown["id"] = json!(format!("qemu/{vmid}"));
        shown["type"] = json!("qemu");
        shown["node"] = json!(self.node);
        shown["template"] = json!(u8::from(self.is_template()));
        let fields = shown.as_object_mut();
        let cpus = fields.and_then(|fields| fields.remove("cpus"));
        shown["maxcpu"] = json!(cpus);
        shown
    }

    /// As it stands in a list.
    pub fn listed(&self, vmid: u32) -> Value {
        let status = if self.is_running() {
            "running"
        } else {
            "stopped"
        };
        let cpus = self
            .config
            .get("cores")
            .and_then(|cores| cores.parse::<u32>().ok());
        let mut shown = json!({
            "vmid": vmid, "name": self.name(vmid), "status": status, "maxmem": self.memory(),
            "cpus": cpus.unwrap_or(1), "maxdisk": self.disk(), "uptime": self.since.map_or(0, |since| since.elapsed().as_secs()),
        });
        for key in ["tags", "lock"] {
            if let Some(value) = self.config.get(key) {
                shown[key] = json!(value);
            }
        }
        if self.is_template() {
            shown["template"] = json!(1);
        }
        if let Some(machine) = &self.machine {
            shown["pid"] = json!(machine.pid);
        }
        shown
    }
}
