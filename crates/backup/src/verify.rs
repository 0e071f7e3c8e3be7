//! Reads all that backups name, and says exactly what of them is lost.

use std::collections::HashMap;

use uuid::Uuid;

use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::error::RepositoryError;
use crate::manifest::{DiskManifest, Manifest};
use crate::map::{self, PIECE_CHUNKS};
use crate::repository::Repository;

/// A part of a disk that can't be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    pub disk: String,
    pub offset_bytes: u64,
    pub length_bytes: u64,
    pub why: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Neighbouring parts that are lost for the same reason are one.
    pub lost: Vec<Lost>,
    /// Of content that was read and is right.
    pub checked_bytes: u64,
}

impl Repository {
    /// Reads every chunk of a backup once. `on_chunk` hears of each place that was looked at.
    ///
    /// # Errors
    /// Those of the manifest and the store; what is damaged below the manifest is in the answer.
    pub async fn verify(&self, backup: Uuid, on_chunk: impl Fn()) -> Result<Verification, RepositoryError> {
        let manifest = self.manifest(backup).await?;
        self.verify_manifest(&manifest, on_chunk).await
    }

    async fn verify_manifest(&self, manifest: &Manifest, on_chunk: impl Fn()) -> Result<Verification, RepositoryError> {
        let mut verification = Verification::default();
        let mut known = HashMap::new();
        for disk in &manifest.disks {
            for (number, id) in disk.pieces.iter().enumerate() {
                let first = number as u64 * PIECE_CHUNKS;
                let piece = match self.piece(*id).await {
                    Ok(piece) => piece,
                    Err(error) => {
                        let why = format!("its map can't be read: {}", damage(error)?);
                        verification.lose(disk, first, PIECE_CHUNKS, why);
                        continue;
                    }
                };
                let places = PIECE_CHUNKS.min(map::chunks_of(disk.size_bytes) - first);
                for place in 0..places {
                    let id = piece.get(place);
                    match self.check(&mut known, id).await? {
                        None if id == ChunkId::ZEROS => {}
                        None => verification.checked_bytes += CHUNK_BYTES as u64,
                        Some(why) => verification.lose(disk, first + place, 1, why),
                    }
                    on_chunk();
                }
            }
        }
        Ok(verification)
    }

    /// Why a chunk can't be read, if so. Each is read once, however often it is named.
    async fn check(
        &self,
        known: &mut HashMap<ChunkId, Option<String>>,
        id: ChunkId,
    ) -> Result<Option<String>, RepositoryError> {
        if id == ChunkId::ZEROS {
            return Ok(None);
        }
        if let Some(why) = known.get(&id) {
            return Ok(why.clone());
        }
        let why = match self.chunk(id).await {
            Ok(_) => None,
            Err(error) => Some(damage(error)?),
        };
        known.insert(id, why.clone());
        Ok(why)
    }
}

/// What damage an error is; any other is an error.
fn damage(error: RepositoryError) -> Result<String, RepositoryError> {
    match error {
        RepositoryError::ChunkMissing { .. } | RepositoryError::ChunkDamaged { .. } => Ok(error.to_string()),
        other => Err(other),
    }
}

impl Verification {
    fn lose(&mut self, disk: &DiskManifest, place: u64, places: u64, why: String) {
        let offset_bytes = place * CHUNK_BYTES as u64;
        let length_bytes = (places * CHUNK_BYTES as u64).min(disk.size_bytes - offset_bytes);
        if let Some(last) = self.lost.last_mut()
            && last.disk == disk.name
            && last.why == why
            && last.offset_bytes + last.length_bytes == offset_bytes
        {
            last.length_bytes += length_bytes;
            return;
        }
        self.lost.push(Lost { disk: disk.name.clone(), offset_bytes, length_bytes, why });
    }
}
