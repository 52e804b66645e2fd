//! What is kept besides images.

use super::*;
use crate::error::Kind;

fn digest(bytes: &[u8]) -> Digest {
    Digest::new(Algorithm::Sha256, &sha256(bytes)).unwrap()
}

impl World {
    async fn bring(&self, name: &str, content: &[u8]) -> Fetched {
        let url = self.server.put(name, content);
        file(&[url], &digest(content), &self.cx()).await.unwrap()
    }

    fn listed(&self) -> Vec<(FileKind, String)> {
        let files = files(&self.dirs).unwrap().into_iter();
        files
            .map(|file| (file.kind, file.origin.unwrap_or_default()))
            .collect()
    }
}

#[tokio::test]
async fn files_and_documents_are_listed_with_where_they_came_from() {
    let world = World::new();
    let kept = world.bring("tool.tgz?token=secret", b"tool").await;
    assert!(kept.path.exists());
    let document = world.server.put("release.json", "{}");
    super::document(&document, &world.cx()).await.unwrap();
    let expected = [
        (FileKind::Fetched, world.server.url("tool.tgz")),
        (FileKind::Document, document),
    ];
    assert_eq!(world.listed(), expected);
    let listed = &files(&world.dirs).unwrap()[0];
    assert_eq!(listed.digest, digest(b"tool"));
    assert!(listed.allocated > 0);
}

#[tokio::test]
async fn a_removed_file_is_fetched_again() {
    let world = World::new();
    drop(world.bring("tool", b"tool").await);
    let prefix = sha256(b"tool")[..10].to_owned();
    let removed = remove(&world.dirs, &prefix).unwrap();
    assert!(matches!(removed, Cached::File(file) if file.digest == digest(b"tool")));
    assert_eq!(world.listed(), []);
    world.bring("tool", b"tool").await;
    assert_eq!(world.server.gets("tool").len(), 2);
}

#[tokio::test]
async fn a_file_in_use_is_not_removed() {
    let world = World::new();
    let used = world.bring("tool", b"tool").await;
    let error = remove(&world.dirs, &sha256(b"tool")).unwrap_err();
    assert_eq!(error.get_kind(), Kind::Conflict);
    assert!(used.path.exists());
    drop(used);
    remove(&world.dirs, &sha256(b"tool")).unwrap();
}

#[tokio::test]
async fn a_removed_document_is_gone_offline() {
    let mut world = World::new();
    let url = world.server.put("release.json", "{}");
    super::document(&url, &world.cx()).await.unwrap();
    world.offline = true;
    super::document(&url, &world.cx()).await.unwrap();
    remove(&world.dirs, &sha256(url.as_bytes())).unwrap();
    super::document(&url, &world.cx()).await.unwrap_err();
    assert_eq!(world.listed(), []);
}

#[tokio::test]
async fn of_an_image_and_a_file_with_one_digest_the_image_goes_first() {
    let world = World::new();
    let url = world.server.put("disk.img", disk());
    drop(world.get(&pinned(&url, &disk())).await.unwrap());
    drop(world.bring("disk.img", &disk()).await);
    let first = remove(&world.dirs, &sha256(&disk())).unwrap();
    assert!(matches!(first, Cached::Image(_)));
    let second = remove(&world.dirs, &sha256(&disk())).unwrap();
    assert!(matches!(second, Cached::File(_)));
    assert_eq!(world.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_file_kept_by_sha512_is_removed_by_it() {
    let world = World::new();
    let url = world.server.put("tool", "tool");
    let digest = Digest::new(Algorithm::Sha512, &sha512(b"tool")).unwrap();
    drop(file(&[url], &digest, &world.cx()).await.unwrap());
    let prefix = digest.hex[..8].to_owned();
    remove(&world.dirs, &format!("sha256:{prefix}")).unwrap_err();
    remove(&world.dirs, &format!("sha512:{prefix}")).unwrap();
    assert_eq!(world.listed(), []);
}
