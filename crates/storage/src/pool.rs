//! A pool in a directory of a host: cached images and the disks laid over them.
//!
//! ```text
//! <pool>/images/   an [`ImageStore`]
//! <pool>/disks/    see the disk module
//! ```
//!
//! Every call can be repeated: what is there as wanted is fine, what is there otherwise is a
//! conflict. The pool keeps no state in memory but locks, so a restarted agent finds all it left.
//! The directories above the pool must be passable for the VMs' uids.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::AsyncRead;
use uuid::Uuid;

use crate::blocking::blocking;
use crate::digest::Sha256Digest;
use crate::disk::{DiskDirectory, DiskInfo, DiskSpec, DiskUsers, set_users};
use crate::disk_transfer::{STAGED, StagedDisk};
use crate::error::StorageError;
use crate::image_store::{ImageStore, StoredImage};
use crate::lease::Leases;
use crate::staging::{StagingArea, create_passable_dir};

/// QEMU can't allocate the next clusters of a qcow2 in less.
pub(crate) const FULL_BELOW_BYTES: u64 = 1 << 20;

/// Space of the filesystem a pool is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolCapacity {
    pub capacity_bytes: u64,
    /// What an ordinary user may still take.
    pub free_bytes: u64,
}

/// Cheap to clone; clones share their locks.
#[derive(Debug, Clone)]
pub struct DirPool {
    directory: PathBuf,
    images: ImageStore,
    disks: DiskDirectory,
    /// Held while a disk appears or an image goes, so that no image goes from under a new disk.
    overlays: Arc<tokio::sync::Mutex<()>>,
}

impl DirPool {
    /// Opens or creates the pool at `directory`.
    pub fn open(directory: &Path) -> Result<Self, StorageError> {
        let failed = || StorageError::io("opening the pool", directory);
        create_passable_dir(directory).map_err(failed())?;
        let directory = directory.canonicalize().map_err(failed())?;
        let images = ImageStore::open(&directory.join("images"))?;
        let disks = DiskDirectory::open(directory.join("disks"))?;
        Ok(Self { directory, images, disks, overlays: Arc::default() })
    }

    pub fn path(&self) -> &Path {
        &self.directory
    }

    pub fn capacity(&self) -> Result<PoolCapacity, StorageError> {
        let stat = rustix::fs::statvfs(&self.directory)
            .map_err(|error| StorageError::io("measuring", &self.directory)(error.into()))?;
        Ok(PoolCapacity { capacity_bytes: stat.f_blocks * stat.f_frsize, free_bytes: stat.f_bavail * stat.f_frsize })
    }

    /// See [`ImageStore::ensure`].
    pub async fn ensure_image<O, F, R>(
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
        self.images.ensure(image, max_file_bytes, open).await
    }

    pub async fn image(&self, image: Sha256Digest) -> Result<Option<StoredImage>, StorageError> {
        self.images.get(image).await
    }

    pub async fn list_images(&self) -> Result<Vec<StoredImage>, StorageError> {
        self.images.list().await
    }

    /// Removes a cached image unless a disk is laid over it; one that is not there is fine.
    pub async fn remove_image(&self, image: Sha256Digest) -> Result<(), StorageError> {
        let _no_new_overlay = self.overlays.lock().await;
        let user = self.list_disks().await?.into_iter().find(|disk| disk.image == Some(image));
        if let Some(DiskInfo { disk, .. }) = user {
            return Err(StorageError::ImageInUse { image, disk });
        }
        self.images.remove(image).await
    }

    /// Where a disk is, or would be.
    pub fn disk_path(&self, disk: Uuid) -> PathBuf {
        self.disks.disk_path(disk)
    }

    /// Makes a disk. One that is there with the same size and image is fine (its owner is set).
    pub async fn create_disk(&self, spec: &DiskSpec) -> Result<DiskInfo, StorageError> {
        let _image_stays = self.overlays.lock().await;
        self.disks.create(&self.images, spec).await
    }

    /// Changes who may open a disk. QEMU that has it open keeps it.
    pub async fn let_open(&self, disk: Uuid, users: DiskUsers) -> Result<(), StorageError> {
        let path = self.disk_path(disk);
        blocking(move || {
            set_users(&path, users).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StorageError::DiskMissing { disk },
                _ => StorageError::io("giving away disk", &path)(error),
            })
        })
        .await
    }

    /// A place for a disk that arrives from another host.
    pub async fn stage_disk(&self) -> Result<StagedDisk, StorageError> {
        let pool = self.clone();
        blocking(move || {
            let failed = || StorageError::io("receiving a disk in", &pool.directory);
            let staging = pool.staging().create().map_err(failed())?;
            let file = staging.create_file(STAGED).map_err(failed())?;
            Ok(StagedDisk { staging, file })
        })
        .await
    }

    pub(crate) fn leases(&self) -> Leases {
        self.disks.leases()
    }

    /// Makes what has arrived the disk of this id, over the image that it is to have here. With a disk there already, that
    /// one stays and has to be as wanted.
    ///
    /// # Errors
    /// [`StorageError::DiskConflict`] if it is of another size or was not laid over an image as wanted.
    pub async fn adopt_disk(&self, spec: &DiskSpec, arrived: StagedDisk) -> Result<DiskInfo, StorageError> {
        let _image_stays = self.overlays.lock().await;
        self.disks.adopt_arrived(&self.images, spec, arrived).await
    }

    pub(crate) fn staging(&self) -> &StagingArea {
        self.images.staging()
    }

    pub async fn disk(&self, disk: Uuid) -> Result<Option<DiskInfo>, StorageError> {
        let pool = self.clone();
        blocking(move || pool.disks.find(&pool.images, disk)).await
    }

    /// All disks whose header can be read; a damaged one is logged and left out.
    pub async fn list_disks(&self) -> Result<Vec<DiskInfo>, StorageError> {
        let pool = self.clone();
        blocking(move || pool.look_at_disks()).await
    }

    pub(crate) fn look_at_disks(&self) -> Result<Vec<DiskInfo>, StorageError> {
        let mut disks = Vec::new();
        for disk in self.disks.ids()? {
            match self.disks.find(&self.images, disk) {
                Ok(found) => disks.extend(found),
                Err(error @ StorageError::DiskDamaged { .. }) => tracing::warn!(%disk, %error, "disk left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(disks)
    }

    /// Damaged ones included.
    pub(crate) fn disk_count(&self) -> Result<usize, StorageError> {
        Ok(self.disks.ids()?.len())
    }

    /// Deletes a disk; one that is not there is fine.
    pub async fn delete_disk(&self, disk: Uuid) -> Result<(), StorageError> {
        let pool = self.clone();
        blocking(move || pool.disks.remove(disk)).await
    }

    /// Removes what crashed work left behind; returns how many pieces there were.
    pub async fn sweep(&self) -> Result<usize, StorageError> {
        self.images.sweep().await
    }
}
