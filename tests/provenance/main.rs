//! What stands beside an image, as others see it: programs that we did not write accept it, and refuse it when anything was
//! changed. No machine is needed to see it. `scripts/make-verifiers out/verifiers` brings these programs.

mod agent;
mod keys;
#[path = "../lab/mod.rs"]
mod lab;
mod packages;
mod policy;
mod repository;
mod scene;
mod tampered;
mod told;
