//! imgbuild turns an upstream cloud image into a sealed, tested VM template, from one recipe.

pub mod backend;
pub mod cli;
pub mod compare;
pub mod disk;
pub mod error;
pub mod finding;
pub mod pipeline;
pub mod plan;
pub mod proc;
pub mod project;
pub mod provenance;
pub mod provision;
pub mod recipe;
pub mod record;
pub mod run;
pub mod seal;
pub mod secret;
pub mod seed;
pub mod signing;
pub mod source;
pub mod ssh;
pub mod store;
pub mod text;
pub mod ui;
