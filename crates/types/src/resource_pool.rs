//! `resource-pool`: a part of a cluster's processors and memory that some VMs share; and what a host is told of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{ByteSize, Name, ResourceWishes, policy::main_cluster, resource::resource};

resource!(
    /// A part of a cluster's processors and memory that the VMs that name it share, whatever hosts they are on. Pools can
    /// be inside others.
    ResourcePool, "resource-pool", "resource-pools", ResourcePoolSpec, ResourcePoolStatus
);

/// Pools inside pools, at most.
pub const MAX_POOL_DEPTH: usize = 8;
/// 10,000 processors.
const MOST_PERCENT: u32 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResourcePoolSpec {
    /// Fixed when the pool is made.
    #[serde(default = "main_cluster")]
    pub cluster: Name,
    /// The pool of the same cluster that this one is a part of. Fixed when the pool is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Name>,
    pub cpu: CpuPart,
    pub memory: MemoryPart,
}

impl Default for ResourcePoolSpec {
    fn default() -> Self {
        Self { cluster: main_cluster(), parent: None, cpu: CpuPart::default(), memory: MemoryPart::default() }
    }
}

/// Processor time of a whole pool, in percent of one processor: 150 is one and a half.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CpuPart {
    /// 1–10000: its weight on each host against the pools and VMs beside it when there is too little.
    pub shares: u32,
    /// Promised to it, all hosts together. What its VMs and inner pools reserve comes out of this.
    pub reservation_percent: u32,
    /// Never more than this, all hosts together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_percent: Option<u32>,
}

impl Default for CpuPart {
    fn default() -> Self {
        Self { shares: 100, reservation_percent: 0, limit_percent: None }
    }
}

/// Memory of a whole pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryPart {
    /// 1–10000, as for the processor.
    pub shares: u32,
    /// Promised to it, all hosts together. What its VMs and inner pools reserve comes out of this.
    pub reservation: ByteSize,
    /// Its VMs' memory, running or not, is never more than this together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<ByteSize>,
}

impl Default for MemoryPart {
    fn default() -> Self {
        Self { shares: 100, reservation: ByteSize(0), limit: None }
    }
}

impl ResourcePoolSpec {
    /// All that is wrong with it by itself, field by field.
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        let mut wrong = |field: &str, message: String| mistakes.push((field.to_owned(), message));
        for (field, shares) in [("spec.cpu.shares", self.cpu.shares), ("spec.memory.shares", self.memory.shares)] {
            if !(1..=10_000).contains(&shares) {
                wrong(field, format!("{shares} is out of range, use 1 to 10000"));
            }
        }
        if self.cpu.reservation_percent > MOST_PERCENT {
            let message = format!("{} is out of range, use 0 to {MOST_PERCENT}", self.cpu.reservation_percent);
            wrong("spec.cpu.reservation_percent", message);
        }
        if let Some(limit) = self.cpu.limit_percent {
            if !(1..=MOST_PERCENT).contains(&limit) {
                wrong("spec.cpu.limit_percent", format!("{limit} is out of range, use 1 to {MOST_PERCENT}"));
            } else if limit < self.cpu.reservation_percent {
                wrong("spec.cpu.limit_percent", "is less than the reservation".to_owned());
            }
        }
        if let Some(limit) = self.memory.limit {
            if limit < ByteSize::mib(32) {
                wrong("spec.memory.limit", format!("{limit} is less than the smallest VM has, 32MiB"));
            } else if limit < self.memory.reservation {
                wrong("spec.memory.limit", "is less than the reservation".to_owned());
            }
        }
        mistakes
    }
}

/// Worked out from the VMs that name it; not stored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ResourcePoolStatus {
    /// In it and in the pools inside it.
    pub vms: u32,
    /// Of its reservation, what its VMs and inner pools have reserved.
    pub cpu_reserved_percent: u32,
    pub memory_reserved: ByteSize,
    /// Its VMs' memory, running or not.
    pub memory_given: ByteSize,
    /// What its VMs use now, in percent of one processor.
    pub cpu_used_percent: f64,
    /// How its limit and reservation are divided among the hosts that run VMs of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<PoolOnHost>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolOnHost {
    pub host: Name,
    pub vms: u32,
    pub cpu_used_percent: f64,
    pub cpu_reservation_percent: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit_percent: Option<u32>,
    pub memory_reservation: ByteSize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<ByteSize>,
    /// How the host enforces it, or why it does not (yet).
    pub enforced: String,
}

/// What a host is to divide among its VMs, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HostResources {
    /// Outer pools come before those inside.
    pub pools: Vec<HostPool>,
    /// What the VMs that are here ask for; one that is not named keeps what its assignment says.
    pub vms: BTreeMap<Uuid, ResourceWishes>,
}

/// A pool as one host has it: limits and reservations are this host's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostPool {
    pub name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Name>,
    pub cpu: CpuPart,
    pub memory: MemoryPart,
}

/// What a host made of its [`HostResources`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ResourcesReport {
    /// For people: `cpu and memory by cgroups v1`, or what is not enforced and why.
    pub enforced: String,
    /// Groups that could not be made as was asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl ResourcesReport {
    pub fn told(&self) -> String {
        match self.problems.first() {
            Some(problem) => format!("{}; {problem}", self.enforced),
            None => self.enforced.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_parts_are_all_named() {
        let spec: ResourcePoolSpec = serde_json::from_value(serde_json::json!({
            "cpu": {"shares": 0, "reservation_percent": 200, "limit_percent": 100},
            "memory": {"shares": 10001, "limit": "1MiB"},
        }))
        .expect("the right shape");
        let fields: Vec<_> = spec.mistakes().into_iter().map(|(field, _)| field).collect();
        let expected = ["spec.cpu.shares", "spec.memory.shares", "spec.cpu.limit_percent", "spec.memory.limit"];
        assert_eq!(fields, expected);
        assert_eq!(ResourcePoolSpec::default().mistakes(), []);
    }
}
