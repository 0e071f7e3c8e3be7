//! The columns of clusters and of what they have: policies and resource pools.

use gantry_types::{ByteSize, Cluster, Policy, ResourcePool};

use super::{
    Row, Surroundings, age,
    rows::{api_name, or_dash, size_or_dash},
};

impl Row for Cluster {
    const PLURAL_FOR_PEOPLE: &'static str = "clusters";
    const HEADERS: &'static [&'static str] = &["NAME", "HOSTS", "READY", "CPUS", "MEMORY", "TOLERATES", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["CPU-OVERCOMMIT", "MEMORY-OVERCOMMIT", "WEIGHTS"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let status = &self.status;
        vec![
            self.metadata.name.to_string(),
            status.hosts.len().to_string(),
            status.ready_hosts.to_string(),
            status.cpus.to_string(),
            size_or_dash(status.memory),
            self.spec.tolerate_hosts.to_string(),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let weights: Vec<_> = self.spec.weights.iter().map(|(term, weight)| format!("{term}={weight}")).collect();
        vec![self.spec.cpu_overcommit.to_string(), self.spec.memory_overcommit.to_string(), weights.join(",")]
    }
}

impl Row for Policy {
    const PLURAL_FOR_PEOPLE: &'static str = "policies";
    const HEADERS: &'static [&'static str] = &["NAME", "RULE", "CLUSTER", "MODE", "ADVICE", "AGE", "FINDING"];
    const WIDE_HEADERS: &'static [&'static str] = &["UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        vec![
            self.metadata.name.to_string(),
            self.spec.rule().to_owned(),
            self.spec.cluster.to_string(),
            api_name(&self.spec.mode()),
            self.status.recommendations.len().to_string(),
            age(self.metadata.created_at, around.now),
            or_dash(Some(&self.status.finding).filter(|finding| !finding.is_empty())),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.metadata.uuid.to_string()]
    }
}

impl Row for ResourcePool {
    const PLURAL_FOR_PEOPLE: &'static str = "resource pools";
    const HEADERS: &'static [&'static str] =
        &["NAME", "PARENT", "CLUSTER", "VMS", "CPU-USED", "CPU-SHARES", "CPU-RESERVED", "CPU-LIMIT", "MEMORY", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["MEMORY-RESERVED", "MEMORY-LIMIT", "HOSTS", "UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let (spec, status) = (&self.spec, &self.status);
        vec![
            self.metadata.name.to_string(),
            or_dash(spec.parent.as_ref()),
            spec.cluster.to_string(),
            status.vms.to_string(),
            format!("{:.0}%", status.cpu_used_percent),
            spec.cpu.shares.to_string(),
            format!("{}% of {}%", status.cpu_reserved_percent, spec.cpu.reservation_percent),
            or_dash(spec.cpu.limit_percent.map(|limit| format!("{limit}%"))),
            size_or_dash(status.memory_given),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        let (spec, status) = (&self.spec, &self.status);
        let hosts: Vec<_> = status.hosts.iter().map(|part| part.host.to_string()).collect();
        vec![
            format!("{} of {}", status.memory_reserved.approximate(), spec.memory.reservation.approximate()),
            or_dash(spec.memory.limit.map(ByteSize::approximate)),
            hosts.join(","),
            self.metadata.uuid.to_string(),
        ]
    }
}
