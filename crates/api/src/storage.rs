//! What a host does with pools and volumes.
//!
//! As every call of [`crate::AgentApi`], each can be repeated. A call names the pool as a whole, so a host needs to know
//! nothing beforehand; which pools it watches, it is told with the answer to each heartbeat.

use async_trait::async_trait;
use gantry_types::{
    ByteSize, CacheMode, ImageFormat, Name, NfsExport, PoolHealth, PoolSpace, PoolType, Problem, VolumeLimits,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::agent::ImageRef;

/// The part of a host that keeps volumes.
#[async_trait]
pub trait StorageApi: Send + Sync {
    /// Makes the place this pool's, the first time. Refused if it is missing, can't be written to by VMs, or another
    /// pool's.
    async fn open_pool(&self, pool: &PoolAssignment) -> Result<(), Problem>;
    /// Checks that the place is a pool that another host has opened: here, too, its path leads to it, and VMs can write
    /// there. Changes nothing.
    async fn join_pool(&self, pool: &PoolAssignment) -> Result<(), Problem>;
    /// Takes the pool's mark away; refused while there are volumes. One that is not there is success.
    async fn close_pool(&self, pool: &PoolAssignment) -> Result<(), Problem>;

    /// Makes an empty volume. One that is there with this size is success.
    async fn create_volume(&self, volume: &VolumeAssignment) -> Result<(), Problem>;
    /// Makes a volume that no VM has as large as it is to be; it never shrinks.
    async fn grow_volume(&self, volume: &VolumeAssignment) -> Result<(), Problem>;
    /// Writes an image's content to a volume that was made for this and that no VM has.
    async fn fill_volume(&self, request: &FillVolume) -> Result<(), Problem>;
    /// Deletes it. Refused while a VM of this host has it; nothing there is success.
    async fn delete_volume(&self, pool: &PoolAssignment, volume: Uuid) -> Result<(), Problem>;

    /// The VM has the volume as it is described here: attached, as large, with these limits. Also while it runs.
    async fn attach_volume(&self, vm: Uuid, request: &AttachVolume) -> Result<(), Problem>;
    /// The VM has it no more. A running guest has to let it go, which is waited for a little: `volume-in-use` (transient)
    /// if it does not.
    async fn detach_volume(&self, vm: Uuid, epoch: u64, volume: Uuid) -> Result<(), Problem>;

    /// Begins to move a volume that a running VM has to another pool, where there is room for it already, or tells how far
    /// that is; asked again and again until it has moved. A copy that failed is an error once, and begins anew when asked
    /// again.
    async fn move_volume(&self, vm: Uuid, request: &MoveVolume) -> Result<VolumeMoveReport, Problem>;
    /// Gives the move up, unless it has moved already.
    async fn cancel_volume_move(&self, vm: Uuid, request: &MoveVolume) -> Result<VolumeMoveReport, Problem>;
    /// Begins to move a VM's own disk to another pool of this host, also while it runs, or tells how far that is; asked
    /// again and again until it has moved. With QEMU at work snapshots inside the disk stay behind. A copy that failed is
    /// an error once, and begins anew when asked again.
    async fn move_disk(&self, vm: Uuid, request: &MoveDisk) -> Result<VolumeMoveReport, Problem>;
    /// Gives the move up, unless it has moved already: then nothing is left in the other pool.
    async fn cancel_disk_move(&self, vm: Uuid, request: &MoveDisk) -> Result<VolumeMoveReport, Problem>;
    /// Deletes what a disk that has moved left where it was; nothing there is success. Refused where the disk is.
    async fn clear_left_disk(&self, vm: Uuid, request: &LeftDisk) -> Result<(), Problem>;
    /// Copies a volume that no running VM has to another pool, or to another volume, where there is room for it already.
    async fn copy_volume(&self, request: &CopyVolume) -> Result<(), Problem>;
}

/// A pool as a host gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolAssignment {
    pub uuid: Uuid,
    pub name: Name,
    #[serde(rename = "type")]
    pub kind: PoolType,
    /// The directory, for types `dir` and `mirrored`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The export, for type `nfs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub export: Option<NfsExport>,
}

impl PoolAssignment {
    /// Whether what is in it is this host's, with copies elsewhere.
    pub fn is_mirrored(&self) -> bool {
        self.kind == PoolType::Mirrored
    }
}

/// A volume as a host gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeAssignment {
    pub uuid: Uuid,
    pub name: Name,
    pub pool: PoolAssignment,
    pub size: ByteSize,
    #[serde(default)]
    pub limits: VolumeLimits,
    #[serde(default)]
    pub cache: CacheMode,
    pub discard: bool,
    /// Its place among the VM's volumes.
    pub slot: u8,
}

impl VolumeAssignment {
    pub fn place(&self) -> VolumePlace {
        VolumePlace { volume: self.uuid, pool: self.pool.uuid }
    }
}

/// A volume in one of the pools where it may lie while it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumePlace {
    pub volume: Uuid,
    pub pool: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttachVolume {
    pub epoch: u64,
    pub volume: VolumeAssignment,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveVolume {
    pub epoch: u64,
    pub volume: Uuid,
    pub to: PoolAssignment,
}

/// A VM's own disk is to be in another pool of its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveDisk {
    pub epoch: u64,
    /// The host's own place for disks if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<PoolAssignment>,
    /// What the disk lies over: it has to be in the new pool, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,
}

/// Where a VM's own disk was before it moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftDisk {
    pub epoch: u64,
    /// The host's own place for disks if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PoolAssignment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FillVolume {
    pub volume: VolumeAssignment,
    pub image: ImageRef,
}

/// A volume is to be sent as a file of this format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportVolume {
    pub volume: VolumeAssignment,
    pub format: ImageFormat,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumeMoveReport {
    Copying {
        done_bytes: u64,
        total_bytes: u64,
    },
    /// The VM uses it in the new pool.
    Moved,
    /// The VM uses it where it was.
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopyVolume {
    pub from: VolumeAssignment,
    pub to: PoolAssignment,
    /// The volume that it becomes; it stays itself if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<Uuid>,
}

impl CopyVolume {
    /// What the copy's content is of.
    pub fn target(&self) -> Uuid {
        self.clone.unwrap_or(self.from.uuid)
    }
}

/// A pool as a host finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolReport {
    pub pool: Uuid,
    pub health: PoolHealth,
    /// Why it is not healthy, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<PoolSpace>,
    /// Share of the time that its device was busy lately, 0–100; absent where that can't be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_percent: Option<u32>,
    /// What each volume takes there.
    #[serde(default)]
    pub volumes: Vec<VolumeReport>,
    /// In a mirrored pool: the disks of other hosts' VMs that there are copies of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Uuid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumeReport {
    pub volume: Uuid,
    pub allocated: ByteSize,
    /// Read and written by its guest on this host lately.
    #[serde(default)]
    pub io_bytes_per_s: u64,
}
