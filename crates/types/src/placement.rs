//! What a VM may ask of its place: rules about neighbours and hosts, and a share of the host.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ByteSize, Name, Problem, Selector};

/// Most rules of either sort that one VM may have.
const MAX_RULES: usize = 16;

/// Rules about where a VM goes. A rule holds in both directions: a VM that must be apart from `app=db` keeps later VMs
/// with that label away from itself, too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementRules {
    /// Towards other VMs; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vms: Vec<VmRule>,
    /// Towards hosts; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostRule>,
}

impl PlacementRules {
    pub fn is_empty(&self) -> bool {
        self.vms.is_empty() && self.hosts.is_empty()
    }

    pub(crate) fn validate(&self, mut problem: Problem) -> Problem {
        for (field, count) in [("spec.placement.vms", self.vms.len()), ("spec.placement.hosts", self.hosts.len())] {
            if count > MAX_RULES {
                problem = problem.field(field, format!("{count} are too many, use at most {MAX_RULES}"));
            }
        }
        for (n, selector) in self.vms.iter().map(|rule| &rule.selector).enumerate() {
            if selector.is_empty() {
                problem =
                    problem.field(format!("spec.placement.vms[{n}].selector"), "is empty: write for example app=web");
            }
        }
        for (n, selector) in self.hosts.iter().map(|rule| &rule.selector).enumerate() {
            if selector.is_empty() {
                problem = problem
                    .field(format!("spec.placement.hosts[{n}].selector"), "is empty: write for example disk=ssd");
            }
        }
        problem
    }
}

/// A rule between a VM and all other VMs whose labels match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmRule {
    pub keep: Keep,
    /// Which VMs. The VM itself is never meant, even if it matches.
    #[schema(value_type = String, examples("app=web,tier!=db"))]
    pub selector: Selector,
    /// What they share, or don't: the host, its rack or its site.
    #[serde(default)]
    pub domain: DomainLevel,
    #[serde(default)]
    pub strength: Strength,
}

/// A rule between a VM and the hosts whose labels match. `gantry.io/name` in a selector is the host's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostRule {
    /// `together`: on one of these hosts; `apart`: on none of them.
    pub keep: Keep,
    #[schema(value_type = String, examples("app=web,tier!=db"))]
    pub selector: Selector,
    #[serde(default)]
    pub strength: Strength,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    Together,
    Apart,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strength {
    /// No place is better than a place that breaks it.
    #[default]
    Must,
    /// Counts in the score.
    Should,
}

/// How much fails at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DomainLevel {
    #[default]
    Host,
    Rack,
    Site,
}

impl std::fmt::Display for DomainLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Host => "host",
            Self::Rack => "rack",
            Self::Site => "site",
        })
    }
}

/// Where a host stands. A host that names no rack is a rack of its own; likewise its site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FailureDomain {
    /// Racks of the same name in different sites are different racks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

impl FailureDomain {
    pub fn is_empty(&self) -> bool {
        self.rack.is_none() && self.site.is_none()
    }

    pub(crate) fn validate(&self, mut problem: Problem) -> Problem {
        for (field, text) in [("spec.failure_domain.rack", &self.rack), ("spec.failure_domain.site", &self.site)] {
            let bad = |text: &String| text.is_empty() || text.len() > 63 || text.chars().any(char::is_control);
            if text.as_ref().is_some_and(bad) {
                problem = problem.field(field, "must be 1 to 63 characters without control characters");
            }
        }
        problem
    }
}

/// What a VM is promised, may take at most, and its weight against its neighbours when there is too little.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceWishes {
    /// Promised at all times, in percent of one processor: 150 is one and a half. At most 100 × cpus.
    pub cpu_reservation_percent: u32,
    /// Never more than this, in percent of one processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit_percent: Option<u32>,
    /// 1–10000: a VM with 200 gets twice as much as one with 100 when both want more than there is.
    pub cpu_shares: u32,
    /// Memory that is never lent to others; counts only where memory is over-committed. At most the VM's memory.
    pub memory_reservation: ByteSize,
    /// 1–10000, as for the processor.
    pub memory_shares: u32,
    /// The resource pool that it is in; none if absent. The pool's cluster is then the VM's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_pool: Option<Name>,
}

impl Default for ResourceWishes {
    fn default() -> Self {
        Self {
            cpu_reservation_percent: 0,
            cpu_limit_percent: None,
            cpu_shares: 100,
            memory_reservation: ByteSize(0),
            memory_shares: 100,
            resource_pool: None,
        }
    }
}

impl ResourceWishes {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn validate(&self, cpus: u32, memory: ByteSize, mut problem: Problem) -> Problem {
        let most_percent = cpus.saturating_mul(100);
        if self.cpu_reservation_percent > most_percent {
            let told = format!(
                "{} is more than the VM's processors, use at most {most_percent}",
                self.cpu_reservation_percent
            );
            problem = problem.field("spec.resources.cpu_reservation_percent", told);
        }
        if let Some(limit) = self.cpu_limit_percent {
            if limit == 0 || limit > most_percent {
                problem = problem.field(
                    "spec.resources.cpu_limit_percent",
                    format!("{limit} is out of range, use 1 to {most_percent}"),
                );
            } else if limit < self.cpu_reservation_percent {
                problem = problem.field("spec.resources.cpu_limit_percent", "is less than the reservation");
            }
        }
        for (field, shares) in
            [("spec.resources.cpu_shares", self.cpu_shares), ("spec.resources.memory_shares", self.memory_shares)]
        {
            if !(1..=10_000).contains(&shares) {
                problem = problem.field(field, format!("{shares} is out of range, use 1 to 10000"));
            }
        }
        if self.memory_reservation > memory {
            problem =
                problem.field("spec.resources.memory_reservation", format!("is more than the VM's memory, {memory}"));
        }
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_wishes_are_all_named() {
        let wishes = ResourceWishes {
            cpu_reservation_percent: 300,
            cpu_limit_percent: Some(0),
            cpu_shares: 0,
            memory_reservation: ByteSize::mib(65),
            memory_shares: 10_001,
            resource_pool: None,
        };
        let problem = wishes.validate(2, ByteSize::mib(64), Problem::invalid("invalid-vm", "x"));
        let fields: Vec<_> = problem.fields.iter().map(|field| field.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.resources.cpu_reservation_percent",
                "spec.resources.cpu_limit_percent",
                "spec.resources.cpu_shares",
                "spec.resources.memory_shares",
                "spec.resources.memory_reservation"
            ]
        );
        let fine = ResourceWishes::default().validate(1, ByteSize::mib(64), Problem::invalid("invalid-vm", "x"));
        assert!(fine.fields.is_empty());
    }

    #[test]
    fn a_rule_for_everything_and_too_many_rules_are_refused() {
        let rule = VmRule {
            keep: Keep::Apart,
            selector: Selector::default(),
            domain: DomainLevel::Rack,
            strength: Strength::Must,
        };
        let rules = PlacementRules { vms: vec![rule; 17], hosts: vec![] };
        let problem = rules.validate(Problem::invalid("invalid-vm", "x"));
        assert_eq!(problem.fields.len(), 18);
    }

    #[test]
    fn rules_are_short_to_write() {
        let rules: PlacementRules =
            serde_json::from_str(r#"{"vms": [{"keep": "apart", "selector": "app=web"}]}"#).expect("reads");
        assert_eq!((rules.vms[0].domain, rules.vms[0].strength), (DomainLevel::Host, Strength::Must));
    }
}
