//! A disk's map: the ids of its chunks in order, cut into pieces that are chunks themselves.
//!
//! So the map of a disk of which little changed shares most pieces with the one before.

use crate::chunk::{CHUNK_BYTES, ChunkId};
use crate::error::RepositoryError;

const ID_BYTES: usize = 32;
/// Ids in a piece.
pub(crate) const PIECE_CHUNKS: u64 = (CHUNK_BYTES / ID_BYTES) as u64;
const DISK_BYTES_MAX: u64 = 64 << 40;
const SECTOR_BYTES: u64 = 512;

pub(crate) fn chunks_of(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(CHUNK_BYTES as u64)
}

pub(crate) fn pieces_of(size_bytes: u64) -> u64 {
    chunks_of(size_bytes).div_ceil(PIECE_CHUNKS)
}

/// # Errors
/// [`RepositoryError::DiskSize`].
pub(crate) fn check_size(size_bytes: u64) -> Result<(), RepositoryError> {
    if size_bytes == 0 || size_bytes > DISK_BYTES_MAX || !size_bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(RepositoryError::DiskSize { size_bytes });
    }
    Ok(())
}

/// A piece in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece(Vec<u8>);

impl Piece {
    pub fn empty() -> Self {
        Self(vec![0; CHUNK_BYTES])
    }

    /// `content` is a chunk's, so it has a chunk's size.
    pub fn from_content(content: Vec<u8>) -> Self {
        Self(content)
    }

    pub fn content(&self) -> &[u8] {
        &self.0
    }

    /// The id at a place; places count within the piece.
    pub fn get(&self, place: u64) -> ChunkId {
        let at = place as usize * ID_BYTES;
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&self.0[at..at + ID_BYTES]);
        ChunkId(id)
    }

    pub fn set(&mut self, place: u64, id: ChunkId) {
        let at = place as usize * ID_BYTES;
        self.0[at..at + ID_BYTES].copy_from_slice(&id.0);
    }

    pub fn ids(&self) -> impl Iterator<Item = ChunkId> {
        (0..PIECE_CHUNKS).map(|place| self.get(place))
    }
}
