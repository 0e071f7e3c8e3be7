//! `snapshot`: a VM's state at one instant, kept inside its disk; and the states kept so that a VM can be recovered.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{ByteSize, Firmware, Name, Problem, Timestamp, resource::resource};

resource!(
    /// The state of a VM's disk and volumes, with `memory` also of its memory and devices, at one instant. Its name is the VM's,
    /// a hyphen, and its own: `web-before-upgrade`. A VM's snapshots form a tree; taking one away moves those that grew
    /// from it to its parent.
    Snapshot, "snapshot", "snapshots", SnapshotSpec, SnapshotStatus
);

/// What is fixed when a snapshot is taken, but for `description`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSpec {
    pub vm: Name,
    /// With memory and devices: going back to it, the guest goes on from that very instant. The guest stands still
    /// while its memory is written.
    #[serde(default)]
    pub memory: bool,
    /// The guest's agent freezes its file systems for the instant. Not together with `memory`, which has what was not
    /// written yet.
    #[serde(default)]
    pub quiesce: bool,
    /// For people, at most 1024 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The VM's schedule took it, and lets it go in its time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scheduled: bool,
}

/// The longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 1024;

impl Snapshot {
    /// The name of the object for a VM's snapshot, if that is not too long for a name.
    pub fn name_of(vm: &str, snapshot: &str) -> Option<Name> {
        format!("{vm}-{snapshot}").parse().ok()
    }

    /// What people call it beside its VM.
    pub fn short_name(&self) -> &str {
        let name = self.metadata.name.as_str();
        name.strip_prefix(self.spec.vm.as_str()).and_then(|rest| rest.strip_prefix('-')).unwrap_or(name)
    }

    /// All that is wrong with it by itself; whether its VM can be snapshotted is the controller's to check.
    pub fn validate(&self) -> Result<(), Problem> {
        let mut problem = Problem::invalid("invalid-snapshot", "the snapshot is not valid");
        let vm = &self.spec.vm;
        if self.short_name().len() == self.metadata.name.as_str().len() {
            problem = problem.field("metadata.name", format!("must be '{vm}-' and the snapshot's own name"));
        }
        if self.spec.memory && self.spec.quiesce {
            problem = problem.field(
                "spec.quiesce",
                "is not needed with memory, which holds what the guest has not written yet: choose one of them",
            );
        }
        if self.spec.description.as_ref().is_some_and(|text| text.len() > DESCRIPTION_BYTES_MAX) {
            problem = problem.field("spec.description", format!("is longer than {DESCRIPTION_BYTES_MAX} bytes"));
        }
        if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotStatus {
    #[serde(default)]
    pub phase: SnapshotPhase,
    /// Why it is in this phase, if that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The snapshot it grew from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<Timestamp>,
    /// The volumes that it is of as well: all that the VM had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub volumes: Vec<Name>,
    /// Space that the memory takes in the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_size: Option<ByteSize>,
    /// How long the guest stood still for it; with `quiesce`, how long its file systems were frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// What the machine was: memory only fits the same one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<SnapshotMachine>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotPhase {
    #[default]
    Creating,
    Ready,
    Deleting,
}

/// What of a VM's spec has to be as it was for its memory to be put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotMachine {
    pub cpus: u32,
    pub memory: ByteSize,
    pub firmware: Firmware,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub watchdog: bool,
}

/// When the state of a VM's disk is kept as *last known good*, so that the VM can be brought back to it. Takes effect
/// when the VM is next started or moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RecoveryPolicy {
    /// How many good states are kept, 0–8; 0 keeps none.
    pub keep: u32,
    /// How long the guest's agent has to have answered without a gap, 10–86400 s.
    pub after_s: u32,
    /// How old the last good state of this run has to be before another one is kept, 60–2592000 s.
    pub every_s: u32,
}

impl Default for RecoveryPolicy {
    fn default() -> Self {
        Self { keep: 2, after_s: 300, every_s: 86_400 }
    }
}

impl RecoveryPolicy {
    pub(crate) fn check(&self, mut problem: Problem) -> Problem {
        for (field, value, range) in [
            ("spec.recovery.keep", self.keep, 0..=8),
            ("spec.recovery.after_s", self.after_s, 10..=86_400),
            ("spec.recovery.every_s", self.every_s, 60..=2_592_000),
        ] {
            if !range.contains(&value) {
                problem =
                    problem.field(field, format!("{value} is out of range, use {} to {}", range.start(), range.end()));
            }
        }
        problem
    }
}

/// A state of a VM's disk that it can be brought back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryPoint {
    pub name: Name,
    pub uuid: Uuid,
    pub kind: RecoveryPointKind,
    pub taken_at: Timestamp,
    /// When it is deleted; a good one is when newer ones take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The volumes that it is of as well: those that were brought back together with the disk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Uuid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryPointKind {
    /// The guest was fine for a while.
    Good,
    /// What going back to another state took away; kept for a day, so that going back can be undone.
    Replaced,
}

impl std::fmt::Display for RecoveryPointKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Replaced => "replaced",
        })
    }
}

impl RecoveryPoint {
    /// Named after its kind and second: `good-20260131t093000z`.
    ///
    /// # Panics
    /// Never: digits, `t` and `z` make a valid name.
    pub fn new(uuid: Uuid, kind: RecoveryPointKind, taken_at: Timestamp, expires_at: Option<Timestamp>) -> Self {
        let second: String =
            taken_at.to_string().to_ascii_lowercase().chars().take(19).filter(char::is_ascii_alphanumeric).collect();
        let name = format!("{kind}-{second}z");
        let name = name.parse().unwrap_or_else(|error| panic!("made an invalid name: {error}"));
        Self { name, uuid, kind, taken_at, expires_at, volumes: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(name: &str, vm: &str) -> Snapshot {
        let spec = SnapshotSpec {
            vm: vm.parse().unwrap(),
            memory: false,
            quiesce: false,
            description: None,
            scheduled: false,
        };
        Snapshot::new(name.parse().unwrap(), spec)
    }

    #[test]
    fn a_snapshot_is_named_after_its_vm() {
        assert_eq!(snapshot("web-before-upgrade", "web").short_name(), "before-upgrade");
        assert!(snapshot("web-before-upgrade", "web").validate().is_ok());
        for (name, vm) in [("web", "web"), ("other", "web"), ("website", "web")] {
            assert_eq!(snapshot(name, vm).validate().unwrap_err().fields[0].field, "metadata.name", "{name}");
        }
        assert_eq!(Snapshot::name_of("web", "a").unwrap().as_str(), "web-a");
        assert_eq!(Snapshot::name_of(&"w".repeat(60), "long"), None);
    }

    #[test]
    fn memory_and_quiescence_exclude_each_other() {
        let mut both = snapshot("web-a", "web");
        (both.spec.memory, both.spec.quiesce) = (true, true);
        assert_eq!(both.validate().unwrap_err().fields[0].field, "spec.quiesce");
    }

    #[test]
    fn points_are_named_after_their_second() {
        let at = Timestamp::from_unix_ms(1_800_000_000_123);
        let point = RecoveryPoint::new(Uuid::nil(), RecoveryPointKind::Good, at, None);
        assert_eq!(point.name.as_str(), "good-20270115t080000z");
        let whole = Timestamp::from_unix_ms(1_800_000_000_000);
        let point = RecoveryPoint::new(Uuid::nil(), RecoveryPointKind::Replaced, whole, None);
        assert_eq!(point.name.as_str(), "replaced-20270115t080000z");
    }
}
