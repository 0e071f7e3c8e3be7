//! A directory of standalone qcow2 images, each named by the SHA-256 of its file.
//!
//! ```text
//! <directory>/<sha256>.qcow2   read-only, readable by every VM's uid
//! <directory>/.staging/        work in progress
//! ```
//!
//! A file under its final name was verified when it got there and never changes. The controller
//! keeps one store; each host's pool keeps another as its cache.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gantry_types::ImageFormat;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::blocking::blocking;
use crate::digest::Sha256Digest;
use crate::error::StorageError;
use crate::probe;
use crate::staging::{StagingArea, create_passable_dir, sync_dir};

pub(crate) const IMAGE_FILE_MODE: u32 = 0o444;
const ARRIVING: &str = "arriving.qcow2";
const CHUNK_BYTES: usize = 256 << 10;

/// An image that is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    pub sha256: Sha256Digest,
    pub path: PathBuf,
    pub virtual_size_bytes: u64,
    pub file_size_bytes: u64,
}

/// Cheap to clone; clones share their locks.
#[derive(Debug, Clone)]
pub struct ImageStore {
    directory: PathBuf,
    staging: StagingArea,
    arrivals: Arc<Arrivals>,
}

type ArrivalLock = tokio::sync::Mutex<()>;

/// One lock per image that is being fetched, so that it is fetched once.
#[derive(Debug, Default)]
struct Arrivals(Mutex<HashMap<Sha256Digest, Weak<ArrivalLock>>>);

impl Arrivals {
    fn lock_of(&self, image: Sha256Digest) -> Arc<ArrivalLock> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = locks.get(&image).and_then(Weak::upgrade).unwrap_or_default();
        locks.insert(image, Arc::downgrade(&lock));
        lock
    }
}

impl ImageStore {
    /// Opens or creates the store at an absolute path.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        let failed = || StorageError::io("opening the image store", directory);
        create_passable_dir(directory).map_err(failed())?;
        let directory = directory.canonicalize().map_err(failed())?;
        // The path is written into overlays as text.
        if directory.to_str().is_none() {
            return Err(StorageError::BadDirectory { path: directory, reason: "its path is not UTF-8" });
        }
        let staging = StagingArea::open(directory.join(".staging")).map_err(failed())?;
        Ok(Self { directory, staging, arrivals: Arc::default() })
    }

    /// Where the store is.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Where an image is, or would be.
    pub fn image_path(&self, image: Sha256Digest) -> PathBuf {
        self.directory.join(format!("{image}.qcow2"))
    }

    pub(crate) fn staging(&self) -> &StagingArea {
        &self.staging
    }

    /// The image, if it is present.
    pub async fn get(&self, image: Sha256Digest) -> Result<Option<StoredImage>, StorageError> {
        let store = self.clone();
        blocking(move || store.find(image)).await
    }

    /// All images present, by digest.
    pub async fn list(&self) -> Result<Vec<StoredImage>, StorageError> {
        let store = self.clone();
        blocking(move || store.find_all()).await
    }

    /// Makes an image present: `open` is called, and its bytes are read and verified, only if it
    /// is not. Calls for one image wait for each other, so it is fetched once.
    ///
    /// A transfer that breaks or arrives damaged leaves nothing; call again to start it over.
    pub async fn ensure<O, F, R>(
        &self,
        image: Sha256Digest,
        max_file_bytes: u64,
        open: O,
    ) -> Result<StoredImage, StorageError>
    where
        O: FnOnce() -> F,
        F: Future<Output = io::Result<R>>,
        R: AsyncRead + Unpin,
    {
        let lock = self.arrivals.lock_of(image);
        let _fetching = lock.lock().await;
        if let Some(present) = self.get(image).await? {
            return Ok(present);
        }
        let staging_failed = || StorageError::io("staging in", &self.directory);
        let staging = self.staging.create().map_err(staging_failed())?;
        let file = staging.create_file(ARRIVING).map_err(staging_failed())?;
        let mut writer = tokio::fs::File::from_std(file.try_clone().map_err(staging_failed())?);
        let reader = open().await.map_err(|source| StorageError::Receive { image, source })?;
        self.receive(image, max_file_bytes, reader, &mut writer).await?;

        let store = self.clone();
        let publish = move || {
            let path = store.image_path(image);
            let failed = || StorageError::io("storing", &path);
            probe::inspect(&file, Some(ImageFormat::Qcow2), u64::MAX)
                .map_err(|reason| StorageError::Refused { path: path.clone(), reason })?;
            file.set_permissions(Permissions::from_mode(IMAGE_FILE_MODE)).map_err(failed())?;
            match staging.publish(&file, ARRIVING, &path) {
                // Another process was faster with the same content.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                published => published.map_err(failed())?,
            }
            store.find(image)
        };
        let published = blocking(publish).await?;
        published.ok_or(StorageError::ImageMissing { image })
    }

    async fn receive(
        &self,
        image: Sha256Digest,
        limit_bytes: u64,
        mut reader: impl AsyncRead + Unpin,
        writer: &mut tokio::fs::File,
    ) -> Result<(), StorageError> {
        let mut hasher = Sha256::new();
        let mut found_bytes = 0;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let filled = reader.read(&mut buffer).await.map_err(|source| StorageError::Receive { image, source })?;
            if filled == 0 {
                break;
            }
            found_bytes += filled as u64;
            if found_bytes > limit_bytes {
                return Err(StorageError::ArrivedTooLarge { image, found_bytes, limit_bytes });
            }
            hasher.update(&buffer[..filled]);
            writer.write_all(&buffer[..filled]).await.map_err(StorageError::io("receiving into", &self.directory))?;
        }
        writer.flush().await.map_err(StorageError::io("receiving into", &self.directory))?;
        let found = Sha256Digest::finish(hasher);
        if found != image {
            return Err(StorageError::ArrivedDamaged { image, found });
        }
        Ok(())
    }

    /// Removes an image; one that is not there is fine. The caller knows that nothing uses it.
    pub async fn remove(&self, image: Sha256Digest) -> Result<(), StorageError> {
        let store = self.clone();
        let remove = move || {
            let path = store.image_path(image);
            match fs::remove_file(&path).and_then(|()| sync_dir(&store.directory)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(StorageError::io("removing", &path)(error))
                }
                _ => Ok(()),
            }
        };
        blocking(remove).await
    }

    /// Removes what crashed imports and transfers left; returns how many there were.
    pub async fn sweep(&self) -> Result<usize, StorageError> {
        let store = self.clone();
        let sweep = move || store.staging.sweep().map_err(StorageError::io("sweeping", &store.directory));
        blocking(sweep).await
    }

    pub(crate) fn find(&self, image: Sha256Digest) -> Result<Option<StoredImage>, StorageError> {
        let path = self.image_path(image);
        let failed = || StorageError::io("reading", &path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed()(error)),
        };
        let file_size_bytes = file.metadata().map_err(failed())?.len();
        let header =
            probe::qcow2_header(&file).map_err(|reason| StorageError::Refused { path: path.clone(), reason })?;
        Ok(Some(StoredImage { sha256: image, virtual_size_bytes: header.virtual_size_bytes, file_size_bytes, path }))
    }

    fn find_all(&self) -> Result<Vec<StoredImage>, StorageError> {
        let failed = || StorageError::io("listing", &self.directory);
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let digest = name.to_str().and_then(|name| name.strip_suffix(".qcow2")?.parse().ok());
            if let Some(digest) = digest {
                images.extend(self.find(digest)?);
            }
        }
        images.sort_by_key(|image| image.sha256);
        Ok(images)
    }
}

pub(crate) fn hash_file(file: &File) -> io::Result<Sha256Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    loop {
        let filled = file.read_at(&mut buffer, offset)?;
        if filled == 0 {
            return Ok(Sha256Digest::finish(hasher));
        }
        hasher.update(&buffer[..filled]);
        offset += filled as u64;
    }
}
