//! The phases of a VM and the moves between them.
//!
//! ```text
//!                    +--------------------------- start ---------------------------+
//!                    v                                                             |
//!  pending ----> starting ----> running <----> paused          stopping ------> stopped
//!                    |            |  ^            |                ^               |
//!                    |            |  +- migrating +-- stop --------+               |
//!                    |            +--- stop, guest powered off --->+--> stopped    |
//!                    +--> failed <---- QEMU died ----+                             |
//!                            |                                                     |
//!   any phase but deleting --+------------------ delete ------------------> deleting (then gone)
//!   starting, running, paused, stopping, migrating <-- host lost / host back --> unknown
//! ```
//! `unknown` means: its host does not answer, so nobody can say whether it runs. Nothing is started elsewhere from
//! there without proof that the host is down.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmPhase {
    /// Wanted, nothing made yet.
    #[default]
    Pending,
    Starting,
    Running,
    Paused,
    Migrating,
    Stopping,
    Stopped,
    /// It should run and does not; `reason` says why.
    Failed,
    Unknown,
    Deleting,
}

impl VmPhase {
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Migrating,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Unknown,
        Self::Deleting,
    ];

    /// Whether a VM may go from `self` to `next`.
    pub fn may_become(self, next: Self) -> bool {
        use VmPhase::*;
        if self == next {
            return true;
        }
        match (self, next) {
            (Deleting, _) => false,
            (_, Deleting) => true,
            (Pending | Stopped | Failed, Starting) => true,
            (Starting, Running | Paused | Failed | Stopped | Unknown) => true,
            (Running, Paused | Migrating | Stopping | Stopped | Failed | Unknown) => true,
            (Paused, Running | Migrating | Stopping | Stopped | Failed | Unknown) => true,
            (Migrating, Running | Paused | Stopped | Failed | Unknown) => true,
            (Stopping, Running | Paused | Stopped | Failed | Unknown) => true,
            (Unknown, Starting | Running | Paused | Migrating | Stopping | Stopped | Failed) => true,
            // A start that was undone before anything was made.
            (Starting, Pending) => true,
            _ => false,
        }
    }

    /// A QEMU process for it may exist.
    pub fn may_execute(self) -> bool {
        !matches!(self, Self::Pending | Self::Stopped)
    }
}

impl std::fmt::Display for VmPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Migrating => "migrating",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Deleting => "deleting",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleting_is_final_and_reachable_from_everywhere() {
        for phase in VmPhase::ALL {
            assert!(phase.may_become(VmPhase::Deleting));
            assert_eq!(VmPhase::Deleting.may_become(phase), phase == VmPhase::Deleting);
        }
    }

    #[test]
    fn nothing_runs_without_starting() {
        for phase in [VmPhase::Pending, VmPhase::Stopped, VmPhase::Failed] {
            assert!(!phase.may_become(VmPhase::Running) && !phase.may_become(VmPhase::Migrating));
        }
    }
}
