//! Debian's cloud images: a folder for each codename, with `SHA512SUMS` beside the images.
//!
//! Debian does not sign that list (as of 2026), so trust rests on TLS.

use super::address::Address;
use super::checksums::look_up;
use super::resolve::{Resolved, document};
use super::ubuntu::from_first_root;
use super::{ARCH, Context, Verified};
use crate::error::{Error, Kind, Result};

/// Debian's own tree.
const ROOT: &str = "https://cloud.debian.org/images/cloud";

/// The releases that Debian publishes cloud images of.
const RELEASES: [(&str, &str); 4] = [
    ("10", "buster"),
    ("11", "bullseye"),
    ("12", "bookworm"),
    ("13", "trixie"),
];

/// The largest list that is read; Debian's has some dozen lines.
const MAX_LIST: usize = 1 << 20;

/// Finds the latest image of a release, by version or codename.
pub(super) async fn resolve(
    release: &str,
    mirrors: &[String],
    cx: &Context<'_>,
) -> Result<Resolved> {
    let wanted = release.trim().to_lowercase();
    let known = RELEASES
        .iter()
        .find(|(version, codename)| wanted == *version || wanted == *codename);
    let (version, codename) = *known.ok_or_else(|| {
        let names = RELEASES.map(|(version, codename)| format!("{version} ({codename})"));
        Error::new(format!("looking up Debian {release}"))
            .kind(Kind::Usage)
            .cause("there is no such release")
            .hint(format!("known are {}", names.join(", ")))
    })?;
    // The variant for virtual machines: its kernel has virtio and leaves out drivers of real hardware.
    let image = format!("{codename}/latest/debian-{version}-genericcloud-{ARCH}.qcow2");
    from_first_root(
        mirrors,
        ROOT,
        &image,
        async |root: &Address| {
            let url = root.under(&image)?;
            let list = url.beside("SHA512SUMS")?;
            let text = document(&list, MAX_LIST, false, cx).await?;
            let shown = list.to_string();
            let digest = look_up(&String::from_utf8_lossy(&text), &url.file_name(), &shown)?;
            let verified = Verified::Checksums { list: shown };
            Ok((image.clone(), digest, verified))
        },
        cx,
    )
    .await
}
