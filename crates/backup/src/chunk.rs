//! A chunk: 256 KiB of content, its name, and its form in the repository.
//!
//! ```text
//!  u8 encoding (0 as it is, 1 zstd), then the content in it
//! ```
//! Every chunk has this size; a disk's last one is filled up with zeros.

use std::fmt;

use crate::error::RepositoryError;
use crate::seal::Names;

pub const CHUNK_BYTES: usize = 256 << 10;
/// A content that does not get smaller is kept as it is.
pub(crate) const STORED_BYTES_MAX: u64 = 1 + CHUNK_BYTES as u64;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
const LEVEL: i32 = 3;

/// The BLAKE3 of a chunk's content, made with a key in an encrypted repository; [`ChunkId::ZEROS`] stands for content that is all zeros and not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub(crate) [u8; 32]);

impl ChunkId {
    pub const ZEROS: Self = Self([0; 32]);

    pub fn of(content: &[u8]) -> Self {
        if content.iter().all(|byte| *byte == 0) {
            return Self::ZEROS;
        }
        Self(*blake3::hash(content).as_bytes())
    }

    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(*hash.as_bytes()))
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A chunk's content as it is kept.
pub(crate) fn encode(content: &[u8]) -> Vec<u8> {
    let mut stored = vec![0; STORED_BYTES_MAX as usize];
    // What does not fit into less than the content takes is an error of the compressor, and kept as it is.
    if let Ok(length) = zstd::bulk::compress_to_buffer(content, &mut stored[1..content.len().max(1)], LEVEL) {
        stored[0] = ZSTD;
        stored.truncate(1 + length);
        return stored;
    }
    stored[0] = PLAIN;
    stored[1..].copy_from_slice(content);
    stored
}

/// The content of what is kept under this id.
///
/// # Errors
/// [`RepositoryError::ChunkDamaged`] if it is not that.
pub(crate) fn decode(names: Names, chunk: ChunkId, stored: &[u8]) -> Result<Vec<u8>, RepositoryError> {
    let damaged = |why: String| RepositoryError::ChunkDamaged { chunk, why };
    let content = match stored.split_first() {
        Some((&PLAIN, content)) => content.to_vec(),
        // The capacity bounds what comes out, whatever the frame says of itself.
        Some((&ZSTD, packed)) => {
            zstd::bulk::decompress(packed, CHUNK_BYTES).map_err(|error| damaged(error.to_string()))?
        }
        Some((encoding, _)) => return Err(damaged(format!("its encoding {encoding} is unknown"))),
        None => return Err(damaged("it is empty".to_owned())),
    };
    if content.len() != CHUNK_BYTES {
        return Err(damaged(format!("it has {} bytes", content.len())));
    }
    if names.of(&content) != chunk {
        return Err(damaged("its content has another BLAKE3".to_owned()));
    }
    Ok(content)
}
