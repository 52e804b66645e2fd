//! Files that come to a storage: uploads, and downloads by the node.

use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::context::Context;
use crate::fault::What;
use crate::image;
use crate::random;
use crate::reply::{Failure, Reply};
use crate::storage::{IMPORT_FORMATS, Store};
use crate::task::{self, Worker};

/// What a file is to be.
struct Wanted {
    store: Store,
    path: PathBuf,
    content: String,
    /// Algorithm and digest in hexadecimal.
    checksum: Option<(String, String)>,
}

/// A file that is removed unless it came to stay.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `POST …/{storage}/upload`. A wrong checksum is found by the task.
pub async fn upload(context: Context) -> Reply {
    let file = Temporary(
        context
            .upload
            .clone()
            .ok_or_else(|| Failure::died("missing temporary file name"))?,
    );
    let wanted = wanted(&context)?;
    let node = context.node().to_owned();
    let upid = task::start(&context, "imgcopy", "", |worker| async move {
        worker.log(format!("starting file import from: {}", file.0.display()));
        checksum(&file.0, &wanted, &worker).await?;
        looks_right(&file.0, &wanted)?;
        let size = std::fs::metadata(&file.0)
            .map_err(|error| error.to_string())?
            .len();
        let (from, to) = (file.0.display(), wanted.path.display());
        worker.log(format!("target node: {node}"));
        worker.log(format!("target file: {to}"));
        worker.log(format!("file size is: {size}"));
        worker.log(format!("command: cp -- {from} {to}"));
        if worker.fault == Some(What::TaskKilled) {
            half(&file.0, &wanted.path).map_err(|error| error.to_string())?;
        }
        worker.middle().await?;
        keep(&worker, &wanted, &file.0).map_err(|error| {
            format!(
                "import failed: cp: error writing '{}': {error}",
                wanted.path.display()
            )
        })?;
        worker.log("finished file import successfully");
        Ok(())
    });
    Ok(json!(upid).into())
}

/// `POST …/{storage}/download-url`
pub async fn download(context: Context) -> Reply {
    let wanted = wanted(&context)?;
    let params = &context.params;
    let packed = params.get("compression").is_some();
    let url = params.text("url").to_owned();
    let verify = params.get("verify-certificates") != Some("0");
    let id = wanted
        .path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let upid = task::start(&context, "download", &id, |worker| async move {
        let path = wanted.path.display();
        worker.log(format!("downloading {url} to {path}"));
        if packed && wanted.content != "iso" {
            return Err(format!(
                "decompression not supported for {}",
                wanted.content
            ));
        }
        if wanted.path.exists() {
            let Some((algorithm, expected)) = &wanted.checksum else {
                return Err(format!("refusing to override existing file '{path}'"));
            };
            compare(&wanted.path, algorithm, expected)
                .await
                .map_err(|error| format!("{error}, aborting"))?;
            worker.log("calculating checksum of existing file...OK, got correct file already, no need to download");
            return Ok(());
        }
        let temporary = Temporary(PathBuf::from(format!("{path}.tmp_dwnl.{}", random::hex(4))));
        fetch(&url, verify, &temporary.0, &worker)
            .await
            .map_err(|error| format!("download failed: {error}"))?;
        checksum(&temporary.0, &wanted, &worker).await?;
        looks_right(&temporary.0, &wanted)?;
        keep(&worker, &wanted, &temporary.0)?;
        worker.log(format!("download of '{url}' to '{path}' finished"));
        Ok(())
    });
    Ok(json!(upid).into())
}

/// `GET /nodes/{node}/query-url-metadata`
pub async fn metadata(context: Context) -> Reply {
    let params = &context.params;
    let client = client(params.get("verify-certificates") != Some("0")).map_err(Failure::died)?;
    let url = params.text("url");
    // The name is that of what was asked for, wherever it led.
    let name = reqwest::Url::parse(url)
        .ok()
        .and_then(|url| Some(url.path_segments()?.next_back()?.to_owned()));
    let head = client.head(url).send().await;
    let head = head.and_then(reqwest::Response::error_for_status);
    let head =
        head.map_err(|error| Failure::died(format!("invalid server response: '{error}'")))?;
    let header = |name: &str| {
        head.headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let size: Option<u64> = header("content-length").and_then(|length| length.parse().ok());
    Ok(json!({"filename": name, "size": size, "mimetype": header("content-type")}).into())
}

/// What the call says of the file.
fn wanted(context: &Context) -> Result<Wanted, Failure> {
    let params = &context.params;
    let store = Store::open(&context.cluster, context.node(), params.text("storage"))?;
    let content = params.text("content").to_owned();
    let name = normalised(params.text("filename"));
    let extension = name
        .rsplit_once('.')
        .filter(|(stem, _)| !stem.is_empty())
        .map(|(_, extension)| extension);
    match content.as_str() {
        "iso" if ["iso", "img"].contains(&extension.unwrap_or_default()) => {}
        "import" if IMPORT_FORMATS.contains(&extension.unwrap_or_default()) => {}
        "import" => {
            return Err(Failure::parameter(
                "filename",
                "invalid filename or wrong extension",
            ));
        }
        _ => return Err(Failure::parameter("filename", "wrong file extension")),
    }
    store.holds(&content)?;
    let checksum = match (params.get("checksum-algorithm"), params.get("checksum")) {
        (Some(algorithm), Some(expected)) => Some((algorithm.to_owned(), expected.to_owned())),
        (None, None) => None,
        (Some(_), None) => return Err(requires("checksum-algorithm", "checksum")),
        (None, Some(_)) => return Err(requires("checksum", "checksum-algorithm")),
    };
    let folder = store
        .place(&content, None)
        .map_err(|error| Failure::died(error.to_string()))?;
    Ok(Wanted {
        path: folder.join(name),
        store,
        content,
        checksum,
    })
}

/// One parameter is there, and another one that goes with it is not.
fn requires(name: &str, missing: &str) -> Failure {
    Failure::parameter(missing, format!("missing property required by '{name}'"))
}

/// The last part of the name, with `_` for all that is not plain.
fn normalised(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    last.chars().map(plain).collect()
}

/// Whether the content is what the name promises, and leads to no other file.
fn looks_right(path: &Path, wanted: &Wanted) -> Result<(), String> {
    let promised = wanted
        .path
        .extension()
        .is_some_and(|extension| extension == "qcow2");
    let header = image::header(path);
    match header {
        None if promised && wanted.content == "import" => {
            let path = path.display();
            Err(format!(
                "qemu-img: Could not open '{path}': Image is not in qcow2 format"
            ))
        }
        Some(header) if header.backing.is_some() => Err("image has a backing file".into()),
        _ => Ok(()),
    }
}

/// Copies the first half of a file.
fn half(from: &Path, to: &Path) -> std::io::Result<()> {
    let content = std::fs::read(from)?;
    std::fs::write(to, &content[..content.len() / 2])
}

/// Puts a file that is right where it was wanted, over another one if need be.
fn keep(worker: &Worker, wanted: &Wanted, path: &Path) -> Result<(), String> {
    let size = std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .len();
    wanted.store.room_for(size, worker.fault.as_ref())?;
    std::fs::rename(path, &wanted.path).map_err(|error| error.to_string())
}

/// Compares the checksum that is wanted, if any.
async fn checksum(path: &Path, wanted: &Wanted, worker: &Worker) -> Result<(), String> {
    let Some((algorithm, expected)) = &wanted.checksum else {
        return Ok(());
    };
    let compared = compare(path, algorithm, expected).await;
    worker.log(match compared {
        Ok(()) => "calculating checksum...OK, checksum verified",
        Err(_) => "calculating checksum...",
    });
    compared
}

async fn compare(path: &Path, algorithm: &str, expected: &str) -> Result<(), String> {
    let got = match algorithm {
        "sha224" => digest::<Sha224>(path).await,
        "sha256" => digest::<Sha256>(path).await,
        "sha384" => digest::<Sha384>(path).await,
        "sha512" => digest::<Sha512>(path).await,
        other => return Err(format!("the test server does not know {other}")),
    };
    let got = got.map_err(|error| error.to_string())?;
    match got.eq_ignore_ascii_case(expected) {
        true => Ok(()),
        false => Err(format!(
            "checksum mismatch: got '{got}' != expect '{expected}'"
        )),
    }
}

async fn digest<D: Digest + Send>(path: &Path) -> std::io::Result<String> {
    let mut file = tokio::fs::File::open(path).await?;
    let (mut digest, mut buffer) = (D::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).await? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    Ok(digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn client(verify: bool) -> Result<reqwest::Client, String> {
    let builder = reqwest::Client::builder().tls_danger_accept_invalid_certs(!verify);
    builder.build().map_err(|error| error.to_string())
}

async fn fetch(url: &str, verify: bool, to: &Path, worker: &Worker) -> Result<(), String> {
    let said = |error: reqwest::Error| error.to_string();
    let mut response = client(verify)?.get(url).send().await.map_err(said)?;
    if !response.status().is_success() {
        worker.log(format!("ERROR {}.", response.status()));
        return Err("exit code 8".into());
    }
    let failed = |error: std::io::Error| error.to_string();
    // Not on another thread: it would be made after an abort has removed it.
    let file = std::fs::File::create(to).map_err(failed)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut half = false;
    while let Some(data) = response.chunk().await.map_err(said)? {
        file.write_all(&data).await.map_err(failed)?;
        if !half {
            half = true;
            worker.middle().await?;
        }
    }
    file.flush().await.map_err(failed)
}
