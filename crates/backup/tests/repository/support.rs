//! Disks of bytes, and backups of them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use gantry_backup::{CHUNK_BYTES, Clock, DiskReader, DiskWriter, Figures, Repository, RepositoryError};
use gantry_types::{RepositoryDirectory, RepositoryPlace};
use object_store::{ObjectStore, memory::InMemory};
use serde_json::json;
use uuid::Uuid;

/// Time that goes on when it is told to.
#[derive(Debug, Clone, Default)]
pub struct SteppedClock(Arc<AtomicU64>);

impl SteppedClock {
    pub fn clock(&self) -> Clock {
        let seconds = Arc::clone(&self.0);
        Arc::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds.load(Ordering::Relaxed)))
    }
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

pub async fn in_memory() -> Repository {
    open(Arc::new(InMemory::new()), SteppedClock::default().clock()).await.unwrap()
}

pub async fn open(store: Arc<dyn ObjectStore>, clock: Clock) -> Result<Repository, RepositoryError> {
    Repository::open_store(store, "the tests' store", None, true, clock).await
}

pub fn place_of(directory: &Path) -> RepositoryPlace {
    RepositoryPlace::Directory(RepositoryDirectory { path: directory.to_str().unwrap().to_owned() })
}

pub async fn open_directory(directory: &Path, make: bool) -> Result<Repository, RepositoryError> {
    Repository::open(&place_of(directory), None, make).await
}

/// Content that does not get smaller, another one for each seed; each chunk is different.
pub fn disk_of(chunks: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..chunks * CHUNK_BYTES / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

pub async fn write_backup(repository: &Repository, backup: Uuid, content: &[u8]) -> Result<Figures, RepositoryError> {
    let writer = repository.write(backup, "a test").await?;
    let mut disk = DiskWriter::empty("disk", content.len() as u64)?;
    for (place, chunk) in content.chunks(CHUNK_BYTES).enumerate() {
        let id = writer.keep(chunk.to_vec()).await?;
        writer.note(&mut disk, place as u64, id).await?;
    }
    writer.finish(|_, _| json!({"of": "a test"}), vec![disk]).await
}

pub async fn read_back(repository: &Repository, backup: Uuid) -> Result<Vec<u8>, RepositoryError> {
    let manifest = repository.manifest(backup).await?;
    let mut reader = DiskReader::new(repository, manifest.disk("disk")?);
    let mut content = vec![0xee; reader.size_bytes() as usize];
    reader.read_at(0, &mut content).await?;
    Ok(content)
}
