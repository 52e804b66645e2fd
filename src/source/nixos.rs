//! Images that `nix build` makes on this machine.

use std::path::{Path, PathBuf};

use super::resolve::{Place, Resolved};
use super::{BaseImage, Context, Verified, local};
use crate::error::{Error, Kind, Result};
use crate::proc::Program;

/// How deep below a store path images are looked for.
const DEEPEST: usize = 3;

/// The endings of disk images' names.
const IMAGES: &[&str] = &["qcow2", "img", "raw", "vmdk"];

/// Builds a flake's output, and takes the image in it. nix builds only what it has not built before.
pub(super) async fn fetch(flake: &str, file: Option<&str>, cx: &Context<'_>) -> Result<BaseImage> {
    let mut build = Program::new("nix").args([
        "build",
        "--extra-experimental-features",
        "nix-command flakes",
        "--no-link",
        "--json",
    ]);
    if cx.offline {
        build = build.arg("--offline");
    }
    let name = shown(flake);
    cx.events.note(format!("building {name} with nix"));
    let said = build.arg(flake).stdout().await?;
    let built: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
    let output = built[0]["outputs"]["out"].as_str().ok_or_else(|| {
        Error::new(format!("building {name}")).cause(format!("nix named no output: {said}"))
    })?;
    let output = PathBuf::from(output);
    let image = match file {
        Some(file) => output.join(file),
        None => only_image(&output, &name)?,
    };
    let resolved = Resolved {
        origin: name.clone(),
        expected: None,
        verified: Verified::Flake {
            flake: name,
            output: output.display().to_string(),
        },
        place: Place::File(image.clone()),
    };
    local::fetch(&image, &resolved, cx).await
}

/// A flake's reference without what may be a credential: the user of its URL, and the parameters.
pub(super) fn shown(flake: &str) -> String {
    let (place, output) = flake.split_once('#').unwrap_or((flake, ""));
    let place = place.split('?').next().unwrap_or_default();
    let place = match place.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.find('/').unwrap_or(rest.len());
            let start = rest[..host].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[start..])
        }
        None => place.to_owned(),
    };
    format!("{place}#{output}")
}

/// The output itself, or the one image below it.
fn only_image(output: &Path, flake: &str) -> Result<PathBuf> {
    if output.is_file() {
        return Ok(output.to_owned());
    }
    let mut images = vec![];
    search(output, DEEPEST, &mut images);
    let error = Error::new(format!("looking for the image that {flake} makes")).kind(Kind::Usage);
    match images.as_slice() {
        [image] => Ok(image.clone()),
        [] => Err(error
            .cause(format!("there is none in {}", output.display()))
            .hint("the output must be an image, such as config.system.build.images.qemu")),
        several => {
            let names = several.iter().map(|path| path.display().to_string());
            Err(error
                .cause("there are several")
                .detail("the images", names.collect::<Vec<_>>().join("\n"))
                .hint("say which with `nixos = { flake = \"…\", file = \"…\" }`"))
        }
    }
}

fn search(folder: &Path, depth: usize, images: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let ending = path.extension().and_then(|ending| ending.to_str());
        if path.is_file() && ending.is_some_and(|ending| IMAGES.contains(&ending)) {
            images.push(path);
        } else if path.is_dir() && depth > 0 {
            search(&path, depth - 1, images);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flake_is_shown_without_its_credentials() {
        let secret = "git+https://me:t0ken@git.example.org/x?ref=main&token=t0ken#image";
        assert_eq!(shown(secret), "git+https://git.example.org/x#image");
        assert_eq!(shown("path:/srv/a@b#image"), "path:/srv/a@b#image");
    }

    #[test]
    fn the_only_image_of_an_output_is_found_and_of_several_none_is_guessed() {
        let output = tempfile::tempdir().unwrap();
        let folder = output.path().join("nix-support");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("hydra-build-products"), "").unwrap();
        let error = only_image(output.path(), "f#x").unwrap_err();
        assert!(error.to_string().contains("there is none"), "{error}");
        let image = output.path().join("nixos.qcow2");
        std::fs::write(&image, "").unwrap();
        assert_eq!(only_image(output.path(), "f#x").unwrap(), image);
        assert_eq!(
            only_image(&image, "f#x").unwrap(),
            image,
            "the output is a file"
        );
        std::fs::write(folder.join("other.raw"), "").unwrap();
        let error = only_image(output.path(), "f#x").unwrap_err();
        assert!(error.get_detail().unwrap().text.contains("other.raw"));
    }
}
