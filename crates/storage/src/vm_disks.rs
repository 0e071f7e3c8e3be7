//! What every kind of pool can do with VMs' own disks.
//!
//! A VM's own disk lies over an image of the same pool, keeps states inside itself, and has a lease beside it. Whoever touches
//! one does it through [`VmDisks`]: the pool as one host sees it for one VM at an epoch. What that opens is a
//! [`DiskLocation`], never a path. [`DirDisks`] are those in a directory.

use std::path::Path;

use async_trait::async_trait;
use gantry_types::{ByteSize, DiskLocation, PoolSpace};
use uuid::Uuid;

use crate::blocking::blocking;
use crate::digest::Sha256Digest;
use crate::disk::{DiskInfo, DiskSpec, DiskUsers};
use crate::disk_server::{DiskServer, ServeMode};
use crate::disk_transfer::{DiskFile, StagedDisk};
use crate::error::StorageError;
use crate::lease::{Claim, DiskHold, Lease};
use crate::mirrored;
use crate::pool::DirPool;
use crate::probe::InternalSnapshot;

/// For what a disk is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claiming {
    /// For a QEMU that is to be started on it: none has it open.
    Start,
    /// For whatever has it already, or for nothing yet.
    Keep,
    /// For a guest that has arrived, whose QEMU may have opened it for writing: in post-copy it does before the guest runs.
    Arrived,
}

/// A pool's place for VMs' own disks. Every call can be repeated.
#[async_trait]
pub trait VmDisks: Send + Sync + std::fmt::Debug {
    /// Where it is, for people.
    fn place(&self) -> String;
    async fn space(&self) -> Result<PoolSpace, StorageError>;
    /// Where this host has files for a while that belong to work on these disks.
    fn scratch(&self) -> &DirPool;

    /// Where an image is that disks can lie over; `None` if it is not there.
    async fn image_location(&self, image: Sha256Digest) -> Result<Option<DiskLocation>, StorageError>;
    /// Brings an image there from a verified file of this host.
    async fn add_image(&self, image: Sha256Digest, file: &Path) -> Result<(), StorageError>;
    /// Removes an image unless a disk is laid over it; one that is not there is fine.
    async fn remove_image(&self, image: Sha256Digest) -> Result<(), StorageError>;

    /// Whether there is one, damaged or not.
    async fn has_disk(&self, disk: Uuid) -> Result<bool, StorageError>;
    async fn disk(&self, disk: Uuid) -> Result<Option<DiskInfo>, StorageError>;
    /// Makes a disk. One that is there with the same size and image is fine.
    async fn create_disk(&self, spec: &DiskSpec) -> Result<DiskInfo, StorageError>;
    /// Deletes a disk and its lease; one that is not there is fine. No QEMU may have it open.
    async fn delete_disk(&self, disk: Uuid) -> Result<(), StorageError>;
    /// What this host's QEMU is to open for it.
    async fn location(&self, disk: Uuid) -> Result<DiskLocation, StorageError>;

    /// Whose a disk is; `None` if nobody has claimed it.
    async fn lease(&self, disk: Uuid) -> Result<Option<Lease>, StorageError>;
    /// Makes a disk this host's, or finds that it is. A higher epoch takes it from another host.
    ///
    /// # Errors
    /// [`StorageError::DiskElsewhere`] if it is another host's at the same or a higher epoch, or this host's at a higher;
    /// [`StorageError::DiskInUse`] if somebody has it open and can't be shut out. Nothing is changed then.
    async fn claim_disk(&self, disk: Uuid, claiming: Claiming) -> Result<DiskHold, StorageError>;
    /// Lets a QEMU of this host, which runs as this user, open another host's disk besides.
    async fn share_disk(&self, disk: Uuid, uid: u32) -> Result<(), StorageError>;
    /// Nobody has the disk besides the QEMU of this host, which runs as this user.
    async fn unshare_disk(&self, disk: Uuid, uid: u32) -> Result<(), StorageError>;

    /// The snapshots inside a disk, oldest first; also while QEMU has it open.
    async fn disk_snapshots(&self, disk: Uuid) -> Result<Vec<InternalSnapshot>, StorageError>;
    /// Keeps the disk's content under this name. One that is there is fine. No QEMU may have the disk open.
    async fn create_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError>;
    /// Makes the disk's content what it was. No QEMU may have the disk open.
    async fn apply_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError>;
    /// One that is not there is fine. No QEMU may have the disk open.
    async fn delete_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError>;

    /// The disk with all that is in it, to be read. No QEMU may have it open.
    async fn read_disk(&self, disk: Uuid) -> Result<DiskFile, StorageError>;
    /// A place for a disk that arrives.
    async fn stage_disk(&self) -> Result<StagedDisk, StorageError>;
    /// Makes what has arrived the disk of this id, over the image that it is to have here. With a disk there already, that one
    /// stays and has to be as wanted.
    async fn adopt_disk(&self, spec: &DiskSpec, arrived: StagedDisk) -> Result<DiskInfo, StorageError>;
    /// An empty disk like this one, which a QEMU that runs as this user can fill.
    async fn stage_copy(&self, disk: Uuid, uid: u32) -> Result<StagedDisk, StorageError>;
    /// Copies the disk, or a snapshot inside it, into what [`Self::stage_copy`] made of it. No QEMU may have the disk open, unless
    /// it is a snapshot that is copied.
    async fn fill_copy(&self, disk: Uuid, copy: &StagedDisk, snapshot: Option<&str>) -> Result<(), StorageError>;
    /// Serves it at `socket`, whose directory belongs to the VM's user. No QEMU may have it open.
    async fn serve_disk(&self, disk: Uuid, socket: &Path, mode: ServeMode) -> Result<DiskServer, StorageError>;
}

/// Own disks in a directory. What keeps two hosts apart are locks.
#[derive(Debug, Clone)]
pub struct DirDisks {
    pool: DirPool,
    claim: Claim,
    /// They can have a copy on another host.
    mirrored: bool,
}

impl DirDisks {
    pub fn new(pool: DirPool, claim: Claim) -> Self {
        Self { pool, claim, mirrored: false }
    }

    /// Those of a pool in which each has a copy on another host.
    pub fn mirrored(pool: DirPool, claim: Claim) -> Self {
        Self { pool, claim, mirrored: true }
    }

    /// A disk that has just got its place here.
    async fn placed(&self, disk: DiskInfo) -> Result<DiskInfo, StorageError> {
        if self.mirrored {
            let extended = disk.clone();
            blocking(move || mirrored::extend(&extended)).await?;
        }
        Ok(disk)
    }
}

#[async_trait]
impl VmDisks for DirDisks {
    fn place(&self) -> String {
        self.pool.path().display().to_string()
    }

    async fn space(&self) -> Result<PoolSpace, StorageError> {
        let pool = self.pool.clone();
        let found = blocking(move || pool.capacity()).await?;
        Ok(PoolSpace { capacity: ByteSize(found.capacity_bytes), free: ByteSize(found.free_bytes) })
    }

    fn scratch(&self) -> &DirPool {
        &self.pool
    }

    async fn image_location(&self, image: Sha256Digest) -> Result<Option<DiskLocation>, StorageError> {
        Ok(self.pool.image(image).await?.map(|stored| stored.path.into()))
    }

    async fn add_image(&self, image: Sha256Digest, file: &Path) -> Result<(), StorageError> {
        let bytes = tokio::fs::metadata(file).await.map_err(StorageError::io("reading", file))?.len();
        self.pool.ensure_image(image, bytes, || tokio::fs::File::open(file)).await.map(drop)
    }

    async fn remove_image(&self, image: Sha256Digest) -> Result<(), StorageError> {
        self.pool.remove_image(image).await
    }

    async fn has_disk(&self, disk: Uuid) -> Result<bool, StorageError> {
        let path = self.pool.disk_path(disk);
        tokio::fs::try_exists(&path).await.map_err(StorageError::io("looking for disk", &path))
    }

    async fn disk(&self, disk: Uuid) -> Result<Option<DiskInfo>, StorageError> {
        self.pool.disk(disk).await
    }

    async fn create_disk(&self, spec: &DiskSpec) -> Result<DiskInfo, StorageError> {
        if self.mirrored {
            mirrored::name_image(&self.pool, spec).await?;
        }
        self.placed(self.pool.create_disk(spec).await?).await
    }

    async fn delete_disk(&self, disk: Uuid) -> Result<(), StorageError> {
        self.pool.delete_disk(disk).await
    }

    async fn location(&self, disk: Uuid) -> Result<DiskLocation, StorageError> {
        let path = self.pool.disk_path(disk);
        if !self.mirrored {
            return Ok(path.into());
        }
        blocking(move || Ok(mirrored::location(disk, &path))).await
    }

    async fn lease(&self, disk: Uuid) -> Result<Option<Lease>, StorageError> {
        self.pool.lease(disk).await
    }

    async fn claim_disk(&self, disk: Uuid, claiming: Claiming) -> Result<DiskHold, StorageError> {
        match claiming {
            Claiming::Start | Claiming::Keep => self.pool.claim_disk(disk, &self.claim).await,
            Claiming::Arrived => self.pool.claim_arrived_disk(disk, &self.claim).await,
        }
    }

    async fn share_disk(&self, disk: Uuid, uid: u32) -> Result<(), StorageError> {
        self.pool.let_open(disk, DiskUsers::AlsoGroup(uid)).await
    }

    async fn unshare_disk(&self, disk: Uuid, uid: u32) -> Result<(), StorageError> {
        self.pool.let_open(disk, DiskUsers::One(uid)).await
    }

    async fn disk_snapshots(&self, disk: Uuid) -> Result<Vec<InternalSnapshot>, StorageError> {
        self.pool.disk_snapshots(disk).await
    }

    async fn create_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError> {
        self.pool.create_disk_snapshot(disk, name).await
    }

    async fn apply_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError> {
        self.pool.apply_disk_snapshot(disk, name).await
    }

    async fn delete_disk_snapshot(&self, disk: Uuid, name: &str) -> Result<(), StorageError> {
        self.pool.delete_disk_snapshot(disk, name).await
    }

    async fn read_disk(&self, disk: Uuid) -> Result<DiskFile, StorageError> {
        let path = self.pool.disk_path(disk);
        blocking(move || DiskFile::open(&path)).await
    }

    async fn stage_disk(&self) -> Result<StagedDisk, StorageError> {
        self.pool.stage_disk().await
    }

    async fn adopt_disk(&self, spec: &DiskSpec, arrived: StagedDisk) -> Result<DiskInfo, StorageError> {
        self.placed(self.pool.adopt_disk(spec, arrived).await?).await
    }

    async fn stage_copy(&self, disk: Uuid, _: u32) -> Result<StagedDisk, StorageError> {
        self.pool.stage_copy(disk).await
    }

    async fn fill_copy(&self, disk: Uuid, copy: &StagedDisk, snapshot: Option<&str>) -> Result<(), StorageError> {
        self.pool.fill_copy(disk, copy, snapshot).await
    }

    async fn serve_disk(&self, disk: Uuid, socket: &Path, mode: ServeMode) -> Result<DiskServer, StorageError> {
        self.pool.serve_disk(disk, socket, mode).await
    }
}
