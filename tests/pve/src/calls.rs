//! The table of calls: what each takes, whom it is for, and what answers it.

use std::pin::Pin;

use crate::context::Context;
use crate::params::Param;
use crate::reply::Reply;
#[allow(clippy::wildcard_imports)] // the vocabulary of the table
use crate::schema::*;
use crate::vm::{
    agent, change, clone, config, console, create, life, list, migrate, remove, resize, template,
};
use crate::{incoming, info, pool, task, volumes};

/// One row.
pub struct Call {
    pub method: &'static str,
    /// Below `/api2/json`.
    pub path: &'static str,
    pub params: &'static [&'static [Param]],
    pub needs: Needs,
    pub handler: fn(Context) -> Pin<Box<dyn Future<Output = Reply> + Send>>,
}

/// What is looked at before the parameters are.
pub enum Needs {
    /// Not even to be known.
    Nothing,
    /// To be known; the handler looks closer.
    Name,
    /// One of the privileges at the path.
    One(&'static str, &'static [&'static str]),
    /// On 8.x `VM.Monitor` on the VM, later this one or `VM.GuestAgent.Unrestricted`.
    Agent(&'static str),
}

use Needs::{Agent, Name, Nothing, One};

const POOL_OF: Needs = One("/pool/{poolid}", &["Pool.Allocate"]);
const READ_STORE: Needs = One(
    "/storage/{storage}",
    &["Datastore.Audit", "Datastore.AllocateSpace"],
);
const FILL_STORE: Needs = One("/storage/{storage}", &["Datastore.AllocateTemplate"]);
const SPACE: Needs = One("/storage/{storage}", &["Datastore.AllocateSpace"]);
const NODE: Needs = One("/nodes/{node}", &["Sys.Audit"]);
const FETCH: Needs = One("/nodes/{node}", &["Sys.AccessNetwork"]);
const AUDIT: Needs = One("/vms/{vmid}", &["VM.Audit"]);
const ALLOCATE_VM: Needs = One("/vms/{vmid}", &["VM.Allocate"]);
const CLONE_VM: Needs = One("/vms/{vmid}", &["VM.Clone"]);
const MIGRATE_VM: Needs = One("/vms/{vmid}", &["VM.Migrate"]);
const DISK: Needs = One("/vms/{vmid}", &["VM.Config.Disk"]);
const POWER: Needs = One("/vms/{vmid}", &["VM.PowerMgmt"]);
const CONSOLE: Needs = One("/vms/{vmid}", &["VM.Console"]);
const ASK: Needs = Agent("VM.GuestAgent.Audit");
const DO: Needs = Agent("VM.GuestAgent.Unrestricted");

macro_rules! call {
    ($method:literal, $path:literal, [$($params:ident),*], $needs:expr, $handler:path) => {
        Call {
            method: $method,
            path: $path,
            params: &[$($params),*],
            needs: $needs,
            handler: |context| Box::pin($handler(context)),
        }
    };
}

/// All calls.
#[rustfmt::skip]
pub static CALLS: &[Call] = &[
    call!("GET", "/version", [], Name, info::version),
    call!("POST", "/access/ticket", [LOGIN], Nothing, info::ticket),
    call!("GET", "/access/permissions", [PERMISSIONS], Name, info::permissions),
    call!("GET", "/nodes", [], Name, info::nodes),
    call!("GET", "/nodes/{node}/status", [ON_NODE], NODE, info::node_status),
    call!("GET", "/nodes/{node}/network", [ON_NODE, NETWORK], Name, info::network),
    call!("GET", "/cluster/nextid", [NEXT_ID], Name, info::next_id),
    call!("GET", "/cluster/resources", [RESOURCES], Name, info::resources),

    call!("GET", "/pools", [POOL], Name, pool::list),
    call!("POST", "/pools", [POOL_CREATE], POOL_OF, pool::create),
    call!("PUT", "/pools", [POOL_UPDATE], POOL_OF, pool::update),
    call!("DELETE", "/pools", [POOL], POOL_OF, pool::remove),

    call!("GET", "/nodes/{node}/storage", [ON_NODE, STORAGES], Name, volumes::storages),
    call!("GET", "/nodes/{node}/storage/{storage}/status", [ON_STORE], READ_STORE, volumes::status),
    call!("GET", "/nodes/{node}/storage/{storage}/content", [ON_STORE, CONTENT], READ_STORE, volumes::list),
    call!("POST", "/nodes/{node}/storage/{storage}/content", [ON_STORE, ALLOCATE], SPACE, volumes::allocate),
    call!("GET", "/nodes/{node}/storage/{storage}/content/{volume}", [ON_VOLUME], Name, volumes::show),
    call!("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}", [ON_VOLUME], Name, volumes::remove),
    call!("POST", "/nodes/{node}/storage/{storage}/upload", [ON_STORE, FILE], FILL_STORE, incoming::upload),
    call!("POST", "/nodes/{node}/storage/{storage}/download-url", [ON_STORE, FILE, URL, COMPRESSION], FILL_STORE, incoming::download),
    call!("GET", "/nodes/{node}/query-url-metadata", [ON_NODE, URL], FETCH, incoming::metadata),

    call!("GET", "/nodes/{node}/tasks", [ON_NODE, TASK_FILTER], Name, task::list),
    call!("GET", "/nodes/{node}/tasks/{upid}/status", [ON_TASK], Name, task::status),
    call!("GET", "/nodes/{node}/tasks/{upid}/log", [ON_TASK, LOG], Name, task::log),
    call!("DELETE", "/nodes/{node}/tasks/{upid}", [ON_TASK], Name, task::abort),

    call!("GET", "/nodes/{node}/qemu", [ON_NODE, LIST], Name, list::list),
    call!("POST", "/nodes/{node}/qemu", [ON_VM, OPTIONS, CREATE], Name, create::create),
    call!("DELETE", "/nodes/{node}/qemu/{vmid}", [ON_VM, DESTROY], ALLOCATE_VM, remove::remove),
    call!("GET", "/nodes/{node}/qemu/{vmid}/config", [ON_VM, SHOW_CONFIG], AUDIT, config::show),
    call!("POST", "/nodes/{node}/qemu/{vmid}/config", [ON_VM, OPTIONS, CHANGE, DELAY], Name, change::in_task),
    call!("PUT", "/nodes/{node}/qemu/{vmid}/config", [ON_VM, OPTIONS, CHANGE], Name, change::at_once),
    call!("GET", "/nodes/{node}/qemu/{vmid}/pending", [ON_VM], AUDIT, config::pending),
    call!("PUT", "/nodes/{node}/qemu/{vmid}/resize", [ON_VM, RESIZE], DISK, resize::resize),
    call!("POST", "/nodes/{node}/qemu/{vmid}/clone", [ON_VM, CLONE], CLONE_VM, clone::clone),
    call!("POST", "/nodes/{node}/qemu/{vmid}/migrate", [ON_VM, MIGRATE], MIGRATE_VM, migrate::migrate),
    call!("POST", "/nodes/{node}/qemu/{vmid}/template", [ON_VM, TEMPLATE], ALLOCATE_VM, template::convert),
    call!("GET", "/nodes/{node}/qemu/{vmid}/status/current", [ON_VM], AUDIT, list::current),
    call!("POST", "/nodes/{node}/qemu/{vmid}/status/start", [ON_VM, START], POWER, life::start),
    call!("POST", "/nodes/{node}/qemu/{vmid}/status/stop", [ON_VM, STOP], POWER, life::stop),
    call!("POST", "/nodes/{node}/qemu/{vmid}/status/shutdown", [ON_VM, SHUTDOWN], POWER, life::shutdown),
    call!("POST", "/nodes/{node}/qemu/{vmid}/status/reboot", [ON_VM, REBOOT], POWER, life::reboot),
    call!("POST", "/nodes/{node}/qemu/{vmid}/termproxy", [ON_VM, TERMINAL], CONSOLE, console::open),
    call!("GET", "/nodes/{node}/qemu/{vmid}/vncwebsocket", [ON_VM, WEBSOCKET], CONSOLE, console::verify),
    call!("POST", "/nodes/{node}/qemu/{vmid}/agent/ping", [ON_VM], ASK, agent::ping),
    call!("GET", "/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces", [ON_VM], ASK, agent::interfaces),
    call!("POST", "/nodes/{node}/qemu/{vmid}/agent/exec", [ON_VM, EXEC], DO, agent::exec),
    call!("GET", "/nodes/{node}/qemu/{vmid}/agent/exec-status", [ON_VM, EXEC_STATUS], DO, agent::exec_status),
];
