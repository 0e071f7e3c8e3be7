//! What `query-migrate` says, in the units and words of the rest of the system.

use crate::qmp::command::{MigrationInfo, QueryMigrate};
use crate::qmp::{Qmp, QmpError};

/// `MigrationStatus` of QEMU's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationPhase {
    /// No migration so far.
    Idle,
    Setup,
    Active,
    PreSwitchover,
    Device,
    PostcopyActive,
    PostcopyPaused,
    PostcopyRecover,
    Completed,
    Failed,
    Cancelling,
    Cancelled,
    /// One that a newer QEMU added.
    Other(String),
}

impl MigrationPhase {
    fn from_status(status: Option<&str>) -> Self {
        match status {
            None | Some("none") => Self::Idle,
            Some("setup") => Self::Setup,
            Some("active") => Self::Active,
            Some("pre-switchover") => Self::PreSwitchover,
            Some("device") => Self::Device,
            Some("postcopy-active") => Self::PostcopyActive,
            Some("postcopy-paused") => Self::PostcopyPaused,
            Some("postcopy-recover") => Self::PostcopyRecover,
            Some("completed") => Self::Completed,
            Some("failed") => Self::Failed,
            Some("cancelling") => Self::Cancelling,
            Some("cancelled") => Self::Cancelled,
            Some(other) => Self::Other(other.to_owned()),
        }
    }

    /// Nothing more happens in this phase.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Idle | Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// On a source that is migrating: the destination has everything it needs to run.
    pub(super) fn is_handed_over(&self) -> bool {
        matches!(self, Self::Completed | Self::PostcopyActive | Self::PostcopyPaused | Self::PostcopyRecover)
    }
}

impl std::fmt::Display for MigrationPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Setup => "setup",
            Self::Active => "active",
            Self::PreSwitchover => "pre-switchover",
            Self::Device => "device",
            Self::PostcopyActive => "postcopy-active",
            Self::PostcopyPaused => "postcopy-paused",
            Self::PostcopyRecover => "postcopy-recover",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Other(other) => other,
        })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct MigrationProgress {
    pub phase: MigrationPhase,
    pub ram_transferred_bytes: u64,
    pub ram_remaining_bytes: u64,
    pub ram_total_bytes: u64,
    /// Megabits a second on the wire.
    pub rate_mbps: f64,
    /// How fast the guest makes copied memory stale.
    pub dirty_bytes_per_s: u64,
    /// How often the guest's memory was gone over.
    pub passes: u64,
    /// Pages the destination had to ask for during post-copy.
    pub postcopy_requests: u64,
    pub total_time_ms: Option<u64>,
    pub setup_time_ms: Option<u64>,
    /// Measured; known once the guest was handed over.
    pub downtime_ms: Option<u64>,
    /// QEMU's estimate, were it to switch over now.
    pub expected_downtime_ms: Option<u64>,
    /// Why it failed, or what keeps it from being started.
    pub error: Option<String>,
}

impl MigrationProgress {
    pub(super) async fn query(qmp: &Qmp) -> Result<Self, QmpError> {
        Ok(Self::from_info(qmp.execute(QueryMigrate {}).await?))
    }

    fn from_info(info: MigrationInfo) -> Self {
        let ram = info.ram.unwrap_or_default();
        let blocked = info.blocked_reasons.map(|reasons| reasons.join("; "));
        Self {
            phase: MigrationPhase::from_status(info.status.as_deref()),
            ram_transferred_bytes: ram.transferred,
            ram_remaining_bytes: ram.remaining,
            ram_total_bytes: ram.total,
            rate_mbps: ram.mbps,
            dirty_bytes_per_s: ram.dirty_pages_rate.saturating_mul(ram.page_size),
            passes: ram.dirty_sync_count,
            postcopy_requests: ram.postcopy_requests,
            total_time_ms: info.total_time,
            setup_time_ms: info.setup_time,
            downtime_ms: info.downtime,
            expected_downtime_ms: info.expected_downtime,
            error: info.error_desc.or(blocked),
        }
    }

    pub(super) fn reason(&self) -> String {
        self.error.clone().unwrap_or_else(|| "QEMU gave no reason; its log may".to_owned())
    }
}
