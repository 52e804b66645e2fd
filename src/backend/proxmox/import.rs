//! Bringing a base image to a node: by the node itself where it can, else by sending it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::call::Call;
use super::error::{Failure, Why};
use super::image::file_name;
use super::leftover::What;
use super::task::{Ended, TaskFailure, Upid};
use super::upload::Upload;
use super::{Proxmox, StoredImage, privilege};
use crate::backend::qemu::image::{self as local, Target};
use crate::error::{Context as _, Error, Kind, Result};
use crate::record;
use crate::run::{Resource, Run};
use crate::source::{self, Algorithm, BaseImage, Context, Digest, Format, Offered, Resolved};
use crate::store;

/// How long the node may take to download an image.
const DOWNLOAD: Duration = Duration::from_secs(2 * 60 * 60);

/// How long it may take to check and copy one that it was sent.
const COPY: Duration = Duration::from_secs(60 * 60);

/// How often a download is asked for when connections break, the first time included.
const ATTEMPTS: u32 = 3;

/// The kind of the task, as Proxmox VE names it.
const DOWNLOAD_TASK: &str = "download";

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

/// Sees to it that the node has the base image that `resolved` stands for.
///
/// Errors: the image has another digest ([`Kind::Verification`]); its name is taken by something else ([`Kind::Conflict`]);
/// what the server says.
pub async fn import(
    server: &Proxmox,
    resolved: &Resolved,
    cx: &Context<'_>,
    run: &Run,
) -> Result<Brought> {
    let import = Import { server, cx, run };
    // A file without any expectation is known by its own digest.
    let (digest, fetched) = match &resolved.expected {
        Some(digest) => (digest.clone(), None),
        None => {
            let image = run.phase("source", source::fetch(resolved, cx)).await?;
            let digest = Digest::new(Algorithm::Sha256, &image.sha256);
            let digest = digest.ok_or_else(|| Error::new("reading the digest of the image"))?;
            (digest, Some(image))
        }
    };
    let file = file_name(&digest);
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

    /// Lets the node download an image, if it can. Why it did not is told.
    async fn by_node(&self, offered: &Offered, file: &str) -> Result<Option<StoredImage>> {
        if !self.is_within_reach(&offered.url).await? {
            return Ok(None);
        }
        let download = self.run.phase("download", self.download(offered, file));
        match download.await? {
            Ok(image) => Ok(Some(image)),
            // What is wrong with the image, if that is it, shows when we bring it as well.
            Err(error) => {
                let text = format!("{error}; sending it instead");
                self.run.events.warn(text);
                Ok(None)
            }
        }
    }

    /// Whether the node can download from there. Why it cannot is told: uploading costs time that this would save.
    async fn is_within_reach(&self, url: &str) -> Result<bool> {
        let call = Call::get(self.server.node_path(&["query-url-metadata"])).with("url", url);
        let asked = async { Ok(self.server.client.call::<Value>(call.once()).await) };
        match self.run.unless_interrupted(asked).await? {
            Ok(_) => Ok(true),
            Err(failure) => {
                let hint = failure.hint().map(|hint| format!("; {hint}"));
                self.run.events.note(format!(
                    "the node cannot download {url} itself ({failure}), so it is sent{}",
                    hint.unwrap_or_default()
                ));
                Ok(false)
            }
        }
    }

    /// Lets the node download an image. That it failed to is told by the inner error.
    async fn download(&self, offered: &Offered, file: &str) -> Result<Result<StoredImage>> {
        let doing = format!("downloading {file} to {}", self.server.target.name);
        let asked = self.guard(What::Download { file: file.into() })?;
        let upid = match self.ask_for_download(offered, file).await {
            Ok(upid) => upid,
            Err(failure) if failure.why.is_uncertain() => return Err(failure.during(doing)),
            Err(failure) => {
                self.run.release(&asked)?;
                return match failure.why {
                    Why::Refused(_) => Ok(Err(failure.during(doing))),
                    _ => Err(failure.during(doing)),
                };
            }
        };
        let task = self.guard(What::Task { upid: upid.clone() })?;
        self.run.release(&asked)?;
        match self.finish(&task, &upid, DOWNLOAD).await? {
            Ok(()) => self.result(file, offered.size).await.map(Ok),
            Err(failed) => Ok(Err(failed.during(doing, &upid))),
        }
    }

    /// Asks for a download, and returns its task.
    async fn ask_for_download(&self, offered: &Offered, file: &str) -> Result<Upid, Failure> {
        let server = self.server;
        let path = server.node_path(&["storage", &server.target.import, "download-url"]);
        let call = Call::post(path)
            .with("content", "import")
            .with("filename", file)
            .with("url", offered.url.as_str())
            .with("checksum-algorithm", offered.digest.algorithm.name())
            .with("checksum", offered.digest.hex.as_str());
        let before = server.tasks(DOWNLOAD_TASK).await?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let failure = match server.client.call::<Upid>(call.clone()).await {
                Ok(upid) => return Ok(upid),
                Err(failure) => failure,
            };
            if !failure.why.is_uncertain() {
                return Err(failure);
            }
            // It may have been heard.
            let after = server.tasks(DOWNLOAD_TASK).await?;
            let mut new = after.difference(&before);
            match new.find(|upid| upid.about() == file) {
                Some(upid) => return Ok(upid.clone()),
                None if attempt < ATTEMPTS => {}
                None => return Err(failure),
            }
        }
    }

    /// Waits for a task of ours. That it failed is told by the inner error. One that does not end stays in the journal, and
    /// is aborted when the cause has been told.
    async fn finish(
        &self,
        task: &Resource,
        upid: &Upid,
        deadline: Duration,
    ) -> Result<Result<(), TaskFailure>> {
        match self.server.follow(upid, deadline).await {
            Ok(()) => self.run.release(task).map(Ok),
            Err(Ended::Task(failed)) => self.run.release(task).map(|()| Err(failed)),
            Err(Ended::Untold(error)) => Err(error),
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

    async fn send(&self, image: &BaseImage, file: &str) -> Result<StoredImage> {
        let work = Work::prepare(image, self.run).await?;
        let sent = self.upload(&work, file).await?;
        image.still_there()?;
        if let Some(folder) = &work.folder {
            self.run.remove(folder).await?;
        }
        Ok(sent)
    }

    async fn upload(&self, work: &Work, file: &str) -> Result<StoredImage> {
        let run = self.run;
        let doing = format!("uploading {file} to {}", self.server.target.name);
        let guard = self.guard(What::Upload {
            file: file.into(),
            size: work.size,
        })?;
        let upload = Upload {
            storage: &self.server.target.import,
            content: "import",
            name: file,
            path: &work.path,
            sha256: &work.sha256,
            size: work.size,
        };
        let sending = self.server.upload(&upload, &doing, &run.events);
        let upid = run.phase("upload", sending).await?;
        let task = self.guard(What::Task { upid: upid.clone() })?;
        let store = async {
            match self.finish(&task, &upid, COPY).await? {
                Ok(()) => self.result(file, Some(work.size)).await,
                Err(failed) => Err(failed.during(doing, &upid)),
            }
        };
        let image = run.phase("store", store).await?;
        run.release(&guard)?;
        Ok(image)
    }

    /// The server hangs up on an upload that it does not want, in the middle and without a word, so it is asked before.
    async fn refuse_forbidden(&self, file: &str) -> Result<()> {
        const PRIVILEGE: &str = "Datastore.AllocateTemplate";
        let server = self.server;
        let doing = format!("bringing {file} to {}", server.target.name);
        let path = format!("/storage/{}", server.target.import);
        let held = server.privileges(&path).await;
        let held = held.map_err(|failure| failure.during(doing.as_str()))?;
        match held.iter().any(|held| held == PRIVILEGE) {
            true => Ok(()),
            false => Err(Error::new(doing)
                .cause(format!("the privilege {PRIVILEGE} on {path} is missing"))
                .hint(privilege::grant(PRIVILEGE, &path, server.client.identity()))),
        }
    }

    fn guard(&self, what: What) -> Result<Resource> {
        self.run.guard(self.server.leftover(what))
    }
}

/// The file that is sent: the image itself, or what it was converted to.
struct Work {
    path: PathBuf,
    sha256: String,
    size: u64,
    folder: Option<Resource>,
}

impl Work {
    /// Converts what is not qcow2: a raw disk would go over the network with all its holes.
    async fn prepare(image: &BaseImage, run: &Run) -> Result<Self> {
        if image.format == Format::Qcow2 {
            return Ok(Work {
                size: size(&image.path)?,
                path: image.path.clone(),
                sha256: image.file_sha256.clone(),
                folder: None,
            });
        }
        let path = run.dirs.work().join(&run.id);
        store::space::require(&[(path.clone(), image.allocated)])?;
        let folder = run.guard(Resource::Folder { path: path.clone() })?;
        store::create_private_folder(&path)?;
        let path = path.join("image.qcow2");
        let to = Resource::File { path: path.clone() };
        let target = Target {
            format: Format::Qcow2,
            zstd: false,
        };
        let from = (image.path.as_path(), image.format);
        run.phase("convert", local::flatten(from, &to, target, run))
            .await?;
        let sha256 = run.phase("digest", record::digest(path.clone(), &run.events));
        Ok(Work {
            sha256: sha256.await?,
            size: size(&path)?,
            path,
            folder: Some(folder),
        })
    }
}
