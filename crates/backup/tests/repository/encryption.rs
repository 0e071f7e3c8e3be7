//! Encrypted repositories: nothing is read without the passphrase, and nothing is believed that was changed.

use std::path::Path;

use gantry_backup::{CHUNK_BYTES, Repository, RepositoryError};
use gantry_types::Secret;
use uuid::Uuid;

use crate::chunk_files;
use crate::support::{disk_of, open_directory, place_of, read_back, write_backup};

async fn open(directory: &Path, passphrase: &str, make: bool) -> Result<Repository, RepositoryError> {
    Repository::open(&place_of(directory), Some(&Secret::new(passphrase)), make).await
}

fn files_below(root: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn only_the_passphrase_opens_it_and_nothing_in_it_is_readable() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("sealed");
    let repository = open(&place, "correct horse", true).await.unwrap();
    let (backup, content) = (Uuid::new_v4(), b"the guest secret".repeat(CHUNK_BYTES / 8));
    write_backup(&repository, backup, &content).await.unwrap();
    assert_eq!(write_backup(&repository, Uuid::new_v4(), &content).await.unwrap().written_bytes, 0);

    let refused = open_directory(&place, true).await.map(drop).unwrap_err();
    assert!(matches!(refused, RepositoryError::PassphraseMissing { .. }), "{refused}");
    let refused = open(&place, "incorrect horse", true).await.map(drop).unwrap_err();
    assert!(matches!(refused, RepositoryError::PassphraseWrong { .. }), "{refused}");
    assert_eq!(read_back(&open(&place, "correct horse", false).await.unwrap(), backup).await.unwrap(), content);

    let name = blake3::hash(&content[..CHUNK_BYTES]).to_hex().to_string();
    for file in files_below(&place) {
        let kept = std::fs::read(&file).unwrap();
        for readable in ["secret", "a test"] {
            assert!(!kept.windows(readable.len()).any(|part| part == readable.as_bytes()), "{}", file.display());
        }
        assert!(!file.to_string_lossy().contains(&name), "who knows a content finds it by its name");
    }

    let plain = root.path().join("plain");
    open_directory(&plain, true).await.unwrap();
    let refused = open(&plain, "correct horse", true).await.map(drop).unwrap_err();
    assert!(matches!(refused, RepositoryError::NotEncrypted { .. }), "{refused}");
}

#[tokio::test]
async fn what_is_put_in_anothers_place_or_changed_is_lost_and_said_to_be() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().join("sealed");
    let repository = open(&place, "correct horse", true).await.unwrap();
    let (backup, other) = (Uuid::new_v4(), Uuid::new_v4());
    write_backup(&repository, backup, &disk_of(2, 1)).await.unwrap();
    write_backup(&repository, other, &disk_of(1, 2)).await.unwrap();
    // A manifest under another's name.
    let manifest = |id: Uuid| place.join("backups").join(id.to_string());
    let own = std::fs::read(manifest(backup)).unwrap();
    std::fs::copy(manifest(other), manifest(backup)).unwrap();
    let damaged = repository.manifest(backup).await.unwrap_err();
    assert!(matches!(&damaged, RepositoryError::ManifestDamaged { why, .. } if why.contains("sealed")), "{damaged}");
    std::fs::write(manifest(backup), own).unwrap();
    for chunk in chunk_files(&place) {
        let mut kept = std::fs::read(&chunk).unwrap();
        *kept.last_mut().unwrap() ^= 1;
        std::fs::write(&chunk, kept).unwrap();
    }
    let lost = repository.verify(backup, || ()).await.unwrap().lost;
    assert_eq!((lost.len(), lost[0].length_bytes), (1, 2 * CHUNK_BYTES as u64));
    assert!(lost[0].why.contains("sealed"), "{lost:?}");
}
