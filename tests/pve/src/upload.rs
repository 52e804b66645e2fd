//! Uploads, read by the same rules as Proxmox's: fields in one order, and the file up to the closing boundary.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::body::{Dropped, Incomplete};
use crate::cluster::Cluster;
use crate::params::Params;
use crate::reply::{Body, Failure};

/// What may come before the file, in this order.
const FIELDS: [&str; 3] = ["content", "checksum-algorithm", "checksum"];

/// More than this before the file is no upload, in bytes.
const LONGEST_HEAD: usize = 64 << 10;

/// Removes the file unless it was handed on.
struct Half(Option<PathBuf>);

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Writes the file that comes into the folder of uploads, and the fields before it to `params`.
pub async fn receive(
    cluster: &Cluster,
    content_type: &str,
    body: &mut Incomplete,
    params: &mut Params,
) -> Result<Result<PathBuf, Failure>, Dropped> {
    let Some(boundary) = boundary(content_type) else {
        // Proxmox's handler dies before there is anyone to answer.
        return Err(Dropped);
    };
    let folder = cluster.folder("uploads").map_err(|_| Dropped)?;
    let path = folder.join(format!("pveupload-{}", crate::random::hex(16)));
    let mut half = Half(Some(path.clone()));
    let received = store(&path, boundary, body, params).await?;
    Ok(match received {
        Ok(()) => {
            half.0 = None;
            Ok(path)
        }
        Err(reason) => Err(Failure::died(reason).with_body(Body::Empty)),
    })
}

async fn store(
    path: &Path,
    boundary: &str,
    body: &mut Incomplete,
    params: &mut Params,
) -> Result<Result<(), String>, Dropped> {
    let delimiter = format!("--{boundary}");
    let mut buffer = vec![];
    let name = loop {
        match head(&buffer, &delimiter, params) {
            Ok(Some((name, start))) => {
                buffer.drain(..start);
                break name;
            }
            Ok(None) if buffer.len() > LONGEST_HEAD => return Ok(Err("upload failed".into())),
            Ok(None) => match body.next().await? {
                Some(data) => buffer.extend_from_slice(&data),
                None => return Ok(Err("upload failed".into())),
            },
            Err(wrong) => return Ok(Err(wrong)),
        }
    };
    params.set("filename", name.trim());
    Ok(file(path, &format!("{delimiter}--"), buffer, body)
        .await?
        .map_err(|error| format!("write to temporary file failed - {error}")))
}

/// What comes before the file: its name, and where its content starts. `None` while more is needed.
fn head(
    buffer: &[u8],
    delimiter: &str,
    params: &mut Params,
) -> Result<Option<(String, usize)>, String> {
    // Names and checksums are ASCII; the file behind them is not looked at.
    let text = String::from_utf8_lossy(&buffer[..buffer.len().min(LONGEST_HEAD)]);
    let mut parts: Vec<&str> = text.split(delimiter).collect();
    let preamble = parts.remove(0).len();
    let mut at = preamble;
    let mut fields = FIELDS.iter();
    for (n, part) in parts.iter().enumerate() {
        at += delimiter.len();
        let Some((headers, content)) = split(part) else {
            return Ok(None);
        };
        let disposition = disposition(headers)?;
        if let Some(name) = disposition.filename {
            if !headers.trim_start().starts_with(DISPOSITION) {
                return Err("upload failed".into());
            }
            if disposition.name != "filename" {
                let name = disposition.name;
                return Err(format!(
                    "wrong field name '{name}' for file upload, expected 'filename'"
                ));
            }
            return Ok(Some((name.to_owned(), at + part.len() - content.len())));
        }
        if n + 1 == parts.len() {
            return Ok(None);
        }
        if !fields.any(|&field| field == disposition.name) {
            return Err(format!(
                "wrong Content-Disposition in multipart, field '{}' is not expected here",
                disposition.name
            ));
        }
        params.set(disposition.name, content.trim());
        at += part.len();
    }
    Ok(None)
}

/// To the letter. Of a file it is the first header.
const DISPOSITION: &str = "Content-Disposition: form-data; name=\"";

struct Disposition<'p> {
    name: &'p str,
    filename: Option<&'p str>,
}

fn disposition(headers: &str) -> Result<Disposition<'_>, String> {
    let wrong = || "wrong Content-Disposition in multipart, expected 'form-data'".to_owned();
    let line = headers
        .lines()
        .find_map(|line| line.strip_prefix(DISPOSITION));
    let (name, rest) = line
        .and_then(|line| line.split_once('"'))
        .ok_or_else(wrong)?;
    let filename = rest
        .strip_prefix("; filename=\"")
        .and_then(|rest| rest.split('"').next());
    Ok(Disposition { name, filename })
}

fn split(part: &str) -> Option<(&str, &str)> {
    part.split_once("\r\n\r\n")
        .or_else(|| part.split_once("\n\n"))
}

/// Everything up to the closing boundary is the file, whatever it looks like.
async fn file(
    path: &Path,
    close: &str,
    mut buffer: Vec<u8>,
    body: &mut Incomplete,
) -> Result<io::Result<()>, Dropped> {
    // Not on another thread: it would be made after its guard has removed it.
    let mut file = match std::fs::File::create(path) {
        Ok(file) => File::from_std(file),
        Err(error) => return Ok(Err(error)),
    };
    let keep = close.len() + 2;
    loop {
        if let Some(mut end) = find(&buffer, close.as_bytes()) {
            for byte in *b"\n\r" {
                if end > 0 && buffer[end - 1] == byte {
                    end -= 1;
                }
            }
            let written = async {
                file.write_all(&buffer[..end]).await?;
                file.flush().await
            };
            let written = written.await;
            body.linger().await;
            return Ok(written);
        }
        if buffer.len() > keep {
            let whole = buffer.len() - keep;
            if let Err(error) = file.write_all(&buffer[..whole]).await {
                return Ok(Err(error));
            }
            buffer.drain(..whole);
        }
        match body.next().await? {
            Some(data) => buffer.extend_from_slice(&data),
            None => return Ok(Err(io::Error::other("upload failed"))),
        }
    }
}

/// The boundary, which must not be quoted: quotes would be taken for a part of it.
fn boundary(content_type: &str) -> Option<&str> {
    let mut parts = content_type.split(';').map(str::trim);
    (parts.next()? == "multipart/form-data").then_some(())?;
    parts.find_map(|part| part.strip_prefix("boundary="))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(n) = haystack.get(from..)?.iter().position(|&byte| byte == first) {
        if haystack[from + n..].starts_with(needle) {
            return Some(from + n);
        }
        from += n + 1;
    }
    None
}
