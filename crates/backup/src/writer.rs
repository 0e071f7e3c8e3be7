//! A backup that is being written.
//!
//! Chunks come first, in any order, then the maps, and when all of that is durable, the manifest. Whatever ends before that
//! leaves chunks that no manifest names, which the same backup finds again when it is repeated.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use uuid::Uuid;

use crate::chunk::{self, CHUNK_BYTES, ChunkId};
use crate::error::RepositoryError;
use crate::lock::{Kind, Lock};
use crate::manifest::{DiskManifest, Manifest};
use crate::map::{self, PIECE_CHUNKS, Piece};
use crate::repository::{Repository, chunk_path, manifest_path};

pub struct BackupWriter {
    repository: Repository,
    backup: Uuid,
    lock: Lock,
    written_bytes: AtomicU64,
}

/// What a backup took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Sizes of the disks.
    pub disk_bytes: u64,
    /// New in the repository, compressed.
    pub written_bytes: u64,
}

/// A disk's map in the making.
pub struct DiskWriter {
    name: String,
    size_bytes: u64,
    /// The pieces that are different from those that it began with.
    changed: BTreeMap<u64, Piece>,
    /// As it began.
    pieces: Vec<ChunkId>,
}

impl Repository {
    /// Begins a backup; nobody removes chunks from here on. `holder` says for people who writes.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`].
    pub async fn write(&self, backup: Uuid, holder: &str) -> Result<BackupWriter, RepositoryError> {
        let lock = Lock::take(self, backup, Kind::Shared, holder).await?;
        Ok(BackupWriter { repository: self.clone(), backup, lock, written_bytes: AtomicU64::new(0) })
    }
}

impl DiskWriter {
    /// A disk that is all zeros until told otherwise.
    ///
    /// # Errors
    /// [`RepositoryError::DiskSize`].
    pub fn empty(name: &str, size_bytes: u64) -> Result<Self, RepositoryError> {
        map::check_size(size_bytes)?;
        let pieces = vec![ChunkId::ZEROS; map::pieces_of(size_bytes) as usize];
        Ok(Self { name: name.to_owned(), size_bytes, changed: BTreeMap::new(), pieces })
    }

    /// A disk that is as in an earlier backup until told otherwise; it may have grown.
    ///
    /// # Errors
    /// [`RepositoryError::DiskSize`].
    pub fn like(earlier: &DiskManifest, size_bytes: u64) -> Result<Self, RepositoryError> {
        let mut writer = Self::empty(&earlier.name, size_bytes.max(earlier.size_bytes))?;
        writer.pieces[..earlier.pieces.len()].copy_from_slice(&earlier.pieces);
        Ok(writer)
    }

    pub fn chunks(&self) -> u64 {
        map::chunks_of(self.size_bytes)
    }
}

impl BackupWriter {
    /// Keeps a chunk's content, which is filled up with zeros, unless it is there already. May be called for several at once.
    ///
    /// # Errors
    /// As of the store.
    pub async fn keep(&self, mut content: Vec<u8>) -> Result<ChunkId, RepositoryError> {
        content.resize(CHUNK_BYTES, 0);
        let names = self.repository.names;
        let hash = move || (names.of(&content), content);
        let (id, content) = blocking(hash).await?;
        let path = chunk_path(id);
        if id == ChunkId::ZEROS || self.repository.tree.exists(&path).await? {
            return Ok(id);
        }
        let stored = blocking(move || chunk::encode(&content)).await?;
        self.written_bytes.fetch_add(stored.len() as u64, Ordering::Relaxed);
        self.repository.tree.put(&path, stored).await?;
        Ok(id)
    }

    /// Notes which chunk a disk has at a place. Places come in ascending order, or pieces are read again and again.
    ///
    /// # Errors
    /// As for reading the piece that the disk began with.
    pub async fn note(&self, disk: &mut DiskWriter, place: u64, id: ChunkId) -> Result<(), RepositoryError> {
        let (piece, within) = (place / PIECE_CHUNKS, place % PIECE_CHUNKS);
        if !disk.changed.contains_key(&piece) {
            let begun = self.repository.piece(disk.pieces[piece as usize]).await?;
            disk.changed.insert(piece, begun);
        }
        if let Some(changed) = disk.changed.get_mut(&piece) {
            changed.set(within, id);
        }
        // Those behind are not touched again: kept, so that a map of any size takes little memory.
        while let Some(done) = disk.changed.first_entry().filter(|first| *first.key() < piece) {
            let (at, done) = done.remove_entry();
            disk.pieces[at as usize] = self.keep(done.content().to_vec()).await?;
        }
        Ok(())
    }

    /// Makes the backup one. What `about` says of its figures and of its disks' names and sizes is kept with it as it is.
    ///
    /// # Errors
    /// [`RepositoryError::LockLost`] if chunks may have been removed meanwhile; the backup is not there then.
    pub async fn finish(
        self,
        about: impl FnOnce(Figures, &[(String, u64)]) -> Value,
        disks: Vec<DiskWriter>,
    ) -> Result<Figures, RepositoryError> {
        let mut figures = Figures::default();
        let sizes: Vec<_> = disks.iter().map(|disk| (disk.name.clone(), disk.size_bytes)).collect();
        let mut done = Vec::new();
        for mut disk in disks {
            figures.disk_bytes += disk.size_bytes;
            for (at, piece) in std::mem::take(&mut disk.changed) {
                disk.pieces[at as usize] = self.keep(piece.content().to_vec()).await?;
            }
            done.push(DiskManifest { name: disk.name, size_bytes: disk.size_bytes, pieces: disk.pieces });
        }
        figures.written_bytes = self.written_bytes.load(Ordering::Relaxed);
        let manifest = Manifest::new(self.backup, about(figures, &sizes), done).encode()?;
        self.repository.tree.sync().await?;
        self.lock.expect_held()?;
        let path = manifest_path(self.backup);
        self.repository.tree.put(&path, manifest).await?;
        self.repository.tree.sync().await?;
        if let Err(lost) = self.lock.expect_held() {
            self.repository.tree.delete(&path).await?;
            return Err(lost);
        }
        self.lock.release().await?;
        Ok(figures)
    }

    /// Gives up. What was written is garbage.
    ///
    /// # Errors
    /// As of the store; the lock runs out by itself then.
    pub async fn abandon(self) -> Result<(), RepositoryError> {
        self.lock.release().await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RepositoryError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RepositoryError::Place {
        doing: "work for",
        place: "in memory".to_owned(),
        source: std::io::Error::other(error),
    })
}
