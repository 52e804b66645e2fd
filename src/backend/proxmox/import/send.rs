//! Sending an image to the node.

use std::path::PathBuf;
use std::time::Duration;

use super::{Import, size};
use crate::backend::proxmox::StoredImage;
use crate::backend::proxmox::leftover::What;
use crate::backend::proxmox::task::Ended;
use crate::backend::proxmox::upload::Upload;
use crate::backend::qemu::image::{self as local, Target};
use crate::error::Result;
use crate::record;
use crate::run::{Resource, Run};
use crate::source::{BaseImage, Format};
use crate::store;

/// How long the node may take to check and copy it.
const COPY: Duration = Duration::from_secs(60 * 60);

impl Import<'_> {
    pub(super) async fn send(&self, image: &BaseImage, file: &str) -> Result<StoredImage> {
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
        let upload = Upload {
            storage: &self.server.target.import,
            content: "import",
            name: file,
            path: &work.path,
            sha256: &work.sha256,
            size: work.size,
        };
        let sending = self.server.upload(&upload, &doing, &run.events);
        let begun = run.phase("upload", sending).await?;
        let what = What::Copy {
            upid: begun.upid.clone(),
            file: file.into(),
            size: work.size,
        };
        let guard = self.guard(&begun, what)?;
        let store = async {
            match self.server.follow(&begun.upid, COPY).await {
                Ok(()) => self.result(file, Some(work.size)).await,
                Err(Ended::Task(failed)) => Err(failed.during(doing, &begun.upid)),
                Err(Ended::Untold(error)) => Err(error),
            }
        };
        let image = run.phase("store", store).await?;
        self.release(guard)?;
        Ok(image)
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
