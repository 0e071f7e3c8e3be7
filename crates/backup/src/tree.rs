//! The repository's objects: bounded reads, and writes that are durable when it counts.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, path::Path};

use crate::error::RepositoryError;
use crate::seal::{Forged, OVERHEAD_BYTES, Seal};

#[derive(Debug, Clone)]
pub(crate) struct Tree {
    store: Arc<dyn ObjectStore>,
    /// Of a repository in a file system: what was written there is durable only once it is synced.
    directory: Option<PathBuf>,
    /// Of an encrypted repository.
    seal: Option<Seal>,
}

/// Why an object is none of the repository's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    TooLarge(u64),
    Forged,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(bytes) => write!(f, "it takes {bytes} bytes"),
            Self::Forged => f.write_str("it was not sealed with the repository's key, or was changed since"),
        }
    }
}

impl Tree {
    pub fn new(store: Arc<dyn ObjectStore>, directory: Option<PathBuf>) -> Self {
        Self { store, directory, seal: None }
    }

    pub fn sealed(self, seal: Seal) -> Self {
        Self { seal: Some(seal), ..self }
    }

    pub async fn is_empty(&self) -> Result<bool, RepositoryError> {
        let first = self.store.list(None).try_next().await;
        first.map(|first| first.is_none()).map_err(RepositoryError::store("list"))
    }

    pub async fn put(&self, path: &Path, bytes: Vec<u8>) -> Result<(), RepositoryError> {
        let bytes = match &self.seal {
            Some(seal) => seal.seal(path.as_ref(), bytes).map_err(|Forged| RepositoryError::NotSealed)?,
            None => bytes,
        };
        self.store.put(path, bytes.into()).await.map(drop).map_err(RepositoryError::store("write"))
    }

    /// As it is, also in an encrypted repository. `false` if it is there already.
    pub async fn create(&self, path: &Path, bytes: Vec<u8>) -> Result<bool, RepositoryError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(path, bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(RepositoryError::store("write")(error)),
        }
    }

    pub async fn exists(&self, path: &Path) -> Result<bool, RepositoryError> {
        match self.store.head(path).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(RepositoryError::store("look")(error)),
        }
    }

    pub async fn get(&self, path: &Path, bytes_max: u64) -> Result<Option<Result<Bytes, Unfit>>, RepositoryError> {
        let bytes_max = bytes_max + if self.seal.is_some() { OVERHEAD_BYTES } else { 0 };
        let found = match self.store.get(path).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(RepositoryError::store("read")(error)),
        };
        if found.meta.size > bytes_max {
            return Ok(Some(Err(Unfit::TooLarge(found.meta.size))));
        }
        let bytes = found.bytes().await.map_err(RepositoryError::store("read"))?;
        Ok(Some(match &self.seal {
            Some(seal) => seal.open(path.as_ref(), bytes.into()).map(Bytes::from).map_err(|Forged| Unfit::Forged),
            None => Ok(bytes),
        }))
    }

    pub fn list(&self, below: &str) -> BoxStream<'static, Result<Path, RepositoryError>> {
        let listed = self.store.list(Some(&Path::from(below)));
        listed.map_ok(|meta| meta.location).map_err(RepositoryError::store("list")).boxed()
    }

    /// Nothing there is fine.
    pub async fn delete(&self, path: &Path) -> Result<(), RepositoryError> {
        match self.store.delete(path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(RepositoryError::store("delete")(error)),
        }
    }

    /// All that was written before is durable afterwards.
    pub async fn sync(&self) -> Result<(), RepositoryError> {
        let Some(directory) = self.directory.clone() else { return Ok(()) };
        let place = directory.display().to_string();
        let sync = move || std::fs::File::open(&directory).and_then(|file| Ok(rustix::fs::syncfs(&file)?));
        let done = tokio::task::spawn_blocking(sync).await.map_err(std::io::Error::other).and_then(|done| done);
        done.map_err(|source| RepositoryError::Place { doing: "sync", place, source })
    }
}
