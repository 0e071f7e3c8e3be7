//! What a host does with backups: writes them into a repository, reads them, and fills disks from them.
//!
//! A repository is a directory or a bucket that the host reaches, described in each call. What takes long is begun by the first call and
//! goes on by itself; whoever wants it asks again, with the same request, until it is done. The end is told once; asked after
//! that, or by a host whose agent has started anew, it is looked whether the effect is there, and begun again if not.

use async_trait::async_trait;
use gantry_types::{ByteSize, LostRange, Name, Problem, RepositoryPlace, Secret, Timestamp, VmSpec};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::storage::VolumeAssignment;

/// The part of a host that keeps backups.
#[async_trait]
pub trait BackupApi: Send + Sync {
    /// Writes the content that all disks of the VM have at one instant. The guest goes on writing meanwhile. One that is
    /// there already is success.
    async fn back_up(&self, vm: Uuid, request: &BackUp) -> Result<Work<BackedUp>, Problem>;
    /// Gives a backup up that is being written; nothing of it is left on the VM's disks. Nothing to give up is success.
    async fn cancel_backup(&self, vm: Uuid, backup: Uuid) -> Result<(), Problem>;
    /// Makes the disk of a VM that does not run what it was in a backup. The disk is empty and as large.
    async fn fill_disk(&self, vm: Uuid, request: &FillDisk) -> Result<Work<()>, Problem>;
    /// Makes a volume that no VM has what a disk was in a backup. It is empty, and not smaller. Given up when the volume is
    /// deleted.
    async fn restore_volume(&self, request: &RestoreVolume) -> Result<Work<()>, Problem>;
    /// Reads all of a backup, and says what of it is lost.
    async fn check_backup(&self, place: &BackupPlace) -> Result<Work<BackupCheck>, Problem>;
    /// Deletes a backup, and what it alone needed. One that is not there is success.
    async fn delete_backup(&self, place: &BackupPlace) -> Result<Work<()>, Problem>;
    /// Looks what a repository is. One is made where nothing is yet.
    async fn open_repository(&self, repository: &RepositoryAccess) -> Result<RepositoryContent, Problem>;
    /// Tells of the backups in a repository, a page at a time. None is made.
    async fn list_backups(&self, request: &ListBackups) -> Result<StoredBackups, Problem>;
    /// Looks a path up in the file systems of a backup's first disk.
    async fn read_backup(&self, request: &ReadBackup) -> Result<BackupContent, Problem>;
}

/// How far something is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Work<T> {
    Working {
        done_bytes: u64,
        /// 0 if unknown.
        total_bytes: u64,
    },
    Done(T),
}

/// A repository as a host gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RepositoryAccess {
    pub place: RepositoryPlace,
    /// Of an encrypted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
}

/// What a repository is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RepositoryContent {
    /// It has this as long as it lasts.
    pub repository: Uuid,
    /// How many backups it has, of any datacenter.
    pub backups: u64,
}

/// A backup in its repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupPlace {
    pub repository: RepositoryAccess,
    pub backup: Uuid,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackUp {
    pub epoch: u64,
    pub place: BackupPlace,
    /// Have the guest's agent freeze its file systems for the instant.
    pub quiesce: bool,
    /// Kept in the backup, for whoever has nothing else.
    pub name: Name,
    pub spec: VmSpec,
    pub label: BackupLabel,
}

/// What people know a backup by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupLabel {
    /// Its own name beside its VM's.
    pub name: String,
    pub taken_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListBackups {
    pub repository: RepositoryAccess,
    /// Only those behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Uuid>,
}

/// A page of the backups in a repository, by their ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredBackups {
    pub backups: Vec<StoredBackup>,
    /// Those that can't be read, and why.
    pub unreadable: Vec<UnreadableBackup>,
    /// There may be more behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Uuid>,
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredBackup {
    pub backup: Uuid,
    /// The VM's.
    pub name: Name,
    pub spec: VmSpec,
    /// One that was made before backups had it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<BackupLabel>,
    pub taken: BackedUp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnreadableBackup {
    pub backup: Uuid,
    pub why: String,
}

/// What a backup took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackedUp {
    /// Sizes of its disks; the VM's own is the first, its volumes follow.
    pub disks: Vec<BackedUpDisk>,
    /// Read from the disks: what they have allocated, or what has changed since the backup before.
    pub read: ByteSize,
    /// New in the repository, compressed.
    pub written: ByteSize,
    /// How long the guest's file systems were frozen; absent without that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackedUpDisk {
    /// `disk` for the VM's own, a volume's name otherwise.
    pub name: String,
    pub size: ByteSize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FillDisk {
    pub epoch: u64,
    pub place: BackupPlace,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreVolume {
    pub volume: VolumeAssignment,
    pub place: BackupPlace,
    /// Its name in the backup.
    pub disk: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupCheck {
    /// Content that is right.
    pub checked: ByteSize,
    pub lost: Vec<LostRange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReadBackup {
    pub place: BackupPlace,
    pub path: String,
    pub offset_bytes: u64,
}

/// What a path in a backup leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum BackupContent {
    File {
        size_bytes: u64,
        /// A part of its content from the offset on, at most 4 MiB, in Base64.
        part: String,
    },
    Directory {
        /// Names, directories with a slash at the end; at most 10,000.
        entries: Vec<String>,
    },
}
