//! Subnets: no two of a network overlap, and none goes while a port has an address of it.

use gantry_types::{NetworkSubnet, NetworkType, Resource};

use super::managed::{Managed, Mistake};
use crate::{
    model::Tables,
    subnets::{leads_out, overlapping, subnet_mistakes},
};

impl Managed for NetworkSubnet {
    const EVENT: &'static str = "Subnet";

    fn mistakes(&self) -> Vec<Mistake> {
        // The network's MTU is looked at with the references.
        subnet_mistakes("spec", &self.spec.subnet(), u32::MAX)
    }

    fn wrong_references(&self, tables: &Tables) -> Vec<Mistake> {
        let Some(network) = tables.networks.get(self.spec.network.as_str()) else {
            let message = format!("network '{}' does not exist; see: gantry get network", self.spec.network);
            return vec![("spec.network".to_owned(), message)];
        };
        let mut wrong = subnet_mistakes("spec", &self.spec.subnet(), network.spec.mtu);
        if let Some(gateway) = self.spec.gateway.filter(|_| network.spec.network_type == NetworkType::Isolated) {
            wrong.push(("spec.gateway".to_owned(), leads_out(gateway)));
        }
        let others = tables.subnets.values().filter(|other| other.metadata.name != self.metadata.name);
        let others = others.filter(|other| other.spec.network == self.spec.network).map(|other| other.spec.subnet());
        let others: Vec<_> = network.spec.subnet.iter().cloned().chain(others).collect();
        if let Some(other) = overlapping(self.spec.cidr, &others) {
            let message = format!(
                "{} overlaps {}, which network '{}' has already; choose a range of its own",
                self.spec.cidr,
                other.cidr,
                network.name()
            );
            wrong.push(("spec.cidr".to_owned(), message));
        }
        for (address, lease) in &network.status.leases {
            if self.spec.gateway == Some(*address) {
                wrong.push(("spec.gateway".to_owned(), format!("{address} is the address of {}", lease.described())));
            }
        }
        wrong
    }

    fn wrong_changes(&self, current: &Self) -> Vec<Mistake> {
        let fixed = [
            ("spec.network", self.spec.network != current.spec.network, current.spec.network.to_string()),
            ("spec.cidr", self.spec.cidr != current.spec.cidr, current.spec.cidr.to_string()),
        ];
        let changed = fixed.into_iter().filter(|(_, changed, _)| *changed);
        changed.map(|(field, _, value)| (field.to_owned(), format!("is fixed: {value}"))).collect()
    }

    fn users(&self, tables: &Tables) -> Vec<String> {
        let network = tables.networks.get(self.spec.network.as_str());
        let leases = network.iter().flat_map(|network| &network.status.leases);
        let mut users: Vec<_> = leases
            .filter(|(address, _)| self.spec.cidr.contains(*address))
            .map(|(_, lease)| lease.described())
            .collect();
        users.sort();
        users.dedup();
        users
    }

    fn with_status_of(mut self, current: &Self) -> Self {
        self.status = current.status.clone();
        self
    }
}
