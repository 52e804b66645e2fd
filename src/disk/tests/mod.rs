//! Disks made on the fly by e2fsprogs, sfdisk and qemu-img, which these tests require.

mod chains;
pub(crate) mod fixture;
mod refused;
pub(crate) mod remote;
mod zeroed;
