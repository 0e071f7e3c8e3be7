//! A repository as a whole: opened, made, and what is in it.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::SystemTime;

use futures::TryStreamExt;
use object_store::{ObjectStore, local::LocalFileSystem, path::Path};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::chunk::{self, ChunkId};
use crate::error::RepositoryError;
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::tree::Tree;

const MARK: &str = "gantry-backup.json";
const MARK_BYTES_MAX: u64 = 4096;
const FORMAT: u32 = 1;
const BACKUPS: &str = "backups";
/// More are not listed: a repository is not asked to fill the memory of who looks at it.
const BACKUPS_MAX: usize = 100_000;

/// What time it is.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    format: u32,
    repository: Uuid,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    pub(crate) tree: Tree,
    pub(crate) clock: Clock,
    id: Uuid,
}

impl Repository {
    /// The repository in a directory. With `make` an empty directory, or one of which only the last part is missing,
    /// becomes one.
    ///
    /// # Errors
    /// [`RepositoryError::NotARepository`] for anything else.
    pub async fn open_directory(directory: &FilePath, make: bool) -> Result<Self, RepositoryError> {
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
        Self::open(tree, &place, may_make, Arc::new(SystemTime::now)).await
    }

    /// The repository in any store of objects, which has to be strongly consistent; made if it is not there.
    ///
    /// # Errors
    /// As of the store, and [`RepositoryError::NotARepository`] for one of another format.
    pub async fn open_store(store: Arc<dyn ObjectStore>, clock: Clock) -> Result<Self, RepositoryError> {
        let place = store.to_string();
        Self::open(Tree::new(store, None), &place, true, clock).await
    }

    async fn open(tree: Tree, place: &str, make: bool, clock: Clock) -> Result<Self, RepositoryError> {
        let none = |why: &str| RepositoryError::NotARepository { place: place.to_owned(), why: why.to_owned() };
        let path = Path::from(MARK);
        if make && !tree.exists(&path).await? {
            let mark = Mark { format: FORMAT, repository: Uuid::new_v4() };
            let mark = serde_json::to_vec(&mark).map_err(|error| none(&error.to_string()))?;
            // Whoever was faster has made it.
            tree.create(&path, mark).await?;
            tree.sync().await?;
        }
        let found = tree.get(&path, MARK_BYTES_MAX).await?;
        let found = found.ok_or_else(|| none(&format!("it has no {MARK}")))?;
        let bytes = found.map_err(|_| none(&format!("its {MARK} is too large")))?;
        let mark: Mark = serde_json::from_slice(&bytes).map_err(|error| none(&format!("its {MARK}: {error}")))?;
        if mark.format != FORMAT {
            return Err(none(&format!("its format is {}, this version reads {FORMAT}", mark.format)));
        }
        Ok(Self { tree, clock, id: mark.repository })
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    /// # Errors
    /// [`RepositoryError::BackupMissing`], [`RepositoryError::ManifestDamaged`].
    pub async fn manifest(&self, backup: Uuid) -> Result<Manifest, RepositoryError> {
        let found = self.tree.get(&manifest_path(backup), MANIFEST_BYTES_MAX).await?;
        let found = found.ok_or(RepositoryError::BackupMissing { backup })?;
        let too_large = |size| RepositoryError::ManifestDamaged { backup, why: format!("it has {size} bytes") };
        Manifest::decode(backup, &found.map_err(too_large)?)
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
        let too_large = |size| RepositoryError::ChunkDamaged { chunk, why: format!("it takes {size} bytes") };
        let stored = found.map_err(too_large)?;
        let decoded = tokio::task::spawn_blocking(move || chunk::decode(chunk, &stored)).await;
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
