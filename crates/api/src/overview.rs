//! Responses that show much at once: the overview, the search, the history of what was measured.

use gantry_types::{HostState, Name, Timestamp, VmPhase};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Query of `GET /v1/vms/{name}/metrics` and `GET /v1/hosts/{name}/metrics`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsQuery {
    /// 5 minutes ago if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Now if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// 1 (5 min are kept), 10 (1 h) or 60 (1 day); the finest that reaches back to `from` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_s: Option<u32>,
}

/// What was measured, in columns of equal length. `null` is a gap: nothing was heard.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MetricsHistory {
    pub step_s: u32,
    pub from: Timestamp,
    pub to: Timestamp,
    /// When each step begins, in seconds since the Unix epoch.
    pub at: Vec<u64>,
    /// VM: of one processor (200 is two). Host: share of all, 0–100.
    pub cpu_percent: Vec<Option<f64>>,
    /// VM: resident memory of its QEMU. Host: memory in use.
    pub memory_bytes: Vec<Option<f64>>,
    /// Host: of all its VMs together, as the three below.
    pub disk_read_bytes_per_s: Vec<Option<f64>>,
    pub disk_write_bytes_per_s: Vec<Option<f64>>,
    pub net_rx_bytes_per_s: Vec<Option<f64>>,
    pub net_tx_bytes_per_s: Vec<Option<f64>>,
}

impl Default for MetricsHistory {
    fn default() -> Self {
        Self {
            step_s: 1,
            from: Timestamp::UNIX_EPOCH,
            to: Timestamp::UNIX_EPOCH,
            at: Vec::new(),
            cpu_percent: Vec::new(),
            memory_bytes: Vec::new(),
            disk_read_bytes_per_s: Vec::new(),
            disk_write_bytes_per_s: Vec::new(),
            net_rx_bytes_per_s: Vec::new(),
            net_tx_bytes_per_s: Vec::new(),
        }
    }
}

/// Query of `GET /v1/overview`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct OverviewQuery {
    /// The label of hosts whose values are the groups; `rack` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Answer with server-sent events: first an `overview`, then `changed` with what is different, at most once a
    /// second.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub watch: bool,
}

/// `GET /v1/overview`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    pub revision: u64,
    pub at: Timestamp,
    pub datacenter: String,
    /// The label that makes the groups.
    pub by: String,
    pub totals: Totals,
    pub groups: Vec<Group>,
    /// At most 50, most serious first.
    pub wrong: Vec<Wrong>,
    /// How many there are.
    pub wrong_total: u64,
}

/// What is different since the event before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OverviewChange {
    pub revision: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<Totals>,
    /// Those that are new or have changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone_groups: Vec<String>,
    /// All of it, if any of it has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<Vec<Wrong>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_total: Option<u64>,
}

/// Hosts with one value of the label; empty name: those without it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    pub name: String,
    #[serde(flatten)]
    pub totals: Totals,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    pub hosts: HostCounts,
    pub vms: VmCounts,
    pub cpu: CpuUse,
    pub memory: MemoryUse,
    pub power: PowerUse,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostCounts {
    pub total: u64,
    /// By state: `ready`, `lost`, …
    #[serde(flatten)]
    pub by_state: std::collections::BTreeMap<String, u64>,
    pub cordoned: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmCounts {
    pub total: u64,
    /// By phase: `running`, `stopped`, …
    #[serde(flatten)]
    pub by_phase: std::collections::BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CpuUse {
    /// Logical processors.
    pub capacity_cores: u64,
    /// Virtual processors of the VMs that are there.
    pub assigned_cores: u64,
    /// In use as last measured.
    pub used_cores: f64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MemoryUse {
    pub capacity_bytes: u64,
    /// Of the VMs that are there.
    pub assigned_bytes: u64,
    pub used_bytes: u64,
}

/// Of hosts that are heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PowerUse {
    /// At full load, as their curves say.
    pub most_watts: f64,
    /// Drawn lately, as the energy account has it.
    pub used_watts: f64,
}

/// Something that somebody should look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Wrong {
    pub severity: WrongSeverity,
    pub object: Named,
    /// In words.
    pub what: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The alarm that fires for it, if that is how it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<Name>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WrongSeverity {
    Critical,
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Named {
    pub kind: String,
    pub name: String,
}

/// Query of `GET /v1/overview/hosts`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct OverviewHostsQuery {
    /// The label that makes the groups; `rack` if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Only hosts of this group; all if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// At most this many hosts, 1–500; 100 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Answer with server-sent events: each host as `host`, then `ready`; then `host` when one has changed and `gone`
    /// when one is not there any more, at most once a second.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub watch: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverviewHosts {
    pub revision: u64,
    pub items: Vec<HostBar>,
    /// Hosts of the group.
    pub total: u64,
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A host as a bar that its VMs fill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostBar {
    pub name: Name,
    pub state: HostState,
    pub cordoned: bool,
    pub labels: gantry_types::Labels,
    pub cpu: CpuUse,
    pub memory: MemoryUse,
    pub power: PowerUse,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    /// At most 200, the largest first.
    pub vms: Vec<VmPart>,
    pub vms_total: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmPart {
    pub name: Name,
    pub phase: VmPhase,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Its part of what its host draws.
    #[serde(default)]
    pub watts: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving_to: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Name>,
}

/// Query of `GET /v1/search`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
pub struct SearchQuery {
    /// A part of a name, label, address or uuid.
    pub q: String,
    /// Only this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// At most this many, 1–100; 20 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SearchResult {
    /// The best first: the name itself, names that begin with it, names, labels, addresses, uuids.
    pub items: Vec<Found>,
    /// There are more than these.
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Found {
    pub kind: String,
    pub name: String,
    pub matched: Matched,
    /// What it was found by, whole.
    pub matched_text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The VM whose it is: of a snapshot, a volume or a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Matched {
    Name,
    Label,
    Address,
    Uuid,
}
