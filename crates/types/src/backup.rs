//! `backup`: the content of a VM's disks as of one instant, in a repository outside its pools.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ByteSize, Name, Problem, RepositoryReference, Timestamp, VmSpec, resource::resource};

resource!(
    /// The content of all disks of a VM at one instant, in a repository: a directory or a bucket outside its pools that its host reaches.
    /// Its name is the VM's, a hyphen, and its own: `web-20270131-0215`. It outlives its VM.
    Backup, "backup", "backups", BackupSpec, BackupStatus
);

/// What is fixed when a backup is made, but for `description`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupSpec {
    pub vm: Name,
    /// The name of a repository, or a directory that becomes one: an absolute path on the VM's host, made if only its last part
    /// is missing.
    pub repository: String,
    /// The guest's agent freezes its file systems for the instant, if it answers.
    #[serde(default = "yes")]
    pub quiesce: bool,
    /// For people, at most 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The VM's schedule made it, and lets it go in its time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scheduled: bool,
}

fn yes() -> bool {
    true
}

/// The longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1024;

impl Backup {
    /// What people call it beside its VM.
    pub fn short_name(&self) -> &str {
        let name = self.metadata.name.as_str();
        name.strip_prefix(self.spec.vm.as_str()).and_then(|rest| rest.strip_prefix('-')).unwrap_or(name)
    }

    /// How people name it to commands: its VM and its own name.
    pub fn typed(&self) -> String {
        format!("{} {}", self.spec.vm, self.short_name())
    }

    /// The name of the object for a VM's backup, if that is not too long for a name.
    pub fn name_of(vm: &str, backup: &str) -> Option<Name> {
        format!("{vm}-{backup}").parse().ok()
    }

    /// All that is wrong with it by itself; whether its VM can be backed up is the controller's to check.
    pub fn validate(&self) -> Result<(), Problem> {
        let mut problem = Problem::invalid("invalid-backup", "the backup is not valid");
        let vm = &self.spec.vm;
        if self.short_name().len() == self.metadata.name.as_str().len() {
            problem = problem.field("metadata.name", format!("must be '{vm}-' and the backup's own name"));
        }
        if let Err(message) = self.spec.repository.parse::<RepositoryReference>() {
            problem = problem.field("spec.repository", message);
        }
        if self.spec.description.as_ref().is_some_and(|text| text.len() > DESCRIPTION_BYTES_MAX) {
            problem = problem.field("spec.description", format!("is longer than {DESCRIPTION_BYTES_MAX} bytes"));
        }
        if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupStatus {
    #[serde(default)]
    pub phase: BackupPhase,
    /// Why it is in this phase, if that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The operation that is at work on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Name>,
    /// The host that made it, which surely reaches its repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<Timestamp>,
    /// The VM as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<VmSpec>,
    /// The VM was off: the number of its last command then. As long as that is its last one, nothing was written since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at_command: Option<u64>,
    /// The VM's own disk is the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<BackupDisk>,
    /// Read from the disks: what they had allocated, or what had changed since the backup before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<ByteSize>,
    /// What it added to the repository, compressed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<ByteSize>,
    /// How long the guest's file systems were frozen; absent if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<u64>,
    /// When it was last read as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// What was found to be lost then, at most 100 parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRange>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackupDisk {
    /// `disk` for the VM's own, a volume's name otherwise.
    pub name: String,
    pub size: ByteSize,
}

/// A part of a disk that a backup has lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LostRange {
    pub disk: String,
    pub offset_bytes: u64,
    pub length_bytes: u64,
    pub why: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupPhase {
    #[default]
    Creating,
    Ready,
    /// Parts of it are lost.
    Damaged,
    Deleting,
}

impl std::fmt::Display for BackupPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Damaged => "damaged",
            Self::Deleting => "deleting",
        })
    }
}
