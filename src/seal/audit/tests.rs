//! Audits of images made on the fly by e2fsprogs, sfdisk and qemu-img, which these tests require.

mod fixture;
mod hostile;
mod images;
mod rules;
