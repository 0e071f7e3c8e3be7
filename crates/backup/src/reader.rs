//! Reading a backed-up disk: chunk by chunk for a restore, or anywhere.

use std::sync::Arc;

use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::error::RepositoryError;
use crate::manifest::DiskManifest;
use crate::map::{self, PIECE_CHUNKS, Piece};
use crate::repository::Repository;

/// One disk of a backup. Keeps the last piece and the last chunk: reading in order reads each once.
#[derive(Clone)]
pub struct DiskReader {
    repository: Repository,
    disk: DiskManifest,
    piece: Option<(u64, Piece)>,
    chunk: Option<(u64, Arc<Vec<u8>>)>,
}

impl Repository {
    pub(crate) async fn piece(&self, id: ChunkId) -> Result<Piece, RepositoryError> {
        match id {
            ChunkId::ZEROS => Ok(Piece::empty()),
            id => self.chunk(id).await.map(Piece::from_content),
        }
    }
}

impl DiskReader {
    pub fn new(repository: &Repository, disk: &DiskManifest) -> Self {
        Self { repository: repository.clone(), disk: disk.clone(), piece: None, chunk: None }
    }

    pub fn size_bytes(&self) -> u64 {
        self.disk.size_bytes
    }

    pub fn chunks(&self) -> u64 {
        map::chunks_of(self.disk.size_bytes)
    }

    /// What a place holds; `None` for zeros. A last chunk goes beyond the disk's end, with zeros.
    ///
    /// # Errors
    /// [`RepositoryError::ChunkMissing`] and [`RepositoryError::ChunkDamaged`].
    pub async fn chunk_at(&mut self, place: u64) -> Result<Option<Arc<Vec<u8>>>, RepositoryError> {
        if let Some((at, content)) = &self.chunk
            && *at == place
        {
            return Ok(Some(Arc::clone(content)));
        }
        let id = self.id_at(place).await?;
        if id == ChunkId::ZEROS {
            return Ok(None);
        }
        let content = Arc::new(self.repository.chunk(id).await?);
        self.chunk = Some((place, Arc::clone(&content)));
        Ok(Some(content))
    }

    pub(crate) async fn id_at(&mut self, place: u64) -> Result<ChunkId, RepositoryError> {
        let (number, within) = (place / PIECE_CHUNKS, place % PIECE_CHUNKS);
        if self.piece.as_ref().is_none_or(|(at, _)| *at != number) {
            let id = self.disk.pieces.get(number as usize).copied().unwrap_or(ChunkId::ZEROS);
            self.piece = Some((number, self.repository.piece(id).await?));
        }
        Ok(self.piece.as_ref().map_or(ChunkId::ZEROS, |(_, piece)| piece.get(within)))
    }

    /// Fills `into` with what is at an offset; beyond the end there are zeros.
    ///
    /// # Errors
    /// As [`Self::chunk_at`].
    pub async fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), RepositoryError> {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let (place, begin) = (at / CHUNK_BYTES as u64, (at % CHUNK_BYTES as u64) as usize);
            let length = (CHUNK_BYTES - begin).min(into.len() - done);
            let part = &mut into[done..done + length];
            match self.chunk_at(place).await? {
                Some(content) => part.copy_from_slice(&content[begin..begin + length]),
                None => part.fill(0),
            }
            done += length;
        }
        Ok(())
    }
}
