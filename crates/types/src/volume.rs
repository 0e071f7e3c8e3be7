//! `volume`: a disk that belongs to itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ByteSize, DiskCopies, Name, Problem, resource::resource};

resource!(
    /// A disk that belongs to itself: it is made in a pool, empty or with some content, attached to a VM and detached from it while that runs,
    /// grown, and outlives its VMs.
    Volume, "volume", "volumes", VolumeSpec, VolumeStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Where it lies. Fixed once it is made.
    pub pool: Name,
    /// 1 MiB – 64 TiB, a multiple of 512 bytes. It can be grown, also while it is in use, and never shrinks.
    pub size: ByteSize,
    /// The volume whose content it begins with; empty if not given. Fixed once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_of: Option<Name>,
    /// The image whose content it begins with; empty if not given. Fixed once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// The disk in a backup whose content it begins with; empty if not given. Fixed once it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackedUpVolume>,
    /// Changed at any time.
    #[serde(default, skip_serializing_if = "VolumeLimits::is_none")]
    pub limits: VolumeLimits,
    /// Takes effect when it is next attached.
    #[serde(default)]
    pub cache: CacheMode,
    /// What the guest discards is given back to the pool. Takes effect when it is next attached.
    #[serde(default = "yes")]
    pub discard: bool,
}

fn yes() -> bool {
    true
}

/// A disk in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackedUpVolume {
    /// The backup's object, for example `web-20270131-021500`.
    pub name: Name,
    /// What the volume was called when the backup was made; `disk` is the VM's own disk.
    pub disk: String,
}

/// What a guest may do with a volume at most, reads and writes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeLimits {
    /// Requests a second, 1–10000000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// Bytes a second, at least 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<ByteSize>,
}

impl VolumeLimits {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What the host's memory does for a volume. What a guest was told is durable is on the pool in either mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CacheMode {
    /// Nothing, where the pool's file system can do without.
    #[default]
    None,
    /// It keeps what was read and gathers what is written until the guest flushes.
    Writeback,
}

/// A VM takes so many beside its own disk.
pub const VOLUMES_PER_VM_MAX: usize = 8;
const IOPS: std::ops::RangeInclusive<u32> = 1..=10_000_000;
const BYTES_PER_S_MIN: ByteSize = ByteSize(64 << 10);

impl Volume {
    /// All that is wrong with it by itself; whether its pool is there and has room is the controller's to check.
    pub fn validate(&self) -> Result<(), Problem> {
        let (spec, name) = (&self.spec, &self.metadata.name);
        let mut problem = Problem::invalid("invalid-volume", format!("volume '{name}' can't be like this"));
        if !(ByteSize::mib(1)..=ByteSize::gib(65_536)).contains(&spec.size) {
            problem = problem.field("spec.size", format!("{} is out of range, use 1MiB to 64TiB", spec.size));
        } else if !spec.size.bytes().is_multiple_of(512) {
            problem = problem.field("spec.size", format!("{} is not a multiple of 512 bytes", spec.size));
        }
        let begins = [
            ("spec.clone_of", spec.clone_of.is_some()),
            ("spec.image", spec.image.is_some()),
            ("spec.backup", spec.backup.is_some()),
        ];
        let mut begins = begins.into_iter().filter(|(_, is_given)| *is_given);
        if let (Some((first, _)), Some((other, _))) = (begins.next(), begins.next()) {
            problem = problem.field(other, format!("can't be given together with {first}: it begins as one of them"));
        }
        if let Some(iops) = spec.limits.iops.filter(|iops| !IOPS.contains(iops)) {
            let message = format!("{iops} is out of range, use {} to {}", IOPS.start(), IOPS.end());
            problem = problem.field("spec.limits.iops", message);
        }
        if let Some(rate) = spec.limits.bytes_per_s.filter(|rate| *rate < BYTES_PER_S_MIN) {
            problem = problem.field("spec.limits.bytes_per_s", format!("{rate} is less than {BYTES_PER_S_MIN}"));
        }
        if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VolumeStatus {
    #[serde(default)]
    pub phase: VolumePhase,
    /// Why it is in this phase, if that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The operation that is at work on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Name>,
    /// The VM that it is attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Name>,
    /// Its place among that VM's volumes, 0–7; the guest finds it under `/dev/disk/by-id/virtio-NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u8>,
    /// Who has its content while no VM has it, the host that it lies on first; absent in pools that are not mirrored, and until it is
    /// made there. While a VM has it, that says it for all its disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<DiskCopies>,
    /// What it takes in its pool, as measured last; not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<ByteSize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumePhase {
    #[default]
    Creating,
    /// There, and attached to no VM.
    Ready,
    Attaching,
    Attached,
    Detaching,
    Deleting,
}

impl std::fmt::Display for VolumePhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Detaching => "detaching",
            Self::Deleting => "deleting",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_limits_are_checked() {
        let sent = |spec: serde_json::Value| -> Volume {
            Volume::new("data".parse().unwrap(), serde_json::from_value(spec).unwrap())
        };
        let good = sent(serde_json::json!({"pool": "fast", "size": "1GiB"}));
        assert!(good.validate().is_ok() && good.spec.discard && good.spec.cache == CacheMode::None);
        for (spec, field) in [
            (serde_json::json!({"pool": "fast", "size": "1KiB"}), "spec.size"),
            (serde_json::json!({"pool": "fast", "size": "65TiB"}), "spec.size"),
            (serde_json::json!({"pool": "fast", "size": 1048577}), "spec.size"),
            (serde_json::json!({"pool": "fast", "size": "1GiB", "limits": {"iops": 0}}), "spec.limits.iops"),
            (
                serde_json::json!({"pool": "fast", "size": "1GiB", "limits": {"bytes_per_s": "1KiB"}}),
                "spec.limits.bytes_per_s",
            ),
        ] {
            assert_eq!(sent(spec).validate().unwrap_err().fields[0].field, field);
        }
    }
}
