//! The line of a load balancer in a list.

use gantry_types::LoadBalancer;

use super::{Surroundings, age, rows::or_dash, table::Row};

impl Row for LoadBalancer {
    const PLURAL_FOR_PEOPLE: &'static str = "load balancers";
    const HEADERS: &'static [&'static str] = &["NAME", "NETWORK", "ADDRESS", "LISTENERS", "HEALTHY", "AGE"];
    const WIDE_HEADERS: &'static [&'static str] = &["MEMBERS", "UUID"];

    fn cells(&self, around: &Surroundings) -> Vec<String> {
        let listeners: Vec<_> = self.spec.listeners.iter().map(ToString::to_string).collect();
        let healthy = self.status.members.iter().filter(|member| member.healthy).count();
        vec![
            self.metadata.name.to_string(),
            self.spec.network.to_string(),
            or_dash(self.status.address),
            listeners.join(", "),
            format!("{healthy}/{}", self.status.members.len()),
            age(self.metadata.created_at, around.now),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.spec.members.to_string(), self.metadata.uuid.to_string()]
    }
}
