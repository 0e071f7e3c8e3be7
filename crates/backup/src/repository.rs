//! A repository as a whole: opened, made, and what is in it.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::SystemTime;

use futures::TryStreamExt;
use gantry_types::Secret;
use object_store::{ObjectStore, local::LocalFileSystem, path::Path};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::chunk::{self, ChunkId};
use crate::error::RepositoryError;
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::seal::{Forged, Names, Seal, Wrapped};
use crate::tree::{Tree, Unfit};

const MARK: &str = "gantry-backup.json";
const MARK_BYTES_MAX: u64 = 4096;
const FORMAT: u32 = 1;
/// The same, encrypted.
const ENCRYPTED_FORMAT: u32 = 2;
const BACKUPS: &str = "backups";
/// More are not listed: a repository is not asked to fill the memory of who looks at it.
const BACKUPS_MAX: usize = 100_000;

/// What time it is.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    format: u32,
    repository: Uuid,
    /// In an encrypted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encryption: Option<Wrapped>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    pub(crate) tree: Tree,
    pub(crate) clock: Clock,
    pub(crate) names: Names,
    id: Uuid,
}

impl Repository {
    /// The repository in a directory. With `make` an empty directory, or one of which only the last part is missing,
    /// becomes one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) async fn open_directory(
        directory: &FilePath,
        passphrase: Option<&Secret>,
        make: bool,
    ) -> Result<Self, RepositoryError> {
        let place = directory.display().to_string();
        let wanted = directory.to_owned();
        let prepared = tokio::task::spawn_blocking(move || prepare(&wanted, make)).await;
        let prepared = prepared.map_err(std::io::Error::other).and_then(|prepared| prepared);
        let may_make = prepared.map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                RepositoryError::NotARepository { place: place.clone(), why: source.to_string() }
            }
            _ => RepositoryError::Place { doing: "open", place: place.clone(), source },
        })?;
        let store = LocalFileSystem::new_with_prefix(directory).map_err(RepositoryError::store("look"))?;
        let tree = Tree::new(Arc::new(store), Some(directory.to_owned()));
        Self::open_tree(tree, &place, passphrase, may_make, Arc::new(SystemTime::now)).await
    }

    /// The repository in any store of objects, which has to be strongly consistent.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_store(
        store: Arc<dyn ObjectStore>,
        place: &str,
        passphrase: Option<&Secret>,
        make: bool,
        clock: Clock,
    ) -> Result<Self, RepositoryError> {
        let tree = Tree::new(store, None);
        let may_make = make && tree.is_empty().await?;
        Self::open_tree(tree, place, passphrase, may_make, clock).await
    }

    async fn open_tree(
        tree: Tree,
        place: &str,
        passphrase: Option<&Secret>,
        make: bool,
        clock: Clock,
    ) -> Result<Self, RepositoryError> {
        let none = |why: &str| RepositoryError::NotARepository { place: place.to_owned(), why: why.to_owned() };
        let path = Path::from(MARK);
        if make {
            let (format, encryption) = match passphrase {
                Some(passphrase) => (ENCRYPTED_FORMAT, Some(new_key(passphrase.clone(), place).await?)),
                None => (FORMAT, None),
            };
            let mark = Mark { format, repository: Uuid::new_v4(), encryption };
            let mark = serde_json::to_vec(&mark).map_err(|error| none(&error.to_string()))?;
            // Whoever was faster has made it.
            tree.create(&path, mark).await?;
            tree.sync().await?;
        }
        let found = tree.get(&path, MARK_BYTES_MAX).await?;
        let found = found.ok_or_else(|| none(&format!("it has no {MARK}")))?;
        let bytes = found.map_err(|unfit| none(&format!("its {MARK}: {unfit}")))?;
        let mark: Mark = serde_json::from_slice(&bytes).map_err(|error| none(&format!("its {MARK}: {error}")))?;
        let seal = match (mark.format, mark.encryption, passphrase) {
            (FORMAT, None, None) => None,
            (FORMAT, None, Some(_)) => return Err(RepositoryError::NotEncrypted { place: place.to_owned() }),
            (ENCRYPTED_FORMAT, Some(_), None) => {
                return Err(RepositoryError::PassphraseMissing { place: place.to_owned() });
            }
            (ENCRYPTED_FORMAT, Some(wrapped), Some(passphrase)) => {
                Some(unlocked(wrapped, passphrase.clone(), place).await?)
            }
            (format, ..) => {
                return Err(none(&format!(
                    "its format is {format}, this version reads {FORMAT} and {ENCRYPTED_FORMAT}"
                )));
            }
        };
        let names = seal.as_ref().map(|seal| seal.names).unwrap_or_default();
        let tree = match seal {
            Some(seal) => tree.sealed(seal),
            None => tree,
        };
        Ok(Self { tree, clock, names, id: mark.repository })
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    /// # Errors
    /// [`RepositoryError::BackupMissing`], [`RepositoryError::ManifestDamaged`].
    pub async fn manifest(&self, backup: Uuid) -> Result<Manifest, RepositoryError> {
        let found = self.tree.get(&manifest_path(backup), MANIFEST_BYTES_MAX).await?;
        let found = found.ok_or(RepositoryError::BackupMissing { backup })?;
        let damaged = |unfit: Unfit| RepositoryError::ManifestDamaged { backup, why: unfit.to_string() };
        Manifest::decode(backup, &found.map_err(damaged)?)
    }

    /// The ids of all backups, sorted.
    pub async fn backups(&self) -> Result<Vec<Uuid>, RepositoryError> {
        let mut listed = self.tree.list(BACKUPS);
        let mut backups = Vec::new();
        while let Some(path) = listed.try_next().await? {
            backups.extend(path.filename().and_then(|name| Uuid::try_parse(name).ok()));
            if backups.len() > BACKUPS_MAX {
                let why = format!("it has more than {BACKUPS_MAX} backups");
                return Err(RepositoryError::NotARepository { place: self.id.to_string(), why });
            }
        }
        backups.sort();
        Ok(backups)
    }

    /// A chunk's content.
    pub(crate) async fn chunk(&self, chunk: ChunkId) -> Result<Vec<u8>, RepositoryError> {
        if chunk == ChunkId::ZEROS {
            return Ok(vec![0; chunk::CHUNK_BYTES]);
        }
        let found = self.tree.get(&chunk_path(chunk), chunk::STORED_BYTES_MAX).await?;
        let found = found.ok_or(RepositoryError::ChunkMissing { chunk })?;
        let damaged = |unfit: Unfit| RepositoryError::ChunkDamaged { chunk, why: unfit.to_string() };
        let (stored, names) = (found.map_err(damaged)?, self.names);
        let decoded = tokio::task::spawn_blocking(move || chunk::decode(names, chunk, &stored)).await;
        decoded.unwrap_or_else(|error| Err(RepositoryError::ChunkDamaged { chunk, why: error.to_string() }))
    }
}

pub(crate) fn manifest_path(backup: Uuid) -> Path {
    Path::from_iter([BACKUPS, &backup.to_string()])
}

pub(crate) const CHUNKS: &str = "chunks";

/// In 256 directories, so that none has too many entries.
pub(crate) fn chunk_path(chunk: ChunkId) -> Path {
    let name = chunk.to_string();
    Path::from_iter([CHUNKS, &name[..2], &name])
}

/// Deriving a key from a passphrase takes a while, on purpose.
async fn deriving<T: Send + 'static>(
    place: &str,
    derive: impl FnOnce() -> Result<T, Forged> + Send + 'static,
) -> Result<T, RepositoryError> {
    let derived = tokio::task::spawn_blocking(derive).await;
    derived.unwrap_or(Err(Forged)).map_err(|Forged| RepositoryError::PassphraseWrong { place: place.to_owned() })
}

async fn new_key(passphrase: Secret, place: &str) -> Result<Wrapped, RepositoryError> {
    deriving(place, move || Seal::make(passphrase.reveal()).map(|(_, wrapped)| wrapped)).await
}

async fn unlocked(wrapped: Wrapped, passphrase: Secret, place: &str) -> Result<Seal, RepositoryError> {
    deriving(place, move || Seal::unwrap(&wrapped, passphrase.reveal())).await
}

/// Whether the directory may become a repository: nothing of others is in it.
fn prepare(directory: &FilePath, make: bool) -> std::io::Result<bool> {
    if make {
        // Backups are as secret as the disks.
        match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let is_empty = std::fs::read_dir(directory)?.next().is_none();
    Ok(make && is_empty)
}
