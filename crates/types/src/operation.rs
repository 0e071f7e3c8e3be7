//! `operation`: a durable piece of work with steps, progress and, if it fails, an orderly way back.
//!
//! ```text
//!            +-----------------------------------------> succeeded
//!            |  last step done
//! pending -> running ---- permanent error, retries used up, or cancel ----> unwinding -> failed | cancelled
//! ```
//! A controller that dies finds its operations in the store and goes on where they were. Each step can be run again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{MigrationFigures, MigrationPolicy, Name, ObjectRef, Problem, Timestamp, resource::resource};

resource!(Operation, "operation", "operations", OperationSpec, OperationStatus);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationSpec {
    pub action: Action,
    pub target: ObjectRef,
    /// Who asked for it: `token/admin`, `controller`.
    pub requested_by: String,
}

/// What an operation does, with its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    VmStart,
    VmStop {
        /// How long the guest may take to shut down before it is cut off.
        grace_s: u32,
        /// Cut it off at once.
        force: bool,
    },
    VmReboot {
        force: bool,
    },
    VmPause,
    VmResume,
    VmDelete {
        /// Do not wait for a host that is lost.
        #[serde(default)]
        force: bool,
    },
    VmMigrate {
        /// Chosen by placement if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Name>,
        policy: MigrationPolicy,
    },
    /// Moves a stopped VM with its disk.
    VmRelocate {
        /// Chosen by placement if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Name>,
    },
    /// Moves a VM's own disk to another pool of its host, while its guest writes.
    VmDiskMigrate {
        to: Name,
    },
    /// Makes the VM as a copy of another one.
    VmClone {
        source: Name,
        /// Afterwards, start it.
        start: bool,
        /// The source's snapshot that it begins with; what its disk holds at one instant if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<Name>,
    },
    /// Goes back to a state that is kept for recovery, and starts the VM.
    VmRecover {
        /// The newest good one if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Name>,
        /// Instead, the newest that was replaced.
        #[serde(default)]
        undo: bool,
    },
    SnapshotCreate {
        snapshot: Name,
    },
    SnapshotDelete {
        snapshot: Name,
    },
    SnapshotRevert {
        snapshot: Name,
        /// Without its memory: the VM starts from the disk.
        #[serde(default)]
        disk_only: bool,
    },
    /// Writes what the VM's disks are now into a repository.
    BackupCreate {
        backup: Name,
    },
    /// Makes the VM, with its disk as in a backup.
    BackupRestore {
        backup: Name,
        /// Where it is made; chosen by placement if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<Name>,
        /// And starts it.
        start: bool,
    },
    BackupDelete {
        /// Do not ask its repository.
        #[serde(default)]
        force: bool,
    },
    /// Reads all of it.
    BackupVerify,
    ImageImport,
    ImageDelete,
    PoolCreate,
    PoolDelete,
    VolumeCreate,
    VolumeDelete,
    /// Gives a VM the volume, also while it runs.
    VolumeAttach {
        vm: Name,
    },
    VolumeDetach,
    /// Moves it to another pool, while its guest writes.
    VolumeMigrate {
        to: Name,
    },
    /// Makes a volume as large as its spec says, with its limits.
    VolumeUpdate,
    /// Move all VMs away, stopped ones too; nothing is placed there until it is undrained.
    HostDrain,
    /// Empty it and switch it off.
    HostSleep,
    HostWake,
    /// Empty it, switch it off and on, and wait for its agent: proves that it can be woken.
    HostReboot,
    /// Update all hosts, one after the other.
    ClusterUpdate {
        method: HostUpdate,
    },
}

/// What is done to a host that was emptied for its update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostUpdate {
    /// Wait until somebody has started its agent anew, for example after installing a new version.
    AwaitRestart,
    /// Switch it off and on.
    Reboot,
}

impl Action {
    /// Kebab-case verb phrase, as in an operation's name.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::VmStart => "vm-start",
            Self::VmStop { .. } => "vm-stop",
            Self::VmReboot { .. } => "vm-reboot",
            Self::VmPause => "vm-pause",
            Self::VmResume => "vm-resume",
            Self::VmDelete { .. } => "vm-delete",
            Self::VmMigrate { .. } => "vm-migrate",
            Self::VmRelocate { .. } => "vm-relocate",
            Self::VmDiskMigrate { .. } => "vm-disk-migrate",
            Self::VmClone { .. } => "vm-clone",
            Self::VmRecover { .. } => "vm-recover",
            Self::SnapshotCreate { .. } => "snapshot-create",
            Self::SnapshotDelete { .. } => "snapshot-delete",
            Self::SnapshotRevert { .. } => "snapshot-revert",
            Self::BackupCreate { .. } => "backup-create",
            Self::BackupRestore { .. } => "backup-restore",
            Self::BackupDelete { .. } => "backup-delete",
            Self::BackupVerify => "backup-verify",
            Self::ImageImport => "image-import",
            Self::ImageDelete => "image-delete",
            Self::PoolCreate => "pool-create",
            Self::PoolDelete => "pool-delete",
            Self::VolumeCreate => "volume-create",
            Self::VolumeDelete => "volume-delete",
            Self::VolumeAttach { .. } => "volume-attach",
            Self::VolumeDetach => "volume-detach",
            Self::VolumeMigrate { .. } => "volume-migrate",
            Self::VolumeUpdate => "volume-update",
            Self::HostDrain => "host-drain",
            Self::HostSleep => "host-sleep",
            Self::HostWake => "host-wake",
            Self::HostReboot => "host-reboot",
            Self::ClusterUpdate { .. } => "cluster-update",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationStatus {
    #[serde(default)]
    pub phase: OperationPhase,
    #[serde(default)]
    pub steps: Vec<StepStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Somebody asked to stop it; it unwinds at the next point where that is safe.
    #[serde(default)]
    pub cancel_requested: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// What steps noted for later steps and for their own undo.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = std::collections::HashMap<String, Object>)]
    pub memo: BTreeMap<String, Value>,
    /// A finished migration's figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<MigrationFigures>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationPhase {
    #[default]
    Pending,
    Running,
    /// A step failed or a cancel was asked for: undoing what was done, last step first.
    Unwinding,
    Succeeded,
    Failed,
    Cancelled,
}

impl OperationPhase {
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepStatus {
    pub name: String,
    pub state: StepState,
    /// How often it was run, first try included.
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// The last error, also of tries that were repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    Pending,
    Running,
    Done,
    Failed,
    Undone,
}

/// How far a long step is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    pub message: String,
    pub bytes_done: u64,
    /// 0 if unknown.
    pub bytes_total: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bytes_per_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_bytes_per_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
}
