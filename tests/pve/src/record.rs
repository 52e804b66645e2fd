//! What tests read of a server: its calls, its tasks, and what it has.

use std::time::Instant;

/// One call. It has no header and no body: they hold secrets.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Below `/api2/json`, without the query.
    pub path: String,
    /// Which connection it came on, counted from 1.
    pub connection: u64,
    /// None for a connection that was dropped without an answer, and for a call that is under way.
    pub status: Option<u16>,
    pub began: Instant,
    /// When the answer was handed to the connection.
    pub ended: Option<Instant>,
    /// Bytes of the call's body that were read.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// Whether a fault that was injected had a part in it.
    pub fault: bool,
}

/// One task.
#[derive(Clone, Debug)]
pub struct TaskRecord {
    pub upid: String,
    /// `qmcreate` and the like.
    pub kind: String,
    pub began: Instant,
    /// None while it runs.
    pub ended: Option<Instant>,
    /// `OK`, `WARNINGS: 1`, or the error.
    pub exit: Option<String>,
}

/// All that there is now. Two of them are equal if nothing was left or lost in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// `100 name [tags]`, and ` template`, ` running`, ` lock=clone` where it is so.
    pub vms: Vec<String>,
    /// Volume ids and sizes in bytes.
    pub volumes: Vec<(String, u64)>,
    /// Files in the folders of the storages and of uploads under way that are no volumes.
    pub strays: Vec<String>,
    /// UPIDs of tasks that run.
    pub running: Vec<String>,
    /// VMs whose lock is held.
    pub locked: Vec<u32>,
}
