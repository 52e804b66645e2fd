//! Base images on a node: files of the name `imgbuild-DIGEST12.qcow2` in the storage for imports. One is there once, for all
//! builds and all machines.

use super::Proxmox;
use super::error::Failure;
use crate::error::{Error, Kind, Result};
use crate::source::Digest;

/// How many digits of its digest an image's name has.
const DIGITS: usize = 12;

/// A base image on a node: a file of ours, or the disk of a template that is built on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StoredImage {
    /// `STORAGE:import/FILE`, or what the server calls the disk.
    pub volume: String,
    /// The first digits of the digest that it is known by.
    pub digest: String,
    /// Bytes of the file.
    pub size: u64,
}

/// The name of the file for the image that has this digest.
pub fn file_name(digest: &Digest) -> String {
    // A digest is at least 64 digits of ASCII.
    format!("imgbuild-{}.qcow2", &digest.hex[..DIGITS])
}

/// The digits in such a name.
fn digits(file: &str) -> Option<&str> {
    let digits = file.strip_prefix("imgbuild-")?.strip_suffix(".qcow2")?;
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let fits = digits.len() == DIGITS && digits.bytes().all(hex);
    fits.then_some(digits)
}

impl Proxmox {
    /// The base images that imgbuild keeps on the node, by name.
    pub async fn images(&self) -> Result<Vec<StoredImage>, Failure> {
        let volumes = self.volumes(&self.target.import, "import").await?;
        let ours = volumes.into_iter().filter_map(|volume| {
            let file = volume.id.strip_prefix(&self.volume(""))?;
            let digest = digits(file)?.to_owned();
            Some(StoredImage {
                digest,
                size: volume.size.unwrap_or_default(),
                volume: volume.id,
            })
        });
        let mut images: Vec<_> = ours.collect();
        images.sort_by(|a, b| a.volume.cmp(&b.volume));
        Ok(images)
    }

    /// The image of this file name, if it is there.
    pub async fn image(&self, file: &str) -> Result<Option<StoredImage>, Failure> {
        let volume = self.volume(file);
        let images = self.images().await?;
        Ok(images.into_iter().find(|image| image.volume == volume))
    }

    /// What the server calls a file in the storage for imports.
    pub fn volume(&self, file: &str) -> String {
        format!("{}:import/{file}", self.target.import)
    }

    /// What the server calls the image of this digest, if it has it.
    pub fn volume_of(&self, digest: &Digest) -> String {
        self.volume(&file_name(digest))
    }

    /// Removes a base image. One that is gone already is success.
    pub async fn remove_image(&self, image: &StoredImage) -> Result<()> {
        self.remove_volume(&self.target.import, "import", &image.volume)
            .await
    }
}

/// The image whose digest begins like this, and those of `servers`, nodes of one target, that have it.
///
/// Errors: there is none, or there are several ([`Kind::Usage`]).
pub async fn image_of<'s>(
    servers: &[&'s Proxmox],
    prefix: &str,
) -> Result<(StoredImage, Vec<&'s Proxmox>)> {
    let name = servers.first().map_or("", |server| &server.target.name);
    let doing = format!("looking for the image {prefix} on {name}");
    // Whoever has the whole digest may give it, as it is shown elsewhere.
    let digits = prefix.rsplit(':').next().unwrap_or_default();
    let digits = digits.get(..DIGITS).unwrap_or(digits).to_ascii_lowercase();
    let fault = |cause: &str| Error::new(doing.as_str()).kind(Kind::Usage).cause(cause);
    let (mut found, mut on) = (None, vec![]);
    for &server in servers {
        let images = server.images().await;
        let images = images.map_err(|failure| failure.during(doing.as_str()))?;
        let fits = |image: &StoredImage| !digits.is_empty() && image.digest.starts_with(&digits);
        for image in images.into_iter().filter(fits) {
            let known = found.get_or_insert_with(|| image.clone());
            if known.volume != image.volume {
                return Err(fault("several begin like that"));
            }
            on.push(server);
        }
    }
    let found = found.ok_or_else(|| {
        fault("there is nothing like that").hint(format!(
            "`imgbuild image list --target {name}` lists what there is"
        ))
    })?;
    Ok((found, on))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Algorithm;

    #[test]
    fn a_file_is_named_by_the_digest_and_nothing_else_is_taken_for_one() {
        let digest = Digest::new(Algorithm::Sha256, &"0A".repeat(32)).unwrap();
        let name = file_name(&digest);
        assert_eq!(name, "imgbuild-0a0a0a0a0a0a.qcow2");
        assert_eq!(digits(&name), Some("0a0a0a0a0a0a"));
        for other in [
            "debian.qcow2",
            "imgbuild-0a.qcow2",
            "imgbuild-0a0a0a0a0a0x.qcow2",
            "imgbuild-0A0A0A0A0A0A.qcow2",
        ] {
            assert_eq!(digits(other), None);
        }
    }
}
