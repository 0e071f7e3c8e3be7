//! `cluster`: hosts that share policies.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Arch, ByteSize, Members, Name, Problem, resource::resource};

resource!(
    /// Hosts that share policies. `main` always exists; a host that names no other belongs to it.
    Cluster, "cluster", "clusters", ClusterSpec, ClusterStatus
);

/// The cluster that always exists.
pub const MAIN_CLUSTER: &str = "main";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSpec {
    /// Virtual processors given out for each logical processor of a host, 1–64.
    pub cpu_overcommit: f64,
    /// Guest memory given out for each byte of a host's, 1–4.
    pub memory_overcommit: f64,
    /// How many hosts may fail, 0–16: as much room as the largest of them have is kept free in the cluster.
    pub tolerate_hosts: u32,
    /// How much each term of placement's score counts, 0–100, instead of what it counts by itself; the terms are in
    /// `gantry vm explain`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self { cpu_overcommit: 16.0, memory_overcommit: 1.0, tolerate_hosts: 0, weights: BTreeMap::new() }
    }
}

impl ClusterSpec {
    /// All that is wrong with it by itself; `terms` are the names that a score has.
    pub fn validate(&self, terms: &[&str]) -> Result<(), Problem> {
        let mut problem = Problem::invalid("invalid-cluster", "the cluster's spec is not valid");
        if !(1.0..=64.0).contains(&self.cpu_overcommit) {
            problem = problem.field("spec.cpu_overcommit", format!("{} is not in 1 to 64", self.cpu_overcommit));
        }
        if !(1.0..=4.0).contains(&self.memory_overcommit) {
            problem = problem.field("spec.memory_overcommit", format!("{} is not in 1 to 4", self.memory_overcommit));
        }
        if self.tolerate_hosts > 16 {
            problem = problem.field("spec.tolerate_hosts", format!("{} is not in 0 to 16", self.tolerate_hosts));
        }
        for (term, weight) in &self.weights {
            let field = format!("spec.weights.{term}");
            if !terms.contains(&term.as_str()) {
                problem = problem.field(field, format!("no such term; there are {}", terms.join(", ")));
            } else if !(0.0..=100.0).contains(weight) {
                problem = problem.field(field, format!("{weight} is not in 0 to 100"));
            }
        }
        if problem.fields.is_empty() { Ok(()) } else { Err(problem) }
    }
}

/// Worked out from the cluster's hosts; written when it changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ClusterStatus {
    pub hosts: Vec<Name>,
    /// How many of them are ready.
    pub ready_hosts: u32,
    /// Of all its hosts, without over-commit.
    pub cpus: u32,
    pub memory: ByteSize,
    /// What every host of an architecture has: a guest that sees no more can move to any of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu_baseline: Vec<CpuBaseline>,
    /// Who votes about shutting a host out: every set that a host may still go by, the newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Members>,
    /// The update that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CpuBaseline {
    pub arch: Arch,
    /// Whether all of its hosts run guests under KVM; false if none does. Mixed ones have no common baseline for
    /// guests that see the host's own processor.
    pub kvm: bool,
    pub mixed_accelerators: bool,
    /// The oldest QEMU.
    pub qemu_version: String,
    pub flags: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_named_field_by_field() {
        assert!(ClusterSpec::default().validate(&[]).is_ok());
        let spec: ClusterSpec = serde_json::from_value(serde_json::json!({
            "cpu_overcommit": 0.5, "memory_overcommit": 9, "tolerate_hosts": 99, "weights": {"luck": 1, "spread": -1}
        }))
        .expect("the right shape");
        let problem = spec.validate(&["spread"]).expect_err("all wrong");
        let fields: Vec<_> = problem.fields.iter().map(|field| field.field.as_str()).collect();
        let expected = [
            "spec.cpu_overcommit",
            "spec.memory_overcommit",
            "spec.tolerate_hosts",
            "spec.weights.luck",
            "spec.weights.spread",
        ];
        assert_eq!(fields, expected);
        let nan = ClusterSpec { cpu_overcommit: f64::NAN, ..ClusterSpec::default() };
        assert!(nan.validate(&[]).is_err());
    }
}
