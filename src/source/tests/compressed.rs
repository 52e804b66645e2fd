use std::io::Write;
use std::path::Path;
use std::process::Command;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::error::Kind;
use crate::source::format::Compression;
use crate::source::unpack::{Limits, decompress};

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An image made by `qemu-img create`.
fn qemu_img(world: &World, name: &str, args: &[&str]) -> Vec<u8> {
    let path = world.home.path().join(name);
    let mut command = Command::new("qemu-img");
    let made = command
        .args(["create", "-q"])
        .args(args)
        .arg(&path)
        .arg("8M")
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::read(path).unwrap()
}

async fn get(world: &World, name: &str, content: &[u8]) -> Result<BaseImage> {
    let url = world.server.put(name, content);
    world.get(&pinned(&url, content)).await
}

async fn refuse(world: &World, content: &[u8]) -> Error {
    let url = world.server.put("image", content);
    world.refuse(&pinned(&url, content)).await
}

#[tokio::test]
async fn compressed_images_are_unpacked_whatever_their_name() {
    let mut disk = disk();
    disk.splice(100_000..100_000, vec![0; 1 << 20]);
    for packed in [
        xz(&disk),
        gzip(&disk),
        zstd(&disk),
        [xz(&disk[..5000]), xz(&disk[5000..])].concat(),
    ] {
        let world = World::new();
        let image = get(&world, "disk.qcow2", &packed).await.unwrap();
        assert!(std::fs::read(&image.path).unwrap() == disk);
        assert_eq!(
            (image.format, image.virtual_size),
            (Format::Raw, disk.len() as u64)
        );
        assert_eq!(
            image.sha256,
            sha256(&packed),
            "the digest is that of what was published"
        );
        assert!(image.allocated < disk.len() as u64, "holes are kept");
        assert_eq!(world.left(), [format!("sha256-{}", sha256(&packed))]);
        assert!(world.told().contains("phase: \"unpack\""));
        let before = world.server.requests().len();
        get(&world, "disk.qcow2", &packed).await.unwrap();
        assert_eq!(world.server.requests().len(), before);
    }
}

#[tokio::test]
async fn a_changed_unpacked_image_is_noticed() {
    let world = World::new();
    let image = get(&world, "disk.xz", &xz(&disk())).await.unwrap();
    replace(&image.path, &disk_of(256 * 1024, 1));
    drop(image);
    let image = get(&world, "disk.xz", &xz(&disk())).await.unwrap();
    assert_eq!(std::fs::read(&image.path).unwrap(), disk());
}

#[tokio::test]
async fn damaged_compressed_data_is_refused() {
    for packed in [xz(&disk()), gzip(&disk()), zstd(&disk())] {
        let world = World::new();
        let error = refuse(&world, &packed[..packed.len() - 20]).await;
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}

#[tokio::test]
async fn what_is_in_the_compressed_file_must_be_an_image() {
    let world = World::new();
    let error = refuse(&world, &gzip(b"<html>")).await;
    assert!(error.to_string().contains("HTML"), "{error}");
    let error = refuse(&world, &gzip(&xz(&disk()))).await;
    assert!(error.to_string().contains("twice"), "{error}");
}

#[tokio::test]
async fn a_page_is_not_an_image_even_with_the_right_digest() {
    let world = World::new();
    let error = refuse(&world, b"<!DOCTYPE html>\n<title>Error</title>").await;
    assert_eq!(error.get_kind(), Kind::Usage);
    assert!(
        error
            .to_string()
            .contains("not a disk image but an HTML page"),
        "{error}"
    );
    let error = refuse(&world, b"").await;
    assert!(error.to_string().contains("an empty file"), "{error}");
}

fn unpack(limits: Limits, stop: &CancellationToken) -> Result<String> {
    let home = tempfile::tempdir().unwrap();
    let source = home.path().join("packed");
    std::fs::write(&source, zstd(&vec![0; 1 << 20])).unwrap();
    let target = home.path().join("out");
    let events = Events::new("test", vec![]);
    decompress(
        (&source, "packed"),
        Compression::Zstd,
        &target,
        limits,
        &events,
        stop,
    )
}

#[test]
fn a_decompression_bomb_stops_at_the_limit() {
    let stop = CancellationToken::new();
    let output = |output| Limits {
        output,
        ..Limits::default()
    };
    unpack(output(1 << 20), &stop).unwrap();
    let error = unpack(output((1 << 20) - 1), &stop).unwrap_err();
    assert!(error.to_string().contains("come out of it"), "{error}");
}

#[test]
fn unpacking_stops_when_it_is_told_to() {
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(
        unpack(Limits::default(), &stop)
            .unwrap_err()
            .to_string()
            .contains("interrupted")
    );
}

#[test]
fn a_full_disk_is_told_with_what_is_needed() {
    let limits = Limits {
        reserve: u64::MAX / 2,
        ..Limits::default()
    };
    let error = limits.check_space(Path::new("/tmp"), 5).unwrap_err();
    assert!(error.to_string().contains("MiB left"), "{error}");
    assert!(error.get_hint().unwrap().contains("imgbuild gc"));
}

#[tokio::test]
async fn a_qcow2_is_kept_as_it_is() {
    let world = World::new();
    let bytes = qemu_img(&world, "a", &["-f", "qcow2"]);
    let image = get(&world, "disk.img", &bytes).await.unwrap();
    assert_eq!((image.format, image.virtual_size), (Format::Qcow2, 8 << 20));
    assert_eq!(std::fs::read(&image.path).unwrap(), bytes);
}

#[tokio::test]
async fn a_qcow2_that_names_other_files_is_refused() {
    let world = World::new();
    let backing = qemu_img(
        &world,
        "b",
        &["-f", "qcow2", "-F", "raw", "-u", "-b", "/etc/shadow"],
    );
    let external = qemu_img(
        &world,
        "c",
        &["-f", "qcow2", "-o", "data_file=/tmp/x.raw,data_file_raw=on"],
    );
    let _ = std::fs::remove_file("/tmp/x.raw");
    for (bytes, said) in [
        (&backing, "backing file"),
        (&external, "external data file"),
    ] {
        for packed in [bytes.clone(), xz(bytes)] {
            let error = refuse(&world, &packed).await;
            assert_eq!(error.get_kind(), Kind::Verification);
            assert!(error.to_string().contains(said), "{error}");
        }
    }
}

#[tokio::test]
async fn a_vmdk_is_converted() {
    for kind in ["subformat=streamOptimized", "subformat=monolithicSparse"] {
        let world = World::new();
        let raw = world.home.path().join("raw");
        let mut content = disk();
        content.resize(8 << 20, 0);
        std::fs::write(&raw, &content).unwrap();
        let path = world.home.path().join("v.vmdk");
        let mut command = Command::new("qemu-img");
        command
            .args(["convert", "-f", "raw", "-O", "vmdk", "-o", kind])
            .arg(&raw)
            .arg(&path);
        assert!(command.status().unwrap().success());
        let bytes = std::fs::read(&path).unwrap();
        for packed in [bytes.clone(), gzip(&bytes)] {
            let image = get(&world, "disk.vmdk", &packed).await.unwrap();
            assert_eq!((image.format, image.virtual_size), (Format::Qcow2, 8 << 20));
            let back = world.home.path().join("back");
            let mut command = Command::new("qemu-img");
            command
                .args(["convert", "-f", "qcow2", "-O", "raw"])
                .arg(&image.path)
                .arg(&back);
            assert!(command.status().unwrap().success());
            assert!(std::fs::read(&back).unwrap() == content);
            assert_eq!(
                std::fs::read_dir(image.path.parent().unwrap())
                    .unwrap()
                    .count(),
                2
            );
        }
    }
}

#[tokio::test]
async fn a_vmdk_in_several_files_is_refused() {
    let world = World::new();
    let bytes = qemu_img(
        &world,
        "flat.vmdk",
        &["-f", "vmdk", "-o", "subformat=monolithicFlat"],
    );
    let error = refuse(&world, &bytes).await;
    assert_eq!(error.get_kind(), Kind::Verification);
}
