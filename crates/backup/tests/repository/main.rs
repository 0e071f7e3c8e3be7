//! Repositories in memory and in directories: what comes out is what went in, or it is said what is lost.

mod buckets;
mod encryption;
mod faults;
mod guest_files;
mod properties;
#[path = "../s3_server/mod.rs"]
mod s3_server;
mod support;

use gantry_backup::{CHUNK_BYTES, Lost, RepositoryError};
use object_store::memory::InMemory;
use std::sync::Arc;
use support::{disk_of, in_memory, read_back, write_backup};
use uuid::Uuid;

/// Every file below the chunks of a repository in a directory.
fn chunk_files(root: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for directory in std::fs::read_dir(root.join("chunks")).unwrap() {
        files.extend(std::fs::read_dir(directory.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    files
}

#[tokio::test]
async fn a_second_backup_keeps_only_what_is_new() {
    let repository = in_memory().await;
    let mut content = disk_of(40, 1);
    let first = write_backup(&repository, Uuid::new_v4(), &content).await.unwrap();
    let (_, again) = (first, write_backup(&repository, Uuid::new_v4(), &content).await.unwrap());
    assert_eq!(again.written_bytes, 0);
    content[5 * CHUNK_BYTES + 7] ^= 1;
    let changed = write_backup(&repository, Uuid::new_v4(), &content).await.unwrap();
    // One chunk of the disk and one of its map.
    assert!(changed.written_bytes <= 2 * (CHUNK_BYTES as u64 + 1), "{changed:?}");
    assert_eq!(changed.disk_bytes, content.len() as u64);
}

#[tokio::test]
async fn what_is_zero_takes_nothing() {
    let repository = in_memory().await;
    let backup = Uuid::new_v4();
    let content = vec![0; 10 * CHUNK_BYTES + 512];
    assert_eq!(write_backup(&repository, backup, &content).await.unwrap().written_bytes, 0);
    assert_eq!(read_back(&repository, backup).await.unwrap(), content);
}

#[tokio::test]
async fn a_damaged_chunk_is_found_with_all_that_is_lost_by_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("repository");
    let repository = support::open_directory(&root, true).await.unwrap();
    let (whole, damaged) = (Uuid::new_v4(), Uuid::new_v4());
    let mut content = disk_of(4, 3);
    write_backup(&repository, whole, &content).await.unwrap();
    let before = chunk_files(&root);
    // Twice in a row, and once more further on: one chunk in the repository.
    let block = content[..CHUNK_BYTES].iter().map(|byte| byte ^ 0x5a).collect::<Vec<_>>();
    for place in [1, 2] {
        content[place * CHUNK_BYTES..(place + 1) * CHUNK_BYTES].copy_from_slice(&block);
    }
    content.truncate(4 * CHUNK_BYTES - 512);
    content.extend(vec![0; 512]);
    write_backup(&repository, damaged, &content).await.unwrap();
    let wanted = gantry_backup::ChunkId::of(&block).to_string();
    let file = chunk_files(&root).into_iter().find(|file| file.ends_with(&wanted)).unwrap();
    assert!(!before.contains(&file));
    let mut stored = std::fs::read(&file).unwrap();
    let middle = stored.len() / 2;
    stored[middle] ^= 0x10;
    std::fs::write(&file, stored).unwrap();

    assert!(repository.verify(whole, || {}).await.unwrap().lost.is_empty());
    let lost = repository.verify(damaged, || {}).await.unwrap().lost;
    let [Lost { disk, offset_bytes, length_bytes, why }] = lost.as_slice() else { panic!("{lost:?}") };
    assert_eq!((disk.as_str(), *offset_bytes), ("disk", CHUNK_BYTES as u64));
    assert_eq!(*length_bytes, 2 * CHUNK_BYTES as u64);
    assert!(why.contains(&wanted), "{why}");
    assert!(matches!(read_back(&repository, damaged).await, Err(RepositoryError::ChunkDamaged { .. })));

    std::fs::remove_file(&file).unwrap();
    let lost = repository.verify(damaged, || {}).await.unwrap().lost;
    assert!(lost.len() == 1 && lost[0].why.contains("missing"), "{lost:?}");
    assert_eq!(read_back(&repository, whole).await.unwrap(), disk_of(4, 3));
}

#[tokio::test]
async fn collecting_removes_what_no_backup_names_and_nothing_else() {
    let repository = in_memory().await;
    let (kept, deleted) = (Uuid::new_v4(), Uuid::new_v4());
    let (ours, theirs) = (disk_of(6, 1), disk_of(6, 2));
    write_backup(&repository, kept, &ours).await.unwrap();
    write_backup(&repository, deleted, &theirs).await.unwrap();
    assert_eq!(repository.collect("a test").await.unwrap().removed_chunks, 0);
    for _ in 0..2 {
        repository.delete(deleted).await.unwrap();
    }
    let collected = repository.collect("a test").await.unwrap();
    assert_eq!((collected.removed_chunks, collected.kept_chunks), (7, 7));
    assert_eq!(repository.backups().await.unwrap(), [kept]);
    assert_eq!(read_back(&repository, kept).await.unwrap(), ours);
}

/// A guest can write what looks like a map, even before it is one.
#[tokio::test]
async fn content_that_equals_a_map_does_not_make_its_chunks_garbage() {
    let repository = in_memory().await;
    let victim = Uuid::new_v4();
    let content = disk_of(3, 1);
    write_backup(&repository, victim, &content).await.unwrap();
    let mut map = vec![0; CHUNK_BYTES];
    for (place, chunk) in content.chunks(CHUNK_BYTES).enumerate() {
        map[place * 32..(place + 1) * 32].copy_from_slice(blake3_of(chunk).as_slice());
    }
    for _ in 0..8 {
        write_backup(&repository, Uuid::new_v4(), &map).await.unwrap();
    }
    repository.collect("a test").await.unwrap();
    assert_eq!(read_back(&repository, victim).await.unwrap(), content);
}

fn blake3_of(content: &[u8]) -> Vec<u8> {
    let text = gantry_backup::ChunkId::of(content).to_string();
    (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn nobody_removes_chunks_while_a_backup_is_written() {
    let clock = support::SteppedClock::default();
    let store = Arc::new(InMemory::new());
    let repository = support::open(store.clone(), clock.clock()).await.unwrap();
    let writer = repository.write(Uuid::new_v4(), "host 'host-1'").await.unwrap();
    let refused = repository.collect("a test").await.unwrap_err();
    assert!(matches!(&refused, RepositoryError::Locked { holder } if holder.contains("host-1")), "{refused}");
    // Another writer is in nobody's way.
    repository.write(Uuid::new_v4(), "host 'host-2'").await.unwrap().abandon().await.unwrap();
    // Its holder is thought to be dead: chunks may be gone, so there will be no manifest.
    clock.advance(std::time::Duration::from_secs(300));
    repository.collect("a test").await.unwrap();
    let lost = writer.finish(|_, _| serde_json::Value::Null, Vec::new()).await.unwrap_err();
    assert!(matches!(lost, RepositoryError::LockLost), "{lost}");
    assert!(repository.backups().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_directory_with_other_things_in_it_does_not_become_a_repository() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("letter.txt"), "dear").unwrap();
    for make in [false, true] {
        let refused = support::open_directory(directory.path(), make).await.map(drop).unwrap_err();
        assert!(matches!(refused, RepositoryError::NotARepository { .. }), "{refused}");
    }
    let missing = directory.path().join("a/b");
    assert!(support::open_directory(&missing, true).await.is_err());
    assert!(!missing.exists());
    let made = directory.path().join("new");
    let id = support::open_directory(&made, true).await.unwrap().id();
    assert_eq!(support::open_directory(&made, false).await.unwrap().id(), id);
}
