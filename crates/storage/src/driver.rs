//! What all kinds of pool have in common.

use std::path::Path;

use async_trait::async_trait;
use gantry_types::{DiskLocation, ImageFormat, PoolHealth, PoolSpace};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::disk::{DiskInfo, DiskSpec};
use crate::disk_server::{DiskServer, ServeMode};
use crate::error::StorageError;
use crate::exchange::ExportedDisk;
use crate::probe::InternalSnapshot;

/// A place for volumes. Each call looks first whether the place is still this pool's, so that nothing is ever written
/// below the mount point of a file system that went away. Each can be repeated.
#[async_trait]
pub trait PoolDriver: Send + Sync + std::fmt::Debug {
    /// Makes the place this pool's, the first time.
    async fn open(&self) -> Result<(), StorageError>;
    /// Checks that the place is this pool's, opened by another host, and that VMs can write there. Changes nothing.
    async fn join(&self) -> Result<(), StorageError>;
    /// Takes the pool's mark away. Refused while there are volumes; a place that is not there, or another pool's, is left
    /// alone.
    async fn close(&self) -> Result<(), StorageError>;
    /// How it is. What is wrong with it is an answer, too.
    async fn examine(&self) -> PoolFinding;
    async fn space(&self) -> Result<PoolSpace, StorageError>;

    /// Makes an empty volume for nobody. One that is there with this size is fine.
    async fn create(&self, volume: &DiskSpec) -> Result<DiskInfo, StorageError>;
    async fn find(&self, volume: Uuid) -> Result<Option<DiskInfo>, StorageError>;
    /// Makes it as large, if it is smaller. No QEMU may have it open.
    async fn grow(&self, volume: Uuid, size_bytes: u64) -> Result<DiskInfo, StorageError>;
    /// Lets this user, and no other, open it; nobody without one.
    async fn give(&self, volume: Uuid, owner_uid: Option<u32>) -> Result<DiskInfo, StorageError>;
    /// Lets this user open it, too, besides the one whose it is: a VM that moves has two.
    async fn share(&self, volume: Uuid, uid: u32) -> Result<(), StorageError>;
    /// Lets one run of `qemu-img` under this user write to it, and nobody else. No QEMU may have it open.
    async fn admit(&self, volume: Uuid, uid: u32) -> Result<Admission, StorageError>;
    /// What that run has written is there for good.
    async fn settle(&self, volume: Uuid, admission: Admission) -> Result<(), StorageError>;
    /// Copies its content to a volume of another pool or of this one, which is there and not smaller; without moving data
    /// where the file system can share it (reflink). No QEMU may have either open.
    async fn copy_to(&self, volume: Uuid, other: &dyn PoolDriver, copy: Uuid) -> Result<(), StorageError>;
    /// Writes a verified, standalone qcow2 image to a volume that is there and not smaller. No QEMU may have it open.
    async fn fill(&self, volume: Uuid, image: &Path) -> Result<(), StorageError>;
    /// The volume as a file of another format. No QEMU may have it open for writing.
    async fn export(&self, volume: Uuid, format: ImageFormat) -> Result<ExportedDisk, StorageError>;
    /// Serves it at `socket`, whose directory its owner can write to. No QEMU may have it open.
    async fn serve(&self, volume: Uuid, socket: &Path, mode: ServeMode) -> Result<DiskServer, StorageError>;
    /// The snapshots inside it, oldest first; also while QEMU has it open.
    async fn snapshots(&self, volume: Uuid) -> Result<Vec<InternalSnapshot>, StorageError>;
    /// Keeps its content under this name. One that is there is fine. No QEMU may have it open.
    async fn create_snapshot(&self, volume: Uuid, name: &str) -> Result<(), StorageError>;
    /// Makes its content what it was. No QEMU may have it open.
    ///
    /// # Errors
    /// [`StorageError::SnapshotMissing`]; then it is as it was.
    async fn apply_snapshot(&self, volume: Uuid, name: &str) -> Result<(), StorageError>;
    /// Gives the space back that only this snapshot takes; one that is not there is fine. No QEMU may have it open.
    async fn delete_snapshot(&self, volume: Uuid, name: &str) -> Result<(), StorageError>;
    /// Deletes it; one that is not there is fine. No QEMU may have it open.
    async fn delete(&self, volume: Uuid) -> Result<(), StorageError>;

    /// What QEMU is to open for it.
    fn location(&self, volume: Uuid) -> DiskLocation;
}

/// One run of `qemu-img` may write to a volume.
#[derive(Debug)]
pub struct Admission {
    /// What it opens, below the format.
    pub(crate) node: Value,
    /// Whose the volume is otherwise.
    pub(crate) owner: u32,
    /// By which it is seen that a server has lost nothing of what was written.
    pub(crate) verifier: Option<[u8; 8]>,
}

impl Admission {
    /// The volume, as an argument of `qemu-img`.
    pub(crate) fn target(&self) -> String {
        format!("json:{}", json!({"driver": "qcow2", "backing": null, "file": self.node}))
    }
}

/// How a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFinding {
    pub health: PoolHealth,
    /// What is wrong and what to do, for people.
    pub reason: Option<String>,
    pub space: Option<PoolSpace>,
    pub volumes: Vec<DiskInfo>,
    /// The disks of other hosts' VMs that there are copies of.
    pub copies: Vec<Uuid>,
}

impl PoolFinding {
    /// Nothing is known but that something is wrong.
    pub fn broken(health: PoolHealth, reason: impl Into<String>) -> Self {
        Self { health, reason: Some(reason.into()), space: None, volumes: Vec::new(), copies: Vec::new() }
    }
}
