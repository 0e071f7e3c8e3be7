//! Live migration as operators see it: policy, progress and figures.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a VM may be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MigrationPolicy {
    pub post_copy: PostCopy,
    /// How long the guest may stand still, 1–10000 ms: half of it for the rest of its memory, a quarter for that of its disk.
    pub max_downtime_ms: u32,
    /// Limit for the memory stream; 0 is no limit.
    pub bandwidth_mib_per_s: u32,
}

impl Default for MigrationPolicy {
    fn default() -> Self {
        Self { post_copy: PostCopy::Auto, max_downtime_ms: 300, bandwidth_mib_per_s: 0 }
    }
}

/// When the guest may continue on the destination before all its memory is there. From then until the rest has
/// arrived, it needs both hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PostCopy {
    /// When pre-copy does not converge.
    #[default]
    Auto,
    Never,
    /// After the first pass over memory.
    Always,
}

/// Which way the memory went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrationMode {
    PreCopy,
    PostCopy,
}

/// A running migration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MigrationProgress {
    /// `prepare`, `disk`, `memory`, `switchover`, `post_copy`, `done`.
    pub phase: String,
    pub disk_bytes_done: u64,
    pub disk_bytes_total: u64,
    pub memory_bytes_done: u64,
    pub memory_bytes_remaining: u64,
    pub memory_bytes_total: u64,
    pub rate_bytes_per_s: u64,
    pub dirty_bytes_per_s: u64,
    /// Estimate; absent while nothing converges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
}

/// A finished migration's figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MigrationFigures {
    pub from: String,
    pub to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MigrationMode>,
    /// From the first byte of the disk to the last byte of memory.
    pub total_ms: u64,
    /// As the source's QEMU measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// From the guest's stop to the destination's answer that it committed, by the source's clock.
    /// Absent if the source's agent did not see it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackout_ms: Option<u64>,
    /// The downtime by the guest's own clock: how much further it is behind the destination's clock after the move than
    /// it was behind the source's before. Absent if the guest agent could not be asked on both; as exact as the two hosts'
    /// clocks are in step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_gap_ms: Option<u64>,
    pub disk_bytes: u64,
    pub memory_bytes: u64,
    /// Passes over the guest's memory.
    pub passes: u64,
}
