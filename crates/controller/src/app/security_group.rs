//! Security groups and address sets: their references, and who uses them.

use std::collections::BTreeSet;

use gantry_types::{AddressSet, Name, Resource, SecurityGroup};

use super::managed::{Managed, Mistake};
use crate::model::Tables;

const MAX_RULES: usize = 500;
const MAX_ADDRESSES: usize = 10_000;

impl Managed for SecurityGroup {
    const EVENT: &'static str = "SecurityGroup";

    fn mistakes(&self) -> Vec<Mistake> {
        let rules = &self.spec.rules;
        let mut mistakes = Vec::new();
        if rules.len() > MAX_RULES {
            mistakes.push(("spec.rules".to_owned(), format!("{} are too many, use at most {MAX_RULES}", rules.len())));
        }
        let mut seen = BTreeSet::new();
        for (index, rule) in rules.iter().enumerate() {
            let at = format!("spec.rules[{index}]");
            mistakes.extend(rule.mistakes().into_iter().map(|(field, message)| (format!("{at}.{field}"), message)));
            if !seen.insert(rule) {
                mistakes.push((at, format!("'{rule}' is there twice")));
            }
        }
        mistakes
    }

    fn wrong_references(&self, tables: &Tables) -> Vec<Mistake> {
        let mut wrong = Vec::new();
        for (index, rule) in self.spec.rules.iter().enumerate() {
            let exists = |name: &Name| tables.security_groups.contains_key(name.as_str());
            if let Some(group) = rule.group.as_ref().filter(|group| !exists(group) && *group != &self.metadata.name) {
                let message = format!("security-group '{group}' does not exist; see: gantry get security-group");
                wrong.push((format!("spec.rules[{index}].group"), message));
            }
            if let Some(set) = rule.address_set.as_ref().filter(|set| !tables.address_sets.contains_key(set.as_str())) {
                let message = format!("address-set '{set}' does not exist; see: gantry get address-set");
                wrong.push((format!("spec.rules[{index}].address_set"), message));
            }
        }
        wrong
    }

    fn users(&self, tables: &Tables) -> Vec<String> {
        let own = &self.metadata.name;
        let ports = tables.ports.values().filter(|port| port.spec.security_groups.contains(own));
        let vms = tables.vms.values().filter(|vm| vm.spec.nics.iter().any(|nic| nic.security_groups.contains(own)));
        let names_it = |other: &&std::sync::Arc<SecurityGroup>| {
            other.metadata.name != *own && other.spec.rules.iter().any(|rule| rule.group.as_ref() == Some(own))
        };
        let groups = tables.security_groups.values().filter(names_it);
        ports
            .map(|port| format!("port '{}'", port.name()))
            .chain(vms.map(|vm| format!("VM '{}'", vm.name())))
            .chain(groups.map(|group| format!("security-group '{}'", group.name())))
            .collect()
    }

    fn with_status_of(mut self, current: &Self) -> Self {
        self.status = current.status.clone();
        self
    }
}

impl Managed for AddressSet {
    const EVENT: &'static str = "AddressSet";

    fn mistakes(&self) -> Vec<Mistake> {
        let count = self.spec.addresses.len();
        let too_many = (count > MAX_ADDRESSES)
            .then(|| ("spec.addresses".to_owned(), format!("{count} are too many, use at most {MAX_ADDRESSES}")));
        too_many.into_iter().collect()
    }

    fn wrong_references(&self, _tables: &Tables) -> Vec<Mistake> {
        Vec::new()
    }

    fn users(&self, tables: &Tables) -> Vec<String> {
        let own = Some(&self.metadata.name);
        let names_it = |group: &&std::sync::Arc<SecurityGroup>| {
            group.spec.rules.iter().any(|rule| rule.address_set.as_ref() == own)
        };
        let groups = tables.security_groups.values().filter(names_it);
        groups.map(|group| format!("security-group '{}'", group.name())).collect()
    }

    fn with_status_of(mut self, current: &Self) -> Self {
        self.status = current.status.clone();
        self
    }
}
