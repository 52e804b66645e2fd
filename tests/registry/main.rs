//! Versions, channels and rollback, by the real binary. Images are imported: no machine is needed to have versions.

mod bases;
#[path = "../lab/mod.rs"]
mod lab;
mod names;
mod rebuild;
mod removal;
mod scene;
mod story;
