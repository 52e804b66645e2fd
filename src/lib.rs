//! imgbuild turns an upstream cloud image into a sealed, tested VM template, from one recipe.

pub mod backend;
pub mod error;
pub mod proc;
pub mod recipe;
pub mod run;
pub mod seal;
pub mod seed;
pub mod source;
pub mod ssh;
pub mod store;
pub mod text;
