//! Everything that needs virtual machines, in one program: so many at a time as `--test-threads` says, whichever test they
//! belong to. Tests start in the order of their names.

mod build;
mod bundles;
mod coder_workspace;
mod debian;
mod faults;
mod interrupt;
#[path = "../lab/mod.rs"]
mod lab;
mod language;
mod layers;
mod node_build;
mod node_cluster;
mod node_inside;
mod node_inspect;
mod node_machine;
mod node_source;
mod steps_cut;
