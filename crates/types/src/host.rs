//! `host`: a server that runs VMs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use uuid::Uuid;

use crate::{
    Arch, ByteSize, FailureDomain, HostFence, HostLease, Name, Problem, Timestamp, policy::main_cluster,
    resource::resource,
};

resource!(
    /// A server whose agent has joined this datacenter.
    Host, "host", "hosts", HostSpec, HostStatus
);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// No new VM is placed here while set; running VMs stay.
    #[serde(default)]
    pub cordoned: bool,
    /// The cluster whose policies hold for it.
    #[serde(default = "main_cluster")]
    pub cluster: Name,
    /// How its power is switched; by hand if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<HostPower>,
    /// What fails together with this host.
    #[serde(default, skip_serializing_if = "FailureDomain::is_empty")]
    pub failure_domain: FailureDomain,
    /// Watts that it draws at 0, 10, … 100 % of its processors (SPECpower), eleven of them; absent if nobody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watts: Vec<u32>,
}

impl Default for HostSpec {
    fn default() -> Self {
        Self {
            cordoned: false,
            cluster: main_cluster(),
            power: None,
            failure_domain: FailureDomain::default(),
            watts: Vec::new(),
        }
    }
}

impl Host {
    /// It answers, and nobody has taken it out of service or shut it out.
    pub fn is_in_service(&self) -> bool {
        let status = &self.status;
        status.state == HostState::Ready && status.maintenance == Maintenance::Off && status.fence.is_none()
    }
}

impl HostSpec {
    /// All that is wrong with it by itself, as problem fields.
    pub fn validate(&self) -> Result<(), Problem> {
        let problem = Problem::invalid("invalid-host", "the host's spec is not valid");
        let mut problem = self.failure_domain.validate(problem);
        if !self.watts.is_empty() && self.watts.len() != 11 {
            let told = format!("{} figures, expected 11: at 0, 10, … 100 %", self.watts.len());
            problem = problem.field("spec.watts", told);
        } else if !self.watts.is_sorted() || self.watts.iter().any(|watts| !(1..=100_000).contains(watts)) {
            problem = problem.field("spec.watts", "must be 1 to 100000 each and not fall");
        }
        if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
    }

    /// What it draws at 0, 10, … 100 %, if somebody has said.
    pub fn curve(&self) -> Option<[f64; 11]> {
        let watts: Vec<f64> = self.watts.iter().map(|watts| f64::from(*watts)).collect();
        watts.try_into().ok()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostStatus {
    #[serde(default)]
    pub state: HostState,
    /// `ADDRESS:PORT` of the agent's API.
    #[serde(default)]
    pub agent_address: String,
    /// The address that VXLAN and migrations use.
    #[serde(default)]
    pub underlay_address: String,
    /// SHA-256 of the public keys that the agent's certificates may have: the one in use and, after a renewal, the new
    /// one. A host that shows another key is refused, also with a good certificate.
    #[serde(default)]
    pub agent_keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// The last heartbeat, by the controller's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<HostMetrics>,
    #[serde(default)]
    pub maintenance: Maintenance,
    /// The operation that is at work on it; there is at most one. Operations on its VMs do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Name>,
    /// Set while it is asleep and until it is heard again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asleep: Option<Asleep>,
    /// The last time it came back after its power was off. A policy puts no host to sleep without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake_proof: Option<WakeProof>,
    /// Its right to run protected VMs, as it said last; not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<HostLease>,
    /// Set while it is shut out: protected VMs don't run there, and nothing is placed on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<HostFence>,
    /// All fences up to this generation were lifted.
    #[serde(default)]
    pub fences_lifted: u64,
    /// The set of members of its cluster that it is known to go by.
    #[serde(default)]
    pub members_generation: u64,
}

/// How a host's power is switched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostPower {
    pub driver: PowerDriverKind,
    /// What the driver knows the host by; its name if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlet: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PowerDriverKind {
    /// The power strip of a lab (`gantry lab up`).
    Lab,
}

/// Whether a host is being kept free of VMs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Maintenance {
    #[default]
    Off,
    /// Its VMs are being moved away.
    Draining,
    /// Nothing runs on it, and nothing is placed on it.
    Drained,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Asleep {
    pub since: Timestamp,
    /// The agent that ran before: what is still heard of it is old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_instance: Option<Uuid>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WakeProof {
    pub at: Timestamp,
    /// From power on to the first heartbeat.
    pub took_ms: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// Joined, no heartbeat yet.
    #[default]
    Joining,
    Ready,
    /// No heartbeat for longer than the limit. Its VMs may still run: nothing is started elsewhere without fencing.
    Lost,
    /// Its power is off, on purpose. Nothing runs there.
    Sleeping,
    /// Its power is on again; no heartbeat yet.
    Waking,
}

/// What an agent found on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Inventory {
    pub arch: Arch,
    pub cpu: CpuInfo,
    pub memory: ByteSize,
    pub qemu_version: String,
    /// True only if a guest really booted under KVM on this host.
    pub kvm: bool,
    /// Why `kvm` is false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm_reason: Option<String>,
    /// Guest architectures this host can run.
    pub guest_archs: Vec<Arch>,
    /// Whether QEMU runs with its seccomp sandbox.
    pub sandbox: bool,
    /// Whether post-copy migration is possible, and if not, why.
    pub post_copy: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_copy_reason: Option<String>,
    pub kernel: String,
    pub agent_version: String,
    pub pools: Vec<PoolInfo>,
    /// What networks find there; absent until the agent has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<HostLinks>,
    /// The pools that it is to reach and does not, by their UUIDs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lost_pools: BTreeSet<Uuid>,
}

/// What networks find on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostLinks {
    /// The MTU of the interface that has the underlay address, if one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay_mtu: Option<u32>,
    /// The MTU of each interface that a bridged network can have for itself, by name.
    #[serde(default)]
    pub interfaces: BTreeMap<String, u32>,
    /// The interface that has the underlay address, if one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay: Option<String>,
    /// The host's own interfaces that should have a link and have none. One that is free and down is none of these.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub without_link: BTreeSet<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CpuInfo {
    /// Logical processors.
    pub count: u32,
    pub model: String,
    pub flags: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolInfo {
    pub name: String,
    /// Its directory on the host.
    #[serde(default)]
    pub path: String,
    pub capacity: ByteSize,
    pub free: ByteSize,
}

/// Measured by the agent, sent with each heartbeat; not stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostMetrics {
    /// Share of all processors in use, 0–100.
    pub cpu_percent: f64,
    pub memory_used: ByteSize,
    pub load_1m: f64,
    /// What its processors and their memory have drawn since its agent began (RAPL); absent where nothing counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
}
