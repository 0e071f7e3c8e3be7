//! Copies of a VM's disk, for another VM: what the guest sees of it now, or saw when a state was kept inside it, without those
//! states themselves.
//!
//! A copy is made in a staging directory, over the same image, and belongs to the disk's owner until a pool takes it: the
//! VM's own QEMU can fill it while it runs ([`DirPool::stage_copy`]), `qemu-img` while it does not
//! ([`DirPool::fill_copy`]). Dropped, it is gone.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use uuid::Uuid;

use crate::disk::{DiskInfo, fill_empty};
use crate::disk_transfer::{STAGED, StagedDisk};
use crate::error::StorageError;
use crate::exchange::OVERWRITING;
use crate::image_store::StoredImage;
use crate::pool::DirPool;
use crate::qemu_img::WORKER_UID;

impl DirPool {
    /// An empty disk of the same size, over the same image and of the same owner.
    ///
    /// # Errors
    /// [`StorageError::DiskMissing`]; [`StorageError::NoSpace`] if the pool has less left than the disk takes.
    pub async fn stage_copy(&self, disk: Uuid) -> Result<StagedDisk, StorageError> {
        let (found, base) = self.origin(disk).await?;
        let below = base.as_ref().and_then(|image| image.path.to_str());
        let owner = fs::metadata(&found.path).map_err(StorageError::io("copying disk", &found.path))?.uid();
        self.stage_copy_of(&found, below, owner).await
    }

    /// An empty disk on this host like one that may be elsewhere, over the image of this name and for this user.
    pub(crate) async fn stage_copy_of(
        &self,
        disk: &DiskInfo,
        below: Option<&str>,
        uid: u32,
    ) -> Result<StagedDisk, StorageError> {
        let failed = || StorageError::io("copying disk", &disk.path);
        if self.capacity()?.free_bytes < disk.allocated_bytes {
            return Err(failed()(std::io::ErrorKind::StorageFull.into()));
        }
        let staged = self.stage_disk().await?;
        let give = |uid: u32| match rustix::process::geteuid().is_root() {
            true => fchown(&staged.file, Some(uid), Some(uid)),
            false => Ok(()),
        };
        give(WORKER_UID).map_err(failed())?;
        fill_empty(&staged.staging, STAGED, below, disk.size_bytes, &disk.path).await?;
        give(uid).map_err(failed())?;
        staged.file.set_permissions(Permissions::from_mode(0o600)).map_err(failed())?;
        Ok(staged)
    }

    /// Copies the disk into what [`Self::stage_copy`] made of it. No QEMU may have the disk open, unless it is a snapshot inside
    /// the disk that is copied: QEMU writes beside what that holds, and only ever reads the snapshot's own tables.
    pub async fn fill_copy(&self, disk: Uuid, copy: &StagedDisk, snapshot: Option<&str>) -> Result<(), StorageError> {
        let (_, base) = self.origin(disk).await?;
        let image = base.as_ref().map(|image| image.path.as_path());
        let named = image.map(|image| image.to_string_lossy().into_owned());
        let mut before = [&["convert"][..], OVERWRITING].concat();
        let state = snapshot.map(|name| format!("snapshot.name={name}"));
        if let Some(state) = &state {
            before.extend(["-U", "-l", state.as_str()]);
        }
        if let Some(image) = &named {
            // What the disk does not have itself, the copy does not get either.
            before.extend(["-F", "qcow2", "-B", image.as_str()]);
        }
        let target = copy.path();
        self.run_as_owner(disk, image, &before, &[&target.to_string_lossy()], "copying disk").await
    }

    async fn origin(&self, disk: Uuid) -> Result<(DiskInfo, Option<StoredImage>), StorageError> {
        let found = self.disk(disk).await?.ok_or(StorageError::DiskMissing { disk })?;
        let base = match found.image {
            Some(image) => Some(self.image(image).await?.ok_or(StorageError::ImageMissing { image })?),
            None => None,
        };
        Ok((found, base))
    }
}
