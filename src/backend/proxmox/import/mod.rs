//! Bringing a base image to a node: by the node itself where it can, else by sending it.

mod download;
mod send;

use std::path::{Path, PathBuf};

use super::image::file_name;
use super::leftover::What;
use super::task::Begun;
use super::{Proxmox, StoredImage, privilege};
use crate::error::{Context as _, Error, Kind, Result};
use crate::run::{Resource, Run};
use crate::source::{self, BaseImage, Basis, Context, Format, Offered, Resolved};

/// An image that is on the node now.
#[derive(Debug)]
pub struct Brought {
    pub image: StoredImage,
    pub how: How,
}

/// How it came there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    WasThere,
    Downloaded,
    Uploaded,
}

/// An image that may have to be brought.
pub struct Identified {
    pub basis: Basis,
    /// Where it had to be fetched to know its digest.
    fetched: Option<BaseImage>,
}

/// Finds out the digest of the image that `resolved` stands for.
pub async fn identify(resolved: &Resolved, cx: &Context<'_>, run: &Run) -> Result<Identified> {
    if let Some(digest) = &resolved.expected {
        return Ok(Identified {
            basis: Basis {
                path: PathBuf::new(),
                origin: resolved.origin.clone(),
                digest: digest.clone(),
                verified: resolved.verified.clone(),
            },
            fetched: None,
        });
    }
    // A file without any expectation is known by its own digest.
    let image = run.phase("source", source::fetch(resolved, cx)).await?;
    Ok(Identified {
        basis: image.basis(),
        fetched: Some(image),
    })
}

/// Sees to it that the node has the base image that `resolved` stands for.
///
/// Errors: the image has another digest ([`Kind::Verification`]); its name is taken by something else ([`Kind::Conflict`]);
/// what the server says.
pub async fn import(
    server: &Proxmox,
    resolved: &Resolved,
    identified: Identified,
    cx: &Context<'_>,
    run: &Run,
) -> Result<Brought> {
    let import = Import { server, cx, run };
    let Identified { basis, fetched } = identified;
    let file = file_name(&basis.digest);
    let offered = match cx.offline {
        true => None,
        false => {
            run.phase("look at the source", import.offered(resolved))
                .await?
        }
    };
    let found = run.phase("look at the node", import.find(&file)).await?;
    if let Some(image) = found {
        let size = match &fetched {
            Some(image) if image.format == Format::Qcow2 => Some(size(&image.path)?),
            _ => offered.and_then(|offered| offered.size),
        };
        import.refuse_other(&image, size)?;
        let how = How::WasThere;
        return Ok(Brought { image, how });
    }
    run.unless_interrupted(import.refuse_forbidden(&file))
        .await?;
    if let Some(offered) = &offered
        && let Some(image) = import.by_node(offered, &file).await?
    {
        let how = How::Downloaded;
        return Ok(Brought { image, how });
    }
    let image = match fetched {
        Some(image) => image,
        None => run.phase("source", source::fetch(resolved, cx)).await?,
    };
    let image = import.send(&image, &file).await?;
    let how = How::Uploaded;
    Ok(Brought { image, how })
}

fn size(path: &Path) -> Result<u64> {
    let about = std::fs::metadata(path).doing(|| format!("reading {}", path.display()))?;
    Ok(about.len())
}

/// One import.
struct Import<'i> {
    server: &'i Proxmox,
    cx: &'i Context<'i>,
    run: &'i Run,
}

impl Import<'_> {
    async fn offered(&self, resolved: &Resolved) -> Result<Option<Offered>> {
        Ok(source::offered(resolved, self.cx).await)
    }

    async fn find(&self, file: &str) -> Result<Option<StoredImage>> {
        let doing = || format!("looking for {file} on {}", self.server.target.name);
        let found = self.server.image(file).await;
        found.map_err(|failure| failure.during(doing()))
    }

    /// An image of another size than it should have is half of it, or something else.
    fn refuse_other(&self, image: &StoredImage, size: Option<u64>) -> Result<()> {
        match size {
            Some(size) if size != image.size => {
                let target = &self.server.target.name;
                Err(Error::new(format!("using {} on {target}", image.volume))
                    .kind(Kind::Conflict)
                    .cause(format!(
                        "it has {} bytes, and the image of this digest has {size}",
                        image.size
                    ))
                    .hint(format!(
                        "if nobody is uploading it right now: imgbuild image rm --target {target} {}",
                        image.digest
                    )))
            }
            _ => Ok(()),
        }
    }

    /// What is there when all is done.
    async fn result(&self, file: &str, size: Option<u64>) -> Result<StoredImage> {
        let doing = || format!("looking for {file} on {}", self.server.target.name);
        let image = self.find(file).await?.ok_or_else(|| {
            Error::new(doing())
                .cause("it is not there, though its task ended well; was it removed at once?")
        })?;
        self.refuse_other(&image, size)?;
        Ok(image)
    }

    /// The server hangs up on an upload that the login may not make, in the middle and without a word, and keeps what came of one
    /// that the storage does not take (`/var/tmp/pveupload-*`), so it is asked before.
    async fn refuse_forbidden(&self, file: &str) -> Result<()> {
        const PRIVILEGE: &str = "Datastore.AllocateTemplate";
        let server = self.server;
        let doing = format!("bringing {file} to {}", server.target.name);
        let path = format!("/storage/{}", server.target.import);
        let held = server.privileges(&path).await;
        let held = held.map_err(|failure| failure.during(doing.as_str()))?;
        if held.iter().all(|held| held != PRIVILEGE) {
            return Err(Error::new(doing)
                .cause(format!("the privilege {PRIVILEGE} on {path} is missing"))
                .hint(privilege::grant(PRIVILEGE, &path, server.client.identity())));
        }
        let why = server.unsuitable(&server.target.import, "import").await;
        match why.map_err(|failure| failure.during(doing.as_str()))? {
            Some(why) => Err(Error::new(doing).cause(why)),
            None => Ok(()),
        }
    }

    /// Promises to remove a task, if it is ours for sure. Before its name is known there is nothing to be promised: it ends by
    /// itself, and then a whole image is there for everybody, or nothing.
    fn guard(&self, begun: &Begun, what: What) -> Result<Option<Resource>> {
        match begun.may_be_anothers {
            true => Ok(None),
            false => self.run.guard(self.server.leftover(what)).map(Some),
        }
    }

    fn release(&self, guard: Option<Resource>) -> Result<()> {
        guard.map_or(Ok(()), |guard| self.run.release(&guard))
    }
}
