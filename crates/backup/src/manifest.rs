//! The manifest of a backup: one line with the BLAKE3 of the rest, then JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::chunk::ChunkId;
use crate::error::RepositoryError;
use crate::map;

const FORMAT: u32 = 1;
/// The ids of eight disks of 64 TiB take less.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 32 << 20;
const DISKS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    pub backup: Uuid,
    /// What the backup is of, for whoever made it; not looked into here.
    pub about: Value,
    pub disks: Vec<DiskManifest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskManifest {
    /// Tells the backup's disks apart.
    pub name: String,
    pub size_bytes: u64,
    #[serde(with = "ids")]
    pub(crate) pieces: Vec<ChunkId>,
}

impl Manifest {
    pub(crate) fn new(backup: Uuid, about: Value, disks: Vec<DiskManifest>) -> Self {
        Self { format: FORMAT, backup, about, disks }
    }

    /// # Errors
    /// [`RepositoryError::DiskMissing`].
    pub fn disk(&self, name: &str) -> Result<&DiskManifest, RepositoryError> {
        let missing = || RepositoryError::DiskMissing { backup: self.backup, disk: name.to_owned() };
        self.disks.iter().find(|disk| disk.name == name).ok_or_else(missing)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, RepositoryError> {
        let json = serde_json::to_vec(self).map_err(|error| self.damaged(error.to_string()))?;
        let mut bytes = blake3::hash(&json).to_hex().as_bytes().to_vec();
        bytes.push(b'\n');
        bytes.extend(json);
        Ok(bytes)
    }

    pub(crate) fn decode(backup: Uuid, bytes: &[u8]) -> Result<Self, RepositoryError> {
        let damaged = |why: &str| RepositoryError::ManifestDamaged { backup, why: why.to_owned() };
        let line = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it is cut off"))?;
        let (sum, json) = (&bytes[..line], &bytes[line + 1..]);
        if sum != blake3::hash(json).to_hex().as_bytes() {
            return Err(damaged("its content has another BLAKE3"));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(|error| damaged(&error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(damaged(&format!("its format is {}, this version reads {FORMAT}", manifest.format)));
        }
        if manifest.backup != backup {
            return Err(damaged("it is another backup's"));
        }
        if manifest.disks.len() > DISKS_MAX {
            return Err(damaged("it has too many disks"));
        }
        for disk in &manifest.disks {
            map::check_size(disk.size_bytes)?;
            if disk.pieces.len() as u64 != map::pieces_of(disk.size_bytes) {
                return Err(damaged(&format!("the map of disk '{}' does not fit its size", disk.name)));
            }
        }
        Ok(manifest)
    }

    fn damaged(&self, why: String) -> RepositoryError {
        RepositoryError::ManifestDamaged { backup: self.backup, why }
    }
}

mod ids {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::chunk::ChunkId;

    pub fn serialize<S: Serializer>(ids: &[ChunkId], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ids.iter().map(ChunkId::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ChunkId>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let id = |text: &String| ChunkId::from_hex(text).ok_or_else(|| D::Error::custom("not a chunk's id"));
        texts.iter().map(id).collect()
    }
}
