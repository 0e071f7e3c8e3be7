//! Deleting backups, and the chunks that no manifest names any more.
//!
//! Garbage is collected alone, with all manifests and maps read: if one can't be, nothing is removed, because what it names
//! is not known. Marking takes 32 bytes of memory and some more for each different chunk.

use std::collections::HashSet;

use futures::TryStreamExt;
use uuid::Uuid;

use crate::chunk::ChunkId;
use crate::error::RepositoryError;
use crate::lock::{Kind, Lock};
use crate::repository::{CHUNKS, Repository, manifest_path};

/// How many chunks are removed before it is looked again whether the lock is held.
const BATCH: u64 = 256;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    pub removed_chunks: u64,
    pub kept_chunks: u64,
}

impl Repository {
    /// The backup is gone; one that is not there is fine. Its chunks stay until they are collected.
    ///
    /// # Errors
    /// As of the store.
    pub async fn delete(&self, backup: Uuid) -> Result<(), RepositoryError> {
        self.tree.delete(&manifest_path(backup)).await?;
        self.tree.sync().await
    }

    /// Removes what no backup names.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] while a backup is written; those of the manifests and maps.
    pub async fn collect(&self, holder: &str) -> Result<Collected, RepositoryError> {
        let lock = Lock::take(self, Uuid::new_v4(), Kind::Exclusive, holder).await?;
        let collected = self.collect_alone(&lock).await;
        // What was done counts, whether the lock is given back or runs out.
        let released = lock.release().await;
        let collected = collected?;
        released.map(|()| collected)
    }

    async fn collect_alone(&self, lock: &Lock) -> Result<Collected, RepositoryError> {
        let named = self.named_chunks().await?;
        let mut collected = Collected::default();
        let mut listed = self.tree.list(CHUNKS);
        while let Some(path) = listed.try_next().await? {
            let Some(id) = path.filename().and_then(ChunkId::from_hex) else { continue };
            if named.contains(&id) {
                collected.kept_chunks += 1;
                continue;
            }
            if collected.removed_chunks.is_multiple_of(BATCH) {
                lock.expect_held()?;
            }
            self.tree.delete(&path).await?;
            collected.removed_chunks += 1;
        }
        Ok(collected)
    }

    async fn named_chunks(&self) -> Result<HashSet<ChunkId>, RepositoryError> {
        // Apart from the chunks: a guest may have written what looks like a map.
        let (mut named, mut pieces) = (HashSet::new(), HashSet::new());
        for backup in self.backups().await? {
            let manifest = self.manifest(backup).await?;
            for piece in manifest.disks.iter().flat_map(|disk| &disk.pieces) {
                // Backups share most pieces of their maps.
                if *piece != ChunkId::ZEROS && pieces.insert(*piece) {
                    named.extend(self.piece(*piece).await?.ids());
                }
            }
        }
        named.extend(pieces);
        Ok(named)
    }
}
